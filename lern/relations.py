"""The relations of collections in Redis: which contents are below them and which collections above a content.

Keys, in the database that Sunbird's relation cache has (10), each a SET without expiry; Sunbird's
relation-cache-updater writes them when a course is published:

    <course>:<collection>:leafnodes       contents below the collection (the course itself is its own collection)
    <course>:<collection>:optionalnodes   those of them that completion does not need
    <course>:<resource>:ancestors         all collections above the content, the course included

Nothing is known of a collection whose key is missing: Redis has no empty sets, so "none" and "unknown" look alike, and
both read as an empty set.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis

from lern.errors import BadRow, Transient, Unreachable

LEAFNODES: Final = "leafnodes"
OPTIONALNODES: Final = "optionalnodes"
ANCESTORS: Final = "ancestors"
KINDS: Final = frozenset({LEAFNODES, OPTIONALNODES, ANCESTORS})
AT_ONCE: Final = 500


class Relations:
    """Reads and writes relations. Every method raises `Unreachable`, or `BadRow` where a key is no SET."""

    def __init__(self, client: redis.Redis) -> None:
        """Use a client of the database that holds the relations."""
        self._client = client

    def leafnodes(self, course: str, collection: str) -> frozenset[str]:
        """Give the contents below a collection of a course (the course itself: name it twice)."""
        return self.many_leafnodes(course, [collection])[collection]

    def optionalnodes(self, course: str, collection: str) -> frozenset[str]:
        """Give those contents below a collection that its completion does not need."""
        return self.many_optionalnodes(course, [collection])[collection]

    def ancestors(self, course: str, resource: str) -> frozenset[str]:
        """Give the collections above a content, the course included."""
        return self.ancestors_of(course, [resource])[resource]

    def many_leafnodes(self, course: str, collections: Collection[str]) -> dict[str, frozenset[str]]:
        """Give the leaf nodes of each collection, every one of them named, in one round trip per 500."""
        return self._many(course, collections, LEAFNODES)

    def many_optionalnodes(self, course: str, collections: Collection[str]) -> dict[str, frozenset[str]]:
        """Give the optional nodes of each collection, as `many_leafnodes`."""
        return self._many(course, collections, OPTIONALNODES)

    def ancestors_of(self, course: str, contents: Collection[str]) -> dict[str, frozenset[str]]:
        """Give the ancestors of each content, as `many_leafnodes`."""
        return self._many(course, contents, ANCESTORS)

    def above(self, course: str, contents: Collection[str]) -> tuple[frozenset[str], bool]:
        """Give the collections above any of some contents, and whether those of every content are known.

        Two commands for 500 contents: to ask for each content's own takes longer than to merge its row.
        """
        found: set[str] = set()
        known = 0
        distinct = list(dict.fromkeys(contents))
        for start in range(0, len(distinct), AT_ONCE):
            keys = [relation_key(course, name, ANCESTORS) for name in distinct[start : start + AT_ONCE]]
            with _translated(f"{course}:*:{ANCESTORS}"):
                reading = self._client.pipeline(transaction=False)
                reading.sunion(keys)
                reading.exists(*keys)
                members, exist = reading.execute()
            found.update(map(_text, members))
            known += exist
        return frozenset(found), known == len(distinct)

    def write(self, key: str, members: Collection[str]) -> None:
        """Replace a key's members at once; no members: the key goes. Raises `ValueError` for a key of no kind."""
        if not is_relation(key):
            raise ValueError(f"not a relation's key (course:collection:kind): {key!r}")
        with _translated(key):
            replacement = self._client.pipeline(transaction=True)
            replacement.delete(key)
            if members:
                replacement.sadd(key, *members)
            replacement.execute()

    def dump(self) -> Iterator[tuple[str, list[str]]]:
        """Give every relation's key and sorted members, in no order; what changes meanwhile may or may not be seen."""
        seen: set[str] = set()  # a SCAN may give a key twice
        with _translated("*"):
            for raw in self._client.scan_iter(count=1000, _type="set"):
                key = _text(raw)
                if is_relation(key) and key not in seen:
                    seen.add(key)
                    members: Any = self._client.smembers(key)
                    yield key, sorted(_text(member) for member in members)

    def _many(self, course: str, names: Collection[str], kind: str) -> dict[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        distinct = list(dict.fromkeys(names))
        for start in range(0, len(distinct), AT_ONCE):
            some = distinct[start : start + AT_ONCE]
            with _translated(f"{course}:*:{kind}"):
                reading = self._client.pipeline(transaction=False)
                for name in some:
                    reading.smembers(relation_key(course, name, kind))
                answers = reading.execute()
            for name, members in zip(some, answers, strict=True):
                found[name] = frozenset(_text(member) for member in members)
        return found


def relation_key(course: str, name: str, kind: str) -> str:
    """Give the key of a collection's or content's relation."""
    return f"{course}:{name}:{kind}"


def is_relation(key: str) -> bool:
    """Say whether a key is one of a relation."""
    course, _, rest = key.partition(":")
    name, _, kind = rest.rpartition(":")
    return bool(course and name) and kind in KINDS


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """Turn Redis' errors into ours."""
    try:
        yield
    except redis.ResponseError as error:
        if "WRONGTYPE" in str(error):
            raise BadRow("relations", key, "members", "the key holds something else than a SET") from error
        raise Transient(f"relations {key}: {error}") from error
    except redis.RedisError as error:
        raise Unreachable("relations", str(error)) from error


def _text(value: bytes | str) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else value
