"""Learner rows for Hypothesis: any row a store could hold, made from the columns' kinds.

Values are what the tables hold in the wild, and beside that what they should not: negative counts, NaN,
times that cannot be parsed, blank ids, broken JSON. Text never holds what no store takes (NUL, surrogates).
"""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, Final

from hypothesis import strategies as st

from lern.store.tables import Key, Kind, Row, Table

Values = st.SearchStrategy[Any]

INTS: Final = st.integers(-(2**31), 2**31 - 1)
TIMES: Final = st.integers(-(2**40), 2**45)
TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
IDS: Final = st.sampled_from(["do_1", "do_2", "do_X", "do_x"])

TEXT_TIMES: Final = st.one_of(
    st.builds(
        "{:%Y-%m-%d %H:%M:%S}:{:03d}{}".format,
        st.datetimes(),
        st.integers(0, 999),
        st.sampled_from(["+0000", "+0530", "-0800"]),
    ),
    st.sampled_from(["", "yesterday", "2022-02-30 05:54:43:853+0000", "2022-02-21T05:54:43.853Z"]),
)

CERTIFICATES: Final = st.fixed_dictionaries(
    {"name": TEXTS},
    optional={"token": st.sampled_from(["", "t1", "t2"]), "identifier": st.sampled_from([" ", "i1", "i2", "i3"])},
)

ATTEMPT_DETAILS: Final = st.one_of(
    st.builds(
        lambda content, attempt, score: json.dumps({"content_id": content, "attempt_id": attempt, "score": score}),
        IDS,
        st.sampled_from(["a1", "a2", "a3", "a4"]),
        st.integers(0, 10),
    ),
    st.sampled_from(["", "{", "[]", '{"attempt_id": null}', '{"attempt_id": ["a1"]}', '{"content_id": "do_1"}']),
)

AGGREGATES: Final = st.dictionaries(
    st.sampled_from(["completedCount", "attempts_count:do_1", "attempts_count:do_2", "time"])
    | st.builds("{}:{}".format, st.sampled_from(["score", "max_score"]), IDS),
    st.floats(-10, 100) | st.sampled_from([math.nan, math.inf, 0.0]),
    min_size=1,
    max_size=6,
)

QUESTIONS: Final = st.fixed_dictionaries(
    {"id": IDS},
    optional={
        "score": st.floats(0, 10),
        "max_score": st.floats(0, 10),
        "assess_ts": TIMES,
        "title": TEXTS,
        "duration": st.decimals(0, 1000, places=2),
        "resvalues": st.lists(st.dictionaries(IDS, TEXTS, min_size=1), min_size=1, max_size=2),
    },
)

_BY_KIND: Final[Mapping[Kind, Values]] = {
    Kind.TEXT: TEXTS,
    Kind.INT: st.integers(-3, 5) | INTS,
    Kind.FLOAT: st.floats(width=32),
    Kind.DOUBLE: st.floats(),
    Kind.BOOLEAN: st.booleans(),
    Kind.TIMESTAMP: st.integers(0, 5) | TIMES,
    Kind.TEXTS: st.lists(TEXTS, min_size=1, max_size=4),
    Kind.INTS: st.dictionaries(IDS, st.integers(-1, 3), min_size=1),
    Kind.DOUBLES: st.dictionaries(IDS, st.floats(), min_size=1),
    Kind.TIMESTAMPS: st.dictionaries(st.sampled_from(["completedCount", "score:do_1"]), TIMES, min_size=1),
    Kind.RECORDS: st.lists(CERTIFICATES, min_size=1, max_size=4),
    Kind.RECORD_MAP: st.dictionaries(IDS, st.dictionaries(IDS, TEXTS, min_size=1), min_size=1),
    Kind.QUESTIONS: st.lists(QUESTIONS, min_size=1, max_size=3),
}

_BY_COLUMN: Final[Mapping[str, Values]] = {
    "aggregates": AGGREGATES,
    "agg_details": st.lists(ATTEMPT_DETAILS, min_size=1, max_size=5),
    "lastaccesstime": TEXT_TIMES,
    "lastcompletedtime": TEXT_TIMES,
    "lastupdatedtime": TEXT_TIMES,
    "progressdetails": st.sampled_from(["", "{}", '{"page":1}', '{"page":2}']),
}


def values(table: Table, column: str) -> Values:
    """Values of one column."""
    return _BY_COLUMN.get(column, _BY_KIND[table.columns[column]])


def keys(table: Table) -> st.SearchStrategy[Key]:
    """Primary keys of a table, from so few ids that rows meet."""
    return st.tuples(*(IDS for _ in table.key))


def rows(table: Table, key: Key | None = None, always: Collection[str] = ()) -> st.SearchStrategy[Row]:
    """Rows of a table with any of its columns and `always` these; with the given primary key if there is one."""
    parts = [IDS] * len(table.key) if key is None else [st.just(part) for part in key]
    given = dict(zip(table.key, parts, strict=True)) | {column: values(table, column) for column in always}
    others = {column: values(table, column) for column in table.values if column not in always}
    return st.fixed_dictionaries(given, optional=others)


def accounts(table: Table, count: int, always: Collection[str] = ()) -> st.SearchStrategy[tuple[Row, ...]]:
    """`count` rows of one key: what as many accounts hold of the same thing, each as the target's account would."""
    return keys(table).flatmap(lambda key: st.tuples(*(rows(table, key, always) for _ in range(count))))
