"""A ledger that is away in the middle of a step is waited for: the run ends as if nothing had been."""

from contextlib import ExitStack, closing
from pathlib import Path

from lern.ledger import Ledger
from tests.acceptance.conftest import MakePlace
from tests.acceptance.place import Place
from tests.acceptance.workers import BRISK, workers_of
from tests.accounts import RELATIONS, two_accounts
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

PAIRS = [(f"old-{number}", f"new-{number}") for number in range(8)]


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
