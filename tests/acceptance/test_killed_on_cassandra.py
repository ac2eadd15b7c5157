"""Killed with SIGKILL at call 1, 2, 3 … of a merge on Cassandra, and carried on by others: as if nothing had been.

All calls, as with the embedded default: ledger, locks, messages, outgoing files, and the statements to Cassandra. What
would end otherwise: a list that is doubled, an entry of a map that is gone, a row that is lost or left behind.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cassandra.cluster import Session

from lern.ledger import Ledger
from lern.store.tables import USER_CONTENT_CONSUMPTION, Row
from lern.undo import request
from tasks.step import now_ms
from tests.acceptance.place import Place
from tests.acceptance.test_killed_at_every_call import Killing, killing, run_of
from tests.accounts import RELATIONS, Placed, content, enrolment, two_accounts
from tests.servers.redis import RedisServer

__all__ = ["killing"]


# Every point opens a session anew, which is most of what it takes.
@pytest.mark.timeout(900)
def test_a_merge_ends_as_if_undisturbed(killing: Killing, cassandra_url: str) -> None:
    killing = replace(killing, program="tests.acceptance.dying_on_cassandra")
    place = killing.prepare(store_url=cassandra_url)
    place.load(two_accounts("from", "to"))
    run = run_of(place, "from", "to", "m")
    ends = killing.everywhere(place, ["merge", "from", "to", "m"], [run])

    assert sum(call.startswith("cassandra") for call in ends.calls) > 30
    assert ends.undisturbed["runs"][run]["state"] == "succeeded"
    assert set(ends.undisturbed["left_over"].values()) == {0}
    assert ends.unlike(ends.undisturbed) == {}


@pytest.mark.timeout(900)
def test_an_undo_ends_with_the_rows_of_before(killing: Killing, cassandra_url: str) -> None:
    """A learner with a counter, a list, a map, and a row that only one of the accounts has; as small as that can be."""
    killing = replace(killing, program="tests.acceptance.dying_on_cassandra")
    place = killing.prepare(store_url=cassandra_url)
    place.load([*small_account("from", ["c1", "c2"], 2), *small_account("to", ["c1"], 3)], RELATIONS)
    before = place.tables()
    merge = place.merge("from", "to")
    assert place.tables() != before
    undo = request(place.services.ledger, merge, now_ms()).run_id
    ends = killing.everywhere(place, ["undo", merge], [merge, undo])

    assert sum(call.startswith("cassandra") for call in ends.calls) > 10
    assert ends.undisturbed["tables"] == json.loads(json.dumps(before))
    assert ends.undisturbed["runs"][merge]["state"] == "undone"
    assert ends.undisturbed["runs"][undo]["state"] == "succeeded"
    assert ends.undisturbed["merged_into"] == {"from": "from", "to": "to"}
    assert ends.unlike(ends.undisturbed) == {}


def small_account(user: str, contents: list[str], views: int) -> Iterator[Placed]:
    """An account that has been in one course."""
    for name in contents:
        yield content(user, "course-1", "b1", name, status=1, viewcount=views)
    seen = dict.fromkeys(contents, 1)
    certificates = [{"name": user, "token": user}]
    yield enrolment(user, "course-1", "b1", active=True, contentstatus=seen, issued_certificates=certificates)


def die_behind(point: int) -> None:
    """Have this process die at the n-th call of the thread that carries a chunk out behind the planning of the next."""
    calls = count(1)

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread().name.startswith("behind") and next(calls) == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counted

    Session.execute_async = dying(Session.execute_async)
    Ledger.mark = dying(Ledger.mark)  # type: ignore[method-assign]


def contents_of(user: str, views: int) -> list[Row]:
    rows = [content(user, "course", "course", f"c{number}", status=1, viewcount=views)[1] for number in range(9)]
    return rows if views == 2 else rows[::2]


@pytest.mark.timeout(300)
def test_killed_while_a_chunk_is_carried_out_and_the_next_is_planned(
    tmp_path: Path, cassandra_url: str, own_redis: RedisServer
) -> None:
    """Three chunks; two may be open when death comes, and neither is done twice or left half done."""
    settings = {"store_url": cassandra_url, "chunk_rows": "3"}
    with closing(Place.at(tmp_path / "data", own_redis.url, **settings)) as place:
        place.services.ledger.migrate()
        died = 0
        for point in count(1):
            source, target = f"from-{point}", f"to-{point}"
            place.services.store.insert(USER_CONTENT_CONSUMPTION, [*contents_of(source, 2), *contents_of(target, 5)])
            run = place.enter(source, target)
            pid = os.fork()
            if pid == 0:
                try:
                    die_behind(point)
                    place.step(run)
                finally:
                    os._exit(0)
            ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            # Instead of waiting until the locks of the dead expire.
            with own_redis.client() as client:
                client.delete(*(f"{{lern}}:user:{user}" for user in (source, target)))
            assert place.carry_out(run).state == "succeeded"
            found = {row["contentid"]: row["viewcount"] for row in place.rows(USER_CONTENT_CONSUMPTION, target)}
            assert found == {f"c{number}": 2 if number % 2 else 7 for number in range(9)}, f"killed at call {point}"
            assert place.rows(USER_CONTENT_CONSUMPTION, source) == []
            if ended == 0:
                break
            assert ended == -signal.SIGKILL
            died += 1
        # Each of three chunks: written, read back, compared, deleted, marked.
        assert died >= 12
