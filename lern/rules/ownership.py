"""Who owns a course batch: its creator and its mentors, and what becomes of them when a user hands over.

Ids are compared exactly: they are case-sensitive in the database, though the search index ignores case.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, Literal

from lern.store.tables import Row

Role = Literal["creator", "mentor"]
Fields = dict[str, Any]

# What a transfer may write, in a row of course_batch. Everything else of a batch is not its business.
COLUMNS: Final = ("createdby", "mentors", "updated_date")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def roles(row: Row, user: str) -> tuple[Role, ...]:
    """Give what a user is in a batch: creator, mentor, both or nothing."""
    creator: tuple[Role, ...] = ("creator",) if row.get("createdby") == user else ()
    return (*creator, "mentor") if user in row.get("mentors", ()) else creator


def heirs(mentors: Sequence[str], source: str, target: str) -> list[str]:
    """Put the target in the place of the source; then nobody is named twice. Without the source nothing changes."""
    if source not in mentors:
        return list(mentors)
    return list(dict.fromkeys(target if mentor == source else mentor for mentor in mentors))


def transferred(row: Row, source: str, target: str, time: int) -> Row:
    """Give the batch as it is when `target` has taken the source's place. Doing it again changes nothing.

    `time` (ms): that of the event; a batch that was changed later than that keeps its own time.
    """
    found = roles(row, source)
    if not found:
        return row
    result = {**row, "updated_date": max(row.get("updated_date", time), time)}
    if "creator" in found:
        result["createdby"] = target
    if "mentor" in found:
        result["mentors"] = heirs(row["mentors"], source, target)
    return result


def follows(document: Mapping[str, Any], row: Row, zone: tzinfo) -> Fields:
    """Give the fields that a batch's document has to change to agree with the batch; empty if it agrees.

    `zone`: Sunbird's time zone, in which its documents write times.
    """
    if (document.get("createdBy"), mentors_of(document)) == (row.get("createdby"), row.get("mentors", [])):
        return {}
    fields: Fields = {"createdBy": row.get("createdby"), "mentors": row.get("mentors", [])}
    written = document_time(row["updated_date"], zone) if "updated_date" in row else None
    return fields if written is None else {**fields, "updatedDate": written}


def mentors_of(document: Mapping[str, Any]) -> list[str]:
    """Give a document's mentors. Elasticsearch takes one value for a list of one."""
    value = document.get("mentors")
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def document_roles(document: Mapping[str, Any], user: str) -> tuple[Role, ...]:
    """Give what a user is in a batch by its document."""
    return roles({"createdby": document.get("createdBy"), "mentors": mentors_of(document)}, user)


def document_time(time: int, zone: tzinfo) -> str | None:
    """Write a time (ms) as batch documents have it: `yyyy-MM-dd HH:mm:ss:SSSZ`; None for one that no calendar has."""
    try:
        moment = (_EPOCH + timedelta(milliseconds=time)).astimezone(zone)
    except OverflowError:
        return None
    return f"{moment:%Y-%m-%d %H:%M:%S}:{moment.microsecond // 1000:03d}{moment:%z}"


# How events name the kind of a batch, once case and punctuation are gone.
_BATCH_TYPES: Final = frozenset({"coursebatch", "batch"})


def batch_named_by(asset: Mapping[str, Any]) -> str | None:
    """Give the id of the course batch that an event's `assetInformation` names; None if it names anything else."""
    kind = "".join(character for character in str(asset.get("objectType", "")).lower() if character.isalnum())
    identifier = asset.get("identifier")
    return identifier if kind in _BATCH_TYPES and isinstance(identifier, str) and identifier.strip() else None


def wanted(row: Row, source: str, statuses: Collection[int], batch: str | None) -> bool:
    """Whether a batch is to change hands: the source's, of one of the statuses, and the one that is named, if any."""
    return is_named(row, batch) and row.get("status") in statuses and bool(roles(row, source))


def is_named(row: Row, batch: str | None) -> bool:
    """Whether a transfer is about a batch: about all of them, unless it names one."""
    return batch is None or row.get("batchid") == batch
