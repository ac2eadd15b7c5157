"""A ledger that is away in the middle of a step is waited for: the run ends as if nothing had been."""

from contextlib import ExitStack, closing
from pathlib import Path

from lern.errors import Unreachable
from lern.ledger import Ledger
from lern.store.tables import USER_CONTENT_CONSUMPTION
from tasks.sweeper import Sweeper
from tests.acceptance.conftest import MakePlace
from tests.acceptance.place import Place
from tests.acceptance.workers import BRISK, workers_of
from tests.accounts import RELATIONS, content, two_accounts
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

PAIRS = [(f"old-{number}", f"new-{number}") for number in range(8)]
CUTS = 5
# Ends the connections of workers, and of whoever else has the ledger open.
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lern-ledger'"


def test_postgresql_is_killed_under_a_stream_of_merges(
    make_place: MakePlace, own_postgres: PostgresServer, own_redis: RedisServer, quick_path: Path
) -> None:
    undisturbed = make_place()
    place = Place.at(quick_path / "here", own_redis.url, ledger_url=own_postgres.new_database(), **BRISK).create()
    for one in (undisturbed, place):
        for source, target in PAIRS:
            one.load(two_accounts(source, target), RELATIONS)
    for source, target in PAIRS:
        undisturbed.merge(source, target, source)
    undisturbed.services.broker.flushdb()
    own_redis.vouch()

    with ExitStack() as ends:
        ends.callback(place.close)
        workers = ends.enter_context(workers_of(place))
        ids = [place.enter(source, target, source) for source, target in PAIRS]
        # The standstill keeps a step in the middle of its work.
        with place.standstill():
            workers.start()
            workers.until(lambda: any(place.run(run_id).state == "running" for run_id in ids), "a step has begun")
            own_postgres.kill()
        own_postgres.start()
        with closing(Ledger(place.settings.ledger_url_or_default)) as ledger:
            workers.until(lambda: {run.state for run in ledger.runs()} == {"succeeded"}, "every run has succeeded")
            # Nobody's attempt was used up by it.
            assert {run.attempts for run in ledger.runs()} == {0}
        assert place.tables() == undisturbed.tables()
        assert place.sent() == undisturbed.sent()


def test_a_step_may_lose_its_connections_again_and_again_and_no_worker_is_taken_for_dead(
    own_postgres: PostgresServer, own_redis: RedisServer, quick_path: Path
) -> None:
    """While it works, and while another waits for its user."""
    # On a busy machine a step may take seconds to come back for its users: whoever waits for it is patient.
    settings = {**BRISK, "chunk_rows": "1", "max_lost": "1", "max_attempts": "1", "lock_ttl": "10", "lock_wait": "8"}
    place = Place.at(quick_path / "here", own_redis.url, ledger_url=own_postgres.new_database(), **settings).create()
    place.load(content("old", "course", "batch", f"c{number}", viewcount=number) for number in range(3_000))
    own_redis.vouch()
    # Or else the worker would send everything once more, and of two copies of a step one takes it from the other.
    Sweeper(place.services).remember()
    with ExitStack() as ends:
        ends.callback(place.close)
        workers = ends.enter_context(workers_of(place))
        workers.start()
        ids = [place.enter(source, "new", source) for source in ("old", "other")]
        with closing(Ledger(place.settings.ledger_url_or_default)) as ledger:

            def chunks() -> int:
                try:
                    return ledger.next_number(ids[0], "merge.content")
                except Unreachable:
                    return 0

            so_far = 0
            for _ in range(CUTS):
                so_far += 10
                workers.until(lambda: chunks() > so_far, "the step goes on")  # noqa: B023 - asked at once
                so_far = chunks()
                with own_postgres.connection() as connection:
                    connection.execute(CUT)
            workers.until(lambda: chunks() > so_far, "the ledger is there again")
            workers.until(lambda: all(run.ended_at for run in ledger.runs()), "every run has ended")
            assert {(run.state, run.attempts) for run in ledger.runs()} == {("succeeded", 0)}
            detail = ledger.run(ids[0])
            assert detail
            assert "lost" not in {attempt.outcome for attempt in detail.attempts}
        rows = place.rows(USER_CONTENT_CONSUMPTION)
        assert {(row["userid"], row["contentid"], row["viewcount"]) for row in rows} == {
            ("new", f"c{number}", number) for number in range(3_000)
        }
