"""A hundred merges between twenty accounts in any direction, two workers: none waits for ever, no row is lost."""

import random
from collections import Counter

from lern.store.tables import TABLES, Row, Table
from tests.acceptance.place import Place
from tests.acceptance.workers import Workers
from tests.accounts import account

USERS = [f"user-{number}" for number in range(20)]
MERGES = 100


def identities(place: Place) -> Counter[tuple[str, ...]]:
    """Every learner row by table, owner, and key without the owner."""
    return Counter(
        (table.name, str(row[str(table.user)]), *_key_without_user(table, row))
        for table in TABLES.values()
        if table.user is not None
        for row in place.rows(table)
    )


def _key_without_user(table: Table, row: Row) -> tuple[str, ...]:
    return tuple(row[column] for column in table.key if column != table.user)


def test_every_run_ends_and_every_row_stands_once_where_it_belongs(workers: Workers) -> None:
    place = workers.place
    for user in USERS:
        # A course of its own: so every row can be told from every other, wherever it goes.
        place.load(account(user, [f"of-{user}"], contents=3))
    at_first = identities(place)
    workers.start(), workers.start()
    directions = random.Random(20)
    runs = [
        place.enter(*directions.sample(USERS, 2), mid=f"m{number}")  # type: ignore[misc]  # two of them
        for number in range(MERGES)
    ]

    ledger = place.services.ledger
    entered = [run.id for run in ledger.runs(limit=2 * MERGES)]
    refused = ledger.dead_letters(limit=2 * MERGES)
    assert len(entered) + len(refused) == MERGES
    assert set(entered) <= set(runs)
    assert {letter.code for letter in refused} == {"ALREADY_MERGED", "MERGE_CIRCLE"}
    assert {run.state for run in workers.until_ended(entered)} == {"succeeded"}

    expected = Counter(
        {(table, ledger.final_account(user), *key): number for (table, user, *key), number in at_first.items()}
    )
    assert identities(place) == expected
    assert len({user for _, user, *_ in expected}) < len(USERS)
