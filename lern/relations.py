"""The relations of collections in Redis: which contents are below them and which collections above a content.

Keys, in the database that Sunbird's relation cache has (10), each a SET without expiry; Sunbird's
relation-cache-updater writes them when a course is published:

    <course>:<collection>:leafnodes       contents below the collection (the course itself is its own collection)
    <course>:<collection>:optionalnodes   those of them that completion does not need
    <course>:<resource>:ancestors         all collections above the content, the course included

Nothing is known of a collection whose key is missing: Redis has no empty sets, so "none" and "unknown" look alike, and
both read as an empty set.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import redis

from lern.errors import BadRow, Transient, Unreachable
from lern.rules.progress import Relations as Nodes

LEAFNODES: Final = "leafnodes"
OPTIONALNODES: Final = "optionalnodes"
ANCESTORS: Final = "ancestors"
KINDS: Final = frozenset({LEAFNODES, OPTIONALNODES, ANCESTORS})
AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Above:
    """The collections above some contents of a course. `known`: whether those of every content are known."""

    collections: frozenset[str] = frozenset()
    known: bool = True


class Relations:
    """Reads and writes relations. Every method raises `Unreachable`, or `BadRow` where a key is no SET."""

    def __init__(self, client: redis.Redis) -> None:
        """Use a client of the database that holds the relations."""
        self._client = client

    def leafnodes(self, course: str, collection: str) -> frozenset[str]:
        """Give the contents below a collection of a course (the course itself: name it twice)."""
        return self.nodes([(course, collection)])[0].leafnodes

    def nodes(self, collections: Sequence[tuple[str, str]]) -> list[Nodes]:
        """Give the nodes below each (course, collection), in one round trip per 500."""
        found: list[Nodes] = []
        for start in range(0, len(collections), AT_ONCE):
            reading, keys = self._client.pipeline(transaction=False), []
            for course, name in collections[start : start + AT_ONCE]:
                for kind in (LEAFNODES, OPTIONALNODES):
                    keys.append(relation_key(course, name, kind))
                    reading.smembers(keys[-1])
            answers = (frozenset(map(_text, members)) for members in _answers(reading, keys))
            found.extend(Nodes(leaves, optional) for leaves, optional in zip(answers, answers, strict=True))
        return found

    def ancestors_of(self, course: str, contents: Collection[str]) -> dict[str, frozenset[str]]:
        """Give the ancestors of each content, every one of them named, in one round trip per 500."""
        found: dict[str, frozenset[str]] = {}
        distinct = list(dict.fromkeys(contents))
        for start in range(0, len(distinct), AT_ONCE):
            some = distinct[start : start + AT_ONCE]
            reading, keys = self._client.pipeline(transaction=False), []
            for name in some:
                keys.append(relation_key(course, name, ANCESTORS))
                reading.smembers(keys[-1])
            for name, members in zip(some, _answers(reading, keys), strict=True):
                found[name] = frozenset(_text(member) for member in members)
        return found

    def above(self, contents: Mapping[str, Collection[str]]) -> dict[str, Above]:
        """Give the collections above any of a course's contents, for each course.

        Two commands for 500 contents of a course: to ask for each content's own takes longer than to merge its row.
        Of small courses several are one round trip.
        """
        found = {course: Above() for course in contents}
        some: list[tuple[str, list[str]]] = []
        for course, names in contents.items():
            distinct = list(dict.fromkeys(names))
            for start in range(0, len(distinct), AT_ONCE):
                some.append((course, distinct[start : start + AT_ONCE]))
                if sum(len(of_course) for _, of_course in some) >= AT_ONCE:
                    self._add_above(found, some)
                    some = []
        self._add_above(found, some)
        return found

    def _add_above(self, found: dict[str, Above], some: Sequence[tuple[str, Sequence[str]]]) -> None:
        if not some:
            return
        reading, named = self._client.pipeline(transaction=False), []
        for course, names in some:
            keys = [relation_key(course, name, ANCESTORS) for name in names]
            reading.sunion(keys)
            reading.exists(*keys)
            named += [relation_key(course, "*", ANCESTORS)] * 2
        answers = iter(_answers(reading, named))
        for (course, names), members, exist in zip(some, answers, answers, strict=True):
            above = found[course]
            found[course] = Above(above.collections.union(map(_text, members)), above.known and exist == len(names))

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


def relation_key(course: str, name: str, kind: str) -> str:
    """Give the key of a collection's or content's relation."""
    return f"{course}:{name}:{kind}"


def is_relation(key: str) -> bool:
    """Say whether a key is one of a relation."""
    course, _, rest = key.partition(":")
    name, _, kind = rest.rpartition(":")
    return bool(course and name) and kind in KINDS


def _answers(reading: Any, keys: Sequence[str]) -> list[Any]:
    """Send what a pipeline holds and give the answers; an error is raised with the key that it is about."""
    with _translated("*"):
        answers: list[Any] = reading.execute(raise_on_error=False)
    for key, answer in zip(keys, answers, strict=True):
        if isinstance(answer, Exception):
            with _translated(key):
                raise answer
    return answers


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
