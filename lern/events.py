"""Events in and out: their envelopes, their validation, their bytes.

Incoming events are loosely typed in the wild, so only what a workflow needs is looked at, and that
strictly. What does not fit becomes a `BadEvent`, which names the field and what was expected; the
original bytes are kept by whoever called.
"""

import base64
import json
import math
import re
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from lern.errors import LernError
from lern.outgoing import OutgoingEvent
from lern.phrases import shortened
from lern.rules.ownership import batch_named_by

# One namespace for every id that is derived: run ids and message ids are the same for the same cause.
NAMESPACE: Final = uuid.UUID("6f1c1d56-1b7e-5a3e-9a55-7c1f0e4c7a01")
MAX_BYTES: Final = 1_048_576
MAX_DEPTH: Final = 32
MAX_ID: Final = 256
# Milliseconds: the end of the year 2099. A time beyond it is a mistake (microseconds, say), not a time.
MAX_TIME: Final = 4_102_444_800_000

# Characters of a reason and of a field's name that are kept: either may hold what the event holds, of any length.
MAX_REASON: Final = 300
MAX_FIELD: Final = 100

# Control characters (C0, DEL, C1) and halves of surrogate pairs.
_FORBIDDEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Json = dict[str, Any]


class BadEvent(LernError):
    """An event that can never become a run. `field` is the path within the event, empty for the whole."""

    def __init__(self, code: str, field: str, reason: str) -> None:
        """Keep the stable code, the field's path and a sentence that says what was expected, both cut where long."""
        field, reason = _cut(field, MAX_FIELD), _cut(reason, MAX_REASON)
        super().__init__(f"{field}: {reason}" if field else reason)
        self.code, self.field, self.reason = code, field, reason


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


@dataclass(frozen=True)
class Merge:
    """What the merge needs of its event (`edata.fromAccountId`, `edata.toAccountId`, `ets`, `mid`)."""

    source: str
    target: str
    mid: str | None
    time: int | None


def parse(value: bytes | None) -> Json:
    """Read an event's bytes: strict JSON in UTF-8, an object, no key twice, no NaN, bounded size and depth.

    Raises `BadEvent`.
    """
    if value is None:
        raise BadEvent("EMPTY", "", "the message has no value; a JSON object was expected")
    if len(value) > MAX_BYTES:
        raise BadEvent("TOO_LARGE", "", f"{len(value)} bytes; at most {MAX_BYTES} were expected")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadEvent("NOT_UTF8", "", f"byte {error.start} is not UTF-8") from error
    event = strict(text)
    if not isinstance(event, dict):
        raise BadEvent("WRONG_TYPE", "", f"{_kind(event)} where a JSON object was expected")
    if _depth(event) > MAX_DEPTH:
        raise BadEvent("TOO_DEEP", "", f"nested deeper than {MAX_DEPTH} levels")
    return event


def strict(text: str) -> Any:
    """Read JSON in which no key stands twice and no number is NaN. Raises `BadEvent`."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except BadEvent:
        raise
    except RecursionError as error:
        raise BadEvent("TOO_DEEP", "", f"nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise BadEvent("INVALID_JSON", "", f"not JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    """Build an object, refusing a key that comes twice: which of the two is meant cannot be known."""
    result: Json = {}
    for key, value in pairs:
        if key in result:
            raise BadEvent("DUPLICATE_KEY", shortened(key), "this key stands twice in one JSON object")
        result[key] = value
    return result


def _no_constant(name: str) -> Any:
    raise BadEvent("INVALID_JSON", "", f"{name} is not JSON")


def _finite(text: str) -> float:
    """Give a number of any size, at most the greatest that there is: infinity could not be written as JSON again."""
    return max(-sys.float_info.max, min(float(text), sys.float_info.max))


def _depth(value: Any) -> int:
    """Measure nesting level by level, without recursion."""
    depth, level = 0, [value]
    while level := [
        child
        for item in level
        if isinstance(item, dict | list)
        for child in (item.values() if isinstance(item, dict) else item)
    ]:
        depth += 1
    return depth


def _kind(value: Any) -> str:
    """Name a JSON value's type in JSON's words."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def edata(event: Json) -> Json:
    """Give the event's `edata`, which every workflow needs. Raises `BadEvent`.

    An event that is nothing but the two users of an ownership transfer is its own.
    """
    if "edata" not in event and {"fromUserId", "toUserId"} <= event.keys():
        return event
    return _object(event, "edata", "edata")


def _object(parent: Json, name: str, path: str) -> Json:
    value = parent.get(name)
    if value is None:
        raise BadEvent("MISSING_FIELD", path, "missing; an object was expected")
    if not isinstance(value, dict):
        raise BadEvent("WRONG_TYPE", path, f"{_kind(value)} where an object was expected")
    return value


def identifier(parent: Json, name: str, path: str) -> str:
    """Give an id: non-blank text of at most 256 characters without control characters. Raises `BadEvent`."""
    value = parent.get(name)
    if value is None:
        raise BadEvent("MISSING_FIELD", path, "missing; an id was expected")
    if not isinstance(value, str):
        raise BadEvent("WRONG_TYPE", path, f"{_kind(value)} where an id (text) was expected")
    check_identifier(value, path)
    return value


def check_identifier(value: str, path: str) -> None:
    """Hold an id against what every store can keep. Raises `BadEvent`.

    PostgreSQL refuses NUL, Cassandra keys over 64 KiB, and a lone surrogate has no UTF-8 form.
    """
    if not value.strip():
        raise BadEvent("BLANK_FIELD", path, "blank; an id was expected")
    if len(value) > MAX_ID:
        raise BadEvent("TOO_LONG", path, f"{len(value)} characters; an id of at most {MAX_ID} was expected")
    if _FORBIDDEN.search(value):
        raise BadEvent("BAD_CHARACTER", path, "holds a control character; an id without any was expected")


def action(event: Json) -> str | None:
    """Give `edata.action`, or None where the event has none. Raises `BadEvent` for anything but text."""
    value = edata(event).get("action")
    if value is not None and not isinstance(value, str):
        raise BadEvent("WRONG_TYPE", "edata.action", f"{_kind(value)} where a text was expected")
    return value


def mid(event: Json) -> str | None:
    """Give the message id if it is usable as one; it only serves to tell events apart."""
    value = event.get("mid")
    return value if isinstance(value, str) and value.strip() else None


def time_of(event: Json) -> int | None:
    """Give `ets` in milliseconds, from a number or its text; None where it is missing or makes no sense.

    A merge does not depend on it, so a strange `ets` is no reason to refuse a learner's merge.
    """
    value = event.get("ets")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if math.isfinite(number) and 0 < number <= MAX_TIME else None


def merge(event: Json) -> Merge:
    """Read an account-merge event (topic `{env}.lms.user.account.merge`). Raises `BadEvent`."""
    data = edata(event)
    source = identifier(data, "fromAccountId", "edata.fromAccountId")
    target = identifier(data, "toAccountId", "edata.toAccountId")
    if source == target:
        raise BadEvent("SAME_ACCOUNT", "edata.toAccountId", "equals edata.fromAccountId; another account was expected")
    return Merge(source, target, mid(event), time_of(event))


@dataclass(frozen=True)
class Ownership:
    """What a transfer needs of its event. `batch`: only this one. `mid`: one for all events of a request."""

    source: str
    target: str
    organisation: str | None
    batch: str | None
    mid: str | None
    time: int | None


def ownership(event: Json) -> Ownership:
    """Read an ownership-transfer event (topic `{env}.user.ownership.transfer`). Raises `BadEvent`.

    The users stand in profiles, as userorg-service writes them (`fromUserProfile.userId`), or flat, as the
    documents have them (`fromUserId`).
    """
    data = edata(event)
    path = "edata." if data is not event else ""
    source = _profile(data, "fromUserId", "fromUserProfile", path)
    target = _profile(data, "toUserId", "toUserProfile", path)
    if source == target:
        raise BadEvent("SAME_ACCOUNT", f"{path}toUserProfile.userId", "equals the source; another user was expected")
    organisation = None
    if data.get("organisationId") is not None:
        organisation = identifier(data, "organisationId", f"{path}organisationId")
    asset = data.get("assetInformation")
    batch = batch_named_by(asset) if isinstance(asset, dict) else None
    if batch is not None:
        check_identifier(batch, f"{path}assetInformation.identifier")
    return Ownership(source, target, organisation, batch, _one_for_request(event, batch), time_of(event))


def _profile(data: Json, flat: str, nested: str, path: str) -> str:
    if data.get(nested) is None and data.get(flat) is not None:
        return identifier(data, flat, f"{path}{flat}")
    return identifier(_object(data, nested, f"{path}{nested}"), "userId", f"{path}{nested}.userId")


def _one_for_request(event: Json, batch: str | None) -> str | None:
    """Give a message id that is the same for all events of a request that ask for the same.

    userorg-service sends one event for each object of the user, and each of them means all batches.
    """
    context = event.get("context")
    given = context.get("cdata") if isinstance(context, dict) else None
    for thing in given if isinstance(given, list) else [given]:
        if isinstance(thing, dict) and str(thing.get("type")).lower() == "request":
            request = thing.get("id")
            if isinstance(request, str) and request.strip():
                return json.dumps(["request", request, batch])
    return mid(event)


def run_id(workflow: str, value: bytes, message_id: str | None, users: Sequence[str]) -> str:
    """Derive a run's id, so that the same event twice is one run.

    Message ids repeat in the wild, hence the workflow and the users beside it.
    """
    cause = message_id or sha256(value).hexdigest()
    return str(uuid.uuid5(NAMESPACE, json.dumps([workflow, cause, *users])))


# --- outgoing -------------------------------------------------------------------------------------

PDATA: Final[Mapping[str, str]] = {"ver": "1.0", "id": "org.sunbird.platform"}
MERGE_ACTION: Final = "merge-user-courses-and-cert"
OWNERSHIP_ACTION: Final = "ownership-transfer"


def to_bytes(event: Json) -> bytes:
    """Give an event's bytes: compact JSON in UTF-8. With a lone surrogate, which has no such form, all is escaped."""
    try:
        return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(event, separators=(",", ":")).encode("ascii")


def _job_request(message_id: str, time: int, actor: str, thing: tuple[str, str], data: Json) -> Json:
    """Build the BE_JOB_REQUEST envelope that Sunbird's jobs exchange."""
    return {
        "eid": "BE_JOB_REQUEST",
        "ets": time,
        "mid": message_id,
        "actor": {"id": actor, "type": "System"},
        "context": {"pdata": dict(PDATA)},
        "object": {"id": thing[0], "type": thing[1]},
        "edata": data,
    }


def _derived(run: str, *parts: str) -> uuid.UUID:
    return uuid.uuid5(NAMESPACE, json.dumps([run, *parts]))


def merge_request(source: str, target: str, time: int, key: str) -> Json:
    """Build the account-merge event as userorg-service sends it; `key` makes a repeat the same event."""
    message_id = f"{time}.{uuid.uuid5(NAMESPACE, key)}"
    # Ids that cannot be are refused where they are read, with the reason.
    thing = sha256(f"{source}_{target}".encode("utf-8", "surrogatepass")).hexdigest()
    return {
        **_job_request(
            message_id,
            time,
            "Merge User Courses and Cert",
            (thing, "MergeUserCoursesAndCert"),
            {"action": MERGE_ACTION, "fromAccountId": source, "toAccountId": target, "iteration": 1},
        ),
        "ver": "3.0",
    }


def ownership_request(source: str, target: str, organisation: str | None, time: int, key: str) -> Json:
    """Build the ownership-transfer event as userorg-service sends it; `key` makes a repeat the same event."""
    data: Json = {
        "action": OWNERSHIP_ACTION,
        "organisationId": organisation,
        "context": "Ownership Transfer",
        "fromUserProfile": {"userId": source},
        "toUserProfile": {"userId": target},
        "assetInformation": {},
        "iteration": 1,
    }
    message_id = f"LP.{time}.{uuid.uuid5(NAMESPACE, key)}"
    return _job_request(message_id, time, OWNERSHIP_ACTION, (source, "user"), data)


def enrolment_sync(topic: str, run: str, time: int, user: str, course: str, batch: str) -> OutgoingEvent:
    """Ask for an enrolment's progress to be computed again (action `batch-enrolment-sync`, no key)."""
    message_id = f"LP.{time}.{_derived(run, 'sync', user, course, batch)}"
    data = {
        "action": "batch-enrolment-sync",
        "iteration": 1,
        "batchId": batch,
        "userId": user,
        "courseId": course,
        "reset": ["completionPercentage", "status", "progress"],
    }
    event = _job_request(message_id, time, "Course Batch Updater", (f"{batch}_{user}", "CourseBatchEnrolment"), data)
    return OutgoingEvent(message_id, topic, None, to_bytes(event))


def issue_certificate(topic: str, run: str, time: int, user: str, course: str, batch: str) -> OutgoingEvent:
    """Ask for a certificate of a newly completed enrolment (action `issue-certificate`)."""
    message_id = f"LP.{time}.{_derived(run, 'certificate', user, course, batch)}"
    data = {
        "userIds": [user],
        "action": "issue-certificate",
        "iteration": 1,
        "trigger": "auto-issue",
        "batchId": batch,
        "reIssue": False,
        "courseId": course,
    }
    thing = (f"{batch}_{course}", "CourseCertificateGeneration")
    event = _job_request(message_id, time, "Course Certificate Generator", thing, data)
    return OutgoingEvent(message_id, topic, None, to_bytes(event))


def enrolment_completed(topic: str, run: str, time: int, user: str, course: str, batch: str) -> OutgoingEvent:
    """Tell the telemetry that an enrolment was completed (AUDIT, type `enrol-complete`)."""
    message_id = f"LP.AUDIT.{_derived(run, 'audit', user, course, batch)}"
    event = {
        "actor": {"id": user, "type": "User"},
        "eid": "AUDIT",
        "edata": {"props": ["status", "completedon"], "type": "enrol-complete"},
        "ver": "3.0",
        "syncts": time,
        "ets": time,
        "context": {
            "channel": "in.sunbird",
            "env": "Course",
            "sid": str(_derived(run, "sid")),
            "did": str(_derived(run, "did")),
            "pdata": {"ver": "3.0", "id": "org.sunbird.learning.platform", "pid": "course-progress-updater"},
            "cdata": [{"type": "CourseBatch", "id": batch}, {"type": "Course", "id": course}],
        },
        "mid": message_id,
        "object": {"id": user, "type": "User", "rollup": {"l1": course}},
        "tags": [],
    }
    return OutgoingEvent(message_id, topic, None, to_bytes(event))


# Kafka's default limit of a message is 1 MiB with its envelope. Beyond this the original stays in the ledger alone.
MAX_OUTGOING: Final = 1_000_000
# What is told of a failed run, and of a dead letter, beside the event itself.
_OF_FAILURE: Final = frozenset({"jobName", "runId", "failInfo"})
_OF_LETTER: Final = frozenset({"mid", "jobName", "failInfo", "topic", "partition", "offset", "bytes", "sha256"})
_LETTER: Final = "LP.DEAD."


def failed(topic: str, run: str, generation: int, original: bytes, code: str, reason: str) -> OutgoingEvent:
    """Announce a run that failed for good: the original event with `failInfo` beside its fields."""
    more = {"jobName": "lern", "runId": run, "failInfo": {"errorCode": code, "error": _cut(reason, MAX_REASON)}}
    value = to_bytes({**parse(original), **more})
    if len(value) > MAX_OUTGOING:
        value = to_bytes(more)
    return OutgoingEvent(f"{run}.failed.{generation}", topic, None, value)


def without_original(event: OutgoingEvent) -> OutgoingEvent | None:
    """Give an announcement without the event that it is about, for a topic that does not take it whole.

    None where there is nothing to leave out.
    """
    kept = _OF_LETTER if event.mid.startswith(_LETTER) else _OF_FAILURE
    whole = json.loads(event.value)
    if not whole.keys() > kept:
        return None
    return replace(event, value=to_bytes({name: value for name, value in whole.items() if name in kept}))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message lay in Kafka; None where it came from elsewhere."""

    topic: str
    partition: int | None
    offset: int | None


def dead_letter(topic: str, place: Place, key: bytes | None, value: bytes, failure: BadEvent) -> OutgoingEvent:
    """Announce an event that can never become a run: where it lay, what is wrong with it, and its bytes.

    Key and value are texts (`key`, `event`) if they are UTF-8, otherwise base64 (`keyBase64`, `eventBase64`). They
    are left out if the announcement would be too large for Kafka: the ledger has them.
    """
    digest = sha256(value).hexdigest()
    announcement: Json = {
        "mid": f"{_LETTER}{_derived(place.topic, 'dead', digest)}",
        "jobName": "lern",
        "failInfo": {"errorCode": failure.code, "error": failure.reason, "field": failure.field},
        "topic": place.topic,
        "partition": place.partition,
        "offset": place.offset,
        "bytes": len(value),
        "sha256": digest,
    }
    out = to_bytes({**announcement, **_as_text("key", key), **_as_text("event", value)})
    if len(out) > MAX_OUTGOING:
        out = to_bytes(announcement)
    return OutgoingEvent(announcement["mid"], topic, None, out)


def _as_text(name: str, content: bytes | None) -> Json:
    """Put bytes into JSON so that they can be had back."""
    if content is None:
        return {name: None}
    try:
        return {name: content.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}Base64": base64.b64encode(content).decode("ascii")}
