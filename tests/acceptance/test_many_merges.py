"""A hundred merges between twenty accounts in any direction, two workers: none waits for ever, no row is lost."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

from lern.store.tables import TABLES, Key, Row, Table
from tests.acceptance.workers import Workers
from tests.accounts import DAY, ONE_DAY, Placed, aggregates, attempt, content, enrolment

USERS: Final = [f"user-{number}" for number in range(20)]
COURSES: Final = ["course-1", "course-2", "course-3", "course-4"]
CONTENTS: Final = ["c1", "c2", "c3", "c4"]
MERGES: Final = 100


def learner(user: str, chance: random.Random) -> list[Placed]:
    """An account that has most of what it has in common with others, and has got as far with it as chance would."""
    rows: list[Placed] = []
    for course in chance.sample(COURSES, 3):
        for name in chance.sample(CONTENTS, 3):
            counters = {"viewcount": chance.randint(0, 9), "completedcount": chance.randint(0, 3)}
            rows.append(content(user, course, course, name, **_progress(chance), **counters))
            # The same attempt was reported by several accounts; another one is this account's alone.
            for number in ("of-many", f"of-{user}"):
                score = float(chance.randint(0, 10))
                rows.append(
                    attempt(user, course, course, name, number, total_score=score, last_attempted_on=_time(chance))
                )
        certificates = [{"identifier": name} for name in ("of-many", f"of-{user}")]
        rows.append(
            enrolment(
                user,
                course,
                course,
                status=chance.randint(0, 2),
                progress=chance.randint(0, 100),
                active=chance.random() < 1 / 2,
                enrolled_date=_time(chance),
                contentstatus={name: chance.randint(0, 2) for name in chance.sample(CONTENTS, 3)},
                issued_certificates=certificates,
            )
        )
        scores = {name: float(chance.randint(0, 10)) for name in ("completedCount", "score:c1", f"score:{user}")}
        rows.append(aggregates(user, course, course, aggregates=scores))
    return rows


def _progress(chance: random.Random) -> Row:
    return {"status": chance.randint(0, 2), "progress": chance.randint(0, 100), "last_access_time": _time(chance)}


def _time(chance: random.Random) -> int:
    return DAY + chance.randrange(ONE_DAY)


def highest_per_key(values: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: max(value[key] for value in values if key in value) for key in sorted({k for v in values for k in v})}


def united(values: Sequence[Sequence[dict[str, str]]]) -> list[str]:
    return sorted({certificate["identifier"] for value in values for certificate in value})


# What becomes of a column when several accounts have the row: said here once more, apart from the rules.
TOGETHER: Final[dict[str, Callable[[Sequence[Any]], Any]]] = {
    "status": max,
    "progress": max,
    "last_access_time": max,
    "viewcount": sum,
    "completedcount": sum,
    "active": any,
    "enrolled_date": min,
    "contentstatus": highest_per_key,
    "issued_certificates": united,
    "aggregates": highest_per_key,
}


def brought_together(table: Table, rows: Sequence[Row]) -> Row:
    """What is to become of the rows of one content, enrolment, activity or attempt that several accounts have."""
    if table.name == "assessment_aggregator":
        last = max(rows, key=lambda row: row["last_attempted_on"])
        return {column: last[column] for column in ("total_score", "last_attempted_on")}
    columns = rows[0].keys() & TOGETHER.keys()
    return {column: TOGETHER[column]([row[column] for row in rows]) for column in columns}


def by_identity(table: Table, rows: Sequence[Row], owner: Callable[[str], str]) -> dict[Key, list[Row]]:
    """Rows by their key, with the account in it that is their owner's now."""
    found: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        found[table.key_of(table.with_user(row, owner(row[str(table.user)])))].append(row)
    return found


def test_every_run_ends_and_every_row_stands_once_where_it_belongs(workers: Workers) -> None:
    place, chance = workers.place, random.Random(20)
    for user in USERS:
        place.load(learner(user, chance))
    tables = [table for table in TABLES.values() if table.user is not None]
    at_first = {table: place.rows(table) for table in tables}
    workers.start(), workers.start()
    runs = [
        place.enter(*chance.sample(USERS, 2), mid=f"m{number}")  # type: ignore[misc]  # two of them
        for number in range(MERGES)
    ]

    ledger = place.services.ledger
    entered = [run.id for run in ledger.runs(limit=2 * MERGES)]
    refused = ledger.dead_letters(limit=2 * MERGES)
    assert len(entered) + len(refused) == MERGES
    assert set(entered) <= set(runs)
    assert {letter.code for letter in refused} == {"ALREADY_MERGED", "MERGE_CIRCLE"}
    assert {run.state for run in workers.until_ended(entered)} == {"succeeded"}

    met = 0
    for table in tables:
        expected = by_identity(table, at_first[table], ledger.final_account)
        standing = by_identity(table, place.rows(table), lambda user: user)
        assert standing.keys() == expected.keys()
        for key, rows in expected.items():
            [row] = standing[key]
            wanted = brought_together(table, rows)
            if "issued_certificates" in row:
                names = [certificate["identifier"] for certificate in row["issued_certificates"]]
                row["issued_certificates"] = sorted(names)
            assert {column: row[column] for column in wanted} == wanted, (table.name, key)
            met += len(rows) > 1
    assert met > len(USERS)
