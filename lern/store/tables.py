"""The learner tables as data: columns, kinds, keys (contracts/cassandra.md 1.1-1.7, schema.cql).

A row is a plain dict of the columns that have a value: a column that is null, and a collection
that is empty, is absent (Cassandra does not tell an empty collection from a null one). Values:

    TEXT str · INT int · FLOAT, DOUBLE float · BOOLEAN bool · TIMESTAMP int, milliseconds since 1970 UTC
    TEXTS list[str] · RECORDS list[dict[str, str]] · QUESTIONS list[dict] (fields of the UDT `question`)
    INTS, DOUBLES, TIMESTAMPS dict[str, value] · RECORD_MAP dict[str, dict[str, str]]

Timestamps stay numbers because Cassandra's range is wider than datetime's: a broken row must be
readable to be merged or refused by name.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

Row = dict[str, Any]
Key = tuple[str, ...]


class Kind(enum.Enum):
    """The kinds of column that the learner tables use, named by what they hold."""

    TEXT = "text"
    INT = "int"
    FLOAT = "float"
    DOUBLE = "double"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    TEXTS = "list<text>"
    INTS = "map<text, int>"
    DOUBLES = "map<text, double>"
    TIMESTAMPS = "map<text, timestamp>"
    RECORDS = "list<frozen<map<text, text>>>"
    RECORD_MAP = "map<text, frozen<map<text, text>>>"
    QUESTIONS = "list<frozen<question>>"

    @property
    def is_map(self) -> bool:
        """Whether the column is a map whose keys are written one by one."""
        return self in MAPS


MAPS: Final = frozenset({Kind.INTS, Kind.DOUBLES, Kind.TIMESTAMPS, Kind.RECORD_MAP})


def picking(places: Sequence[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Give a function that picks values out of a row by columns, or out of a key by indices: always a tuple."""
    if len(places) == 1:
        [place] = places
        return lambda values: (values[place],)
    return itemgetter(*places) if places else lambda _: ()


@dataclass(frozen=True, eq=False)
class Table:
    """One learner table.

    `key` is the primary key in order. `slice` names the columns that a query must fix to read one
    user's rows, in every key layout that is in use (contracts/cassandra.md 1.9); the rest of the key
    (`order`) is the order in which a slice is read. `user` is the key column that names the learner.
    """

    name: str
    columns: Mapping[str, Kind]
    key: tuple[str, ...]
    slice: tuple[str, ...]
    user: str | None
    order: tuple[str, ...] = field(init=False)
    values: tuple[str, ...] = field(init=False)
    key_of: Callable[[Row], Key] = field(init=False, repr=False)
    """Gives the primary key of a row."""
    order_of: Callable[[Row], Key] = field(init=False, repr=False)
    """Gives the place of a row within its slice."""
    slice_of: Callable[[Row], Key] = field(init=False, repr=False)
    """Gives the slice that a row stands in."""

    def __post_init__(self) -> None:
        """Derive the clustering order and the columns that are not part of the key."""
        object.__setattr__(self, "order", tuple(c for c in self.key if c not in self.slice))
        object.__setattr__(self, "values", tuple(c for c in self.columns if c not in self.key))
        object.__setattr__(self, "key_of", picking(self.key))
        object.__setattr__(self, "order_of", picking(self.order))
        object.__setattr__(self, "slice_of", picking(self.slice))

    def with_user(self, row: Row, user: str) -> Row:
        """Give the same row as it would stand in another learner's account."""
        if self.user is None:
            raise ValueError(f"{self.name} has no user column")
        return {**row, self.user: user}


def _columns(text: str) -> dict[str, Kind]:
    """Read `name kind` pairs separated by semicolons, as in schema.cql."""
    pairs = (part.split(None, 1) for part in text.split(";") if part.strip())
    return {name: Kind(" ".join(kind.split())) for name, kind in pairs}


USER_CONTENT_CONSUMPTION: Final = Table(
    name="user_content_consumption",
    columns=_columns("""
        userid text; courseid text; batchid text; contentid text;
        status int; progress int; viewcount int; completedcount int; completionpercentage float;
        progressdetails text; datetime timestamp;
        last_access_time timestamp; last_completed_time timestamp; last_updated_time timestamp;
        lastaccesstime text; lastcompletedtime text; lastupdatedtime text"""),
    key=("userid", "courseid", "batchid", "contentid"),
    slice=("userid",),
    user="userid",
)

USER_ENROLMENTS: Final = Table(
    name="user_enrolments",
    columns=_columns("""
        userid text; courseid text; batchid text;
        active boolean; addedby text; status int; progress int; completionpercentage int; certstatus int;
        contentstatus map<text, int>; completedon timestamp; datetime timestamp;
        enrolled_date timestamp; enrolleddate text; lastcontentaccesstime timestamp;
        lastreadcontentid text; lastreadcontentstatus int;
        certificates list<frozen<map<text, text>>>; issued_certificates list<frozen<map<text, text>>>"""),
    key=("userid", "courseid", "batchid"),
    slice=("userid",),
    user="userid",
)

USER_ACTIVITY_AGG: Final = Table(
    name="user_activity_agg",
    columns=_columns("""
        activity_type text; activity_id text; user_id text; context_id text;
        agg map<text, int>; aggregates map<text, double>; agg_details list<text>;
        agg_last_updated map<text, timestamp>"""),
    key=("activity_type", "activity_id", "user_id", "context_id"),
    slice=("activity_type", "activity_id", "user_id"),
    user="user_id",
)

ASSESSMENT_AGGREGATOR: Final = Table(
    name="assessment_aggregator",
    columns=_columns("""
        user_id text; course_id text; batch_id text; content_id text; attempt_id text;
        created_on timestamp; last_attempted_on timestamp; updated_on timestamp;
        total_score double; total_max_score double; grand_total text;
        question list<frozen<question>>"""),
    key=("user_id", "course_id", "batch_id", "content_id", "attempt_id"),
    slice=("user_id", "course_id", "batch_id"),
    user="user_id",
)

COURSE_BATCH: Final = Table(
    name="course_batch",
    columns=_columns("""
        courseid text; batchid text;
        name text; description text; createdby text; createdfor list<text>; mentors list<text>;
        enrollmenttype text; status int; tandc boolean;
        cert_templates map<text, frozen<map<text, text>>>;
        created_date timestamp; start_date timestamp; end_date timestamp;
        enrollment_enddate timestamp; updated_date timestamp;
        createddate text; startdate text; enddate text; enrollmentenddate text; updateddate text"""),
    key=("courseid", "batchid"),
    slice=("courseid",),
    user=None,
)

CONTENT_CONSUMPTION: Final = Table(
    name="content_consumption",
    columns=_columns("""
        userid text; contentid text; batchid text; courseid text;
        status int; progress int; viewcount int; completedcount int; contentversion text;
        datetime timestamp; grade text; result text; score text;
        lastaccesstime text; lastcompletedtime text; lastupdatedtime text"""),
    key=("userid", "contentid", "batchid", "courseid"),
    slice=("userid",),
    user="userid",
)

USER_COURSES: Final = Table(
    name="user_courses",
    columns=_columns("""
        batchid text; userid text; courseid text;
        active boolean; addedby text; status int; progress int; completionpercentage int;
        contentstatus map<text, int>; completedon timestamp; datetime timestamp;
        delta text; enrolleddate text; grade text; lastreadcontentid text; lastreadcontentstatus int;
        certificates list<frozen<map<text, text>>>"""),
    key=("batchid", "userid"),
    slice=("batchid", "userid"),
    user="userid",
)

TABLES: Final[Mapping[str, Table]] = {
    table.name: table
    for table in (
        USER_CONTENT_CONSUMPTION,
        USER_ENROLMENTS,
        USER_ACTIVITY_AGG,
        ASSESSMENT_AGGREGATOR,
        COURSE_BATCH,
        CONTENT_CONSUMPTION,
        USER_COURSES,
    )
}

# The fields of the user-defined type `question` (contracts/cassandra.md 1.4). `duration` is a Decimal.
QUESTION: Final[Mapping[str, str]] = {
    "id": "text",
    "assess_ts": "timestamp",
    "max_score": "double",
    "score": "double",
    "type": "text",
    "title": "text",
    "resvalues": "list<frozen<map<text, text>>>",
    "params": "list<frozen<map<text, text>>>",
    "description": "text",
    "duration": "decimal",
}
