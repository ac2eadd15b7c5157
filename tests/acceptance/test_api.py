"""The Python API beside a worker: another service has accounts merged, and hears what became of it."""

from functools import partial

import pytest

from lern import Lern
from lern.events import BadEvent
from lern.store.tables import USER_CONTENT_CONSUMPTION
from tests.acceptance.workers import PATIENCE, Workers
from tests.accounts import RELATIONS, two_accounts


def test_a_service_has_accounts_merged_and_hears_what_became_of_it(workers: Workers) -> None:
    place = workers.place
    place.load(two_accounts("from", "to"), RELATIONS)
    lern = Lern(place.services.broker_url)
    run = lern.merge_accounts("from", "to", idempotency_key="ticket-1")
    with pytest.raises(TimeoutError, match=rf"{run.id} is queued"):
        run.wait(timeout=0.05)

    # With one child everything is taken in one after the other, in the order in which it was asked for.
    workers.start(concurrency=1)
    assert run.wait(timeout=PATIENCE).state == "succeeded"
    assert {row["userid"] for row in place.rows(USER_CONTENT_CONSUMPTION)} == {"to"}
    merged = place.tables()

    again = lern.merge_accounts("from", "to", idempotency_key="ticket-1")
    assert again.id == run.id
    back = lern.merge_accounts("to", "from")
    refused = back.wait(timeout=PATIENCE)
    assert refused.state == "failed"
    assert "circle" in str(refused.reason)
    assert back.id not in {found.id for found in place.services.ledger.runs()}
    assert lern.run(run.id).state().state == "succeeded"
    assert place.tables() == merged


@pytest.mark.parametrize(("key", "problem"), [("", "blank"), (" ", "blank"), ("\ud800", "holds half of a surrogate")])
def test_a_key_that_cannot_be_is_refused_before_anything_is_sent(key: str, problem: str) -> None:
    lern = Lern("redis://127.0.0.1:1/0")
    for ask in (lern.merge_accounts, partial(lern.transfer_ownership, organisation_id="o")):
        with pytest.raises(BadEvent, match=f"idempotency_key: {problem}"):
            ask("from", "to", idempotency_key=key)


def test_an_id_that_cannot_be_is_refused_before_anything_is_sent() -> None:
    lern = Lern("redis://127.0.0.1:1/0")
    for ask in (lern.merge_accounts, partial(lern.transfer_ownership, organisation_id="o")):
        for accounts in (("", "to"), ("from", "from"), ("from", "\ud800"), ("\udcff", "to"), ("a" * 257, "to")):
            with pytest.raises(BadEvent, match="edata"):
                ask(*accounts)


def test_a_broker_that_says_nothing_is_not_waited_for_without_end() -> None:
    """By a caller who has said how long to wait: left to itself, redis-py waits for ever before version 8."""
    given = Lern("redis://127.0.0.1:1/0")._mirror._client.connection_pool.connection_kwargs
    assert given["socket_timeout"] == 10
    assert given["socket_connect_timeout"] == 5
