"""A program that transfers batches again and again, killed at another call each time, and then carries on.

    python -m tests.integration.ownership.dying DIRECTORY REDIS-URL [NAME=VALUE ...]

Each time it is other users with the same batches, so that all of them stand in one store side by side. First one
transfer is carried out undisturbed, which counts the calls; then one for each call, by a process of its own that is
killed with SIGKILL in the place of that call; then all of them are carried out to their ends. One line of JSON for
each: where it was killed, and how everything stands. A call is a request to Cassandra or to Elasticsearch, or, with
everything embedded, a statement to SQLite; of the ledger, whatever it is, those that begin and end a transaction.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import elastic_transport
from cassandra.cluster import Session

import tasks.undo  # noqa: F401 - the step that an undo consists of
from lern import log, undo
from lern.search.base import Document
from lern.store.tables import Row
from tasks.step import now_ms
from tests.acceptance.calls import CALLS, count_everything
from tests.acceptance.place import Place
from tests.batches import OTHER, World, batch, transfer_event

KINDS = ("transfer", "undo")
AT_ONCE = 4


def main() -> None:
    """Go through all calls."""
    directory, redis_url, *given = sys.argv[1:]
    settings = dict(one.split("=", 1) for one in given)
    count_everything()
    if settings:
        _count_servers()
        _count_no_more_than("cassandra", "elasticsearch", "sqlite BEGIN", "sqlite COMMIT")
    else:
        _count_no_more_than("sqlite")
    for kind in KINDS:
        if kind == "undo":
            # The rest of an undo is every undo's.
            _count_no_more_than("cassandra", "elasticsearch", "sqlite BEGIN", "sqlite COMMIT")
        _go_through(partial(_world, directory, redis_url, settings), kind)


def _go_through(world: Callable[[], World], kind: str) -> None:
    calls = json.loads(_ended(_begun(lambda: _undisturbed(world(), kind))))
    points = range(1, len(calls) + 1)
    for start in range(0, len(points), AT_ONCE):
        # Side by side, because each of them spends most of its short life connecting.
        for child in [_begun(partial(_killed_at, world, kind, point)) for point in points[start : start + AT_ONCE]]:
            _ended(child)
    sys.stdout.write(_ended(_begun(lambda: _carried_on(world(), kind, calls))))


def _count_servers() -> None:
    execute, request = Session.execute_async, elastic_transport.Transport.perform_request

    def executed(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        cql = getattr(getattr(query, "prepared_statement", None), "query_string", "batch")
        # The table is gone through in a hundred equal reads: to die in the first of them says it all.
        if "token(" not in cql or not CALLS.made or not CALLS.made[-1].startswith("cassandra scan"):
            CALLS.make(f"cassandra {'scan' if 'token(' in cql else cql[:20]}")
        return execute(self, query, *arguments, **options)

    def requested(self: Any, method: str, target: str, *arguments: Any, **options: Any) -> Any:
        CALLS.make(f"elasticsearch {method} {target.partition('?')[0]}")
        return request(self, method, target, *arguments, **options)

    Session.execute_async = executed
    elastic_transport.Transport.perform_request = requested  # type: ignore[method-assign]


def _count_no_more_than(*beginnings: str) -> None:
    """Count only the calls that begin like this."""
    make = CALLS.make

    def make_some(what: str, *last_act: Any) -> None:
        if what.startswith(beginnings):
            make(what, *last_act)

    CALLS.make = make_some  # type: ignore[method-assign,assignment]


def _world(directory: str, redis_url: str, settings: dict[str, str]) -> World:
    place = Place.at(Path(directory), redis_url, CHUNK_ROWS="3", OWNERSHIP_WRITE_SIZE="2", **settings)
    log.configure(place.settings)
    world = World(place)
    world.services.locks.vouch()
    return world


def batches(source: str) -> list[Row]:
    """Four batches of a user's, and one that is not."""
    roles: Sequence[dict[str, Any]] = (
        {},
        {"createdby": OTHER, "mentors": [OTHER, source]},
        {"mentors": [source, source]},
        {"updated_date": None},
    )
    own = [batch(number, **{"createdby": source, **columns}) for number, columns in enumerate(roles)]
    rows = [*own, batch(4, createdby=OTHER, mentors=None)]
    return [{**row, "batchid": f"{source}-{row['batchid']}"} for row in rows]


def _begin(world: World, kind: str, point: int) -> str:
    """Enter the work of a point; returns the run's id."""
    source = f"Source-{kind}-{point}"
    event = transfer_event(source, f"Target-{kind}-{point}")
    world.load(batches(source))
    run_id = world.enter(event)
    if kind == "transfer":
        return run_id
    world.place.carry_out(run_id)
    return undo.request(world.services.ledger, run_id, now_ms()).run_id


def _undisturbed(world: World, kind: str) -> str:
    run_id = _begin(world, kind, 0)
    CALLS.begin()
    world.place.carry_out(run_id)
    return json.dumps(CALLS.end())


def _killed_at(make: Callable[[], World], kind: str, point: int) -> str:
    world = make()
    run_id = _begin(world, kind, point)
    CALLS.begin(point)
    world.place.carry_out(run_id)
    return "alive"


def _carried_on(world: World, kind: str, calls: list[str]) -> str:
    # Whoever was killed holds users: in place of the time after which they are free.
    world.services.broker.flushdb()
    world.services.locks.vouch()
    lines = []
    for point in range(len(calls) + 1):
        source = f"Source-{kind}-{point}"
        transfer = world.enter(transfer_event(source, f"Target-{kind}-{point}"))
        run_id = transfer if kind == "transfer" else undo.request(world.services.ledger, transfer, now_ms()).run_id
        world.place.carry_out(run_id)
        call = calls[point - 1] if point else ""
        line = json.dumps({"kind": kind, "point": point, "call": call, **_end(world, run_id, source)})
        lines.append(line.replace(f"-{kind}-{point}", "") + "\n")
    return "".join(lines)


def _end(world: World, run_id: str, source: str) -> dict[str, Any]:
    run, rows = world.place.run(run_id), batches(source)
    documents = world.search.read([row["batchid"] for row in rows])
    results = {step.name: step.result for step in world.place.detail(run.id).steps}
    return {
        "state": run.state,
        "warnings": run.warnings,
        "results": results,
        "rows": [world.row(row) for row in rows],
        "documents": [_fields(documents[row["batchid"]]) for row in rows],
        "open": len(world.services.ledger.open_chunks([source])),
        "before": rows,
    }


def _fields(document: Document) -> dict[str, Any]:
    return {**document.fields, "mentors": document.fields.get("mentors") or []}


def _begun(act: Callable[[], str]) -> tuple[int, int]:
    """Fork and act; gives the process, and where to read what the act gives."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            with os.fdopen(write, "w") as told:
                told.write(act())
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, this process ends here
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write)
    return pid, read


def _ended(child: tuple[int, int]) -> str:
    """Wait for a process; gives what its act gave, "" if it was killed."""
    pid, read = child
    with os.fdopen(read) as told:
        text = told.read()
    status = os.waitpid(pid, 0)[1]
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if text == "alive" or not (killed or status == 0):
        raise SystemExit(f"a process ended with {status}: {text}")
    return text


if __name__ == "__main__":
    main()
