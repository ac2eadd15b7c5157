"""A program that carries out one piece of work again and again, killed at another call each time.

    python -m tests.acceptance.dying PLAN.json

`Plan` says what. For each of its points the program makes a copy of the data directory and forks a process, which
counts its calls and is killed at the point's; then another, which does what happens after such a death: Redis has
forgotten everything, or the dead's locks have run out, the event comes again, the sweeper sends what is unfinished. One
line of JSON on standard output for each point: how everything stood in the end.

The process that forks has done the work once itself, undisturbed, and has nothing open.
"""

import gc
import json
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import redis
from celery.app.trace import trace_task

from lern import log, undo
from lern.ledger import Ledger
from lern.locks import PREFIX, Locks
from lern.services import Services
from lern.settings import Settings
from lern.store import open_store
from lern.store.base import Store
from tasks import sweeper
from tasks.app import _Process, app, services
from tasks.step import now_ms
from tasks.sweeper import EPOCH, Sweeper
from tests.acceptance.calls import CALLS, count_everything
from tests.acceptance.place import message, sent_from, tables_of
from workflows.intake import send, take_in

TOLD: Final = "told.json"


@dataclass(frozen=True)
class Plan:
    """What is to be done, over a copy of the data directory `template` each time.

    `work`: what is cut off, ["merge", source, target, mid] or ["undo", run id]. `between`: work that is carried out
    after the death, before the other comes again. `points`: the calls to die at. `redis_forgets`: whether Redis loses
    everything besides. `settings`: environment variables. `runs`: whose results are told.
    """

    template: str
    copies: str
    work: Sequence[str]
    settings: dict[str, str]
    runs: Sequence[str]
    between: Sequence[Sequence[str]] = ()
    points: Sequence[int] = ()
    redis_forgets: bool = True

    def write(self, file: Path) -> Path:
        """Save the plan."""
        file.write_text(json.dumps(asdict(self)))
        return file


@dataclass(frozen=True)
class End:
    """How everything stands in the end."""

    tables: dict[str, list[list[Any]]]
    sent: dict[str, dict[str, str]]
    runs: dict[str, dict[str, Any]]
    merged_into: dict[str, str]
    # How often each event lies where it was sent to, by its mid; of files nothing is told.
    copies: dict[str, int] = field(default_factory=dict)
    left_over: dict[str, int] = field(default_factory=dict)


def carry_out(plan: Plan) -> None:
    """Do the plan's work once, as a bridge and a worker would."""
    _start(plan.work)
    work_off()


def _start(work: Sequence[str]) -> None:
    parts = services()
    kind, *names = work
    if kind == "merge":
        source, target, mid = names
        take_in(parts, [message(source, target, mid)])
        return
    entered = undo.request(parts.ledger, names[0], now_ms())
    send(parts, [entered], {entered.run_id: (undo.STEP,)})


def work_off() -> None:
    """Carry out whatever is in the queue, as a worker's child does: Celery's own code, one message after the other."""
    with app.connection_for_write() as connection, connection.channel() as channel:
        queue = app.amqp.queues[app.conf.task_default_queue](channel)
        while (got := queue.get()) is not None:
            arguments, options, embedded = got.payload
            request = {**got.headers, **embedded, "delivery_info": got.delivery_info, "is_eager": False}
            task = app.tasks[got.headers["task"]]
            trace_task(task, got.headers["id"], arguments, options, request, app=app)
            got.ack()


def recover(plan: Plan) -> None:
    """Do what happens after a death, to the end."""
    parts = services()
    if plan.redis_forgets:
        parts.broker.flushdb()
        # In place of the time that a Redis which has forgotten everything lets pass.
        parts.locks.vouch()
    else:
        _let_locks_run_out(parts)
    for work in plan.between:
        _start(work)
        work_off()
    _start(plan.work)
    # The dead do not come back.
    sweeping = Sweeper(parts, returns_within=0.0)
    if plan.redis_forgets:
        sweeping.remember()
    work_off()
    # What was in the hands of the dead is recognised when nothing older waits any more.
    while not plan.redis_forgets and sweeping.sweep():
        work_off()


def _let_locks_run_out(parts: Services) -> None:
    """Do what the life of a lock does by passing: the dead hold nobody, and what they had taken in hand is overdue."""
    for user, _ in list(parts.locks.all_held()):
        parts.broker.delete(PREFIX + user)
    later = round(parts.settings.lock_ttl * 1000)
    vars(sweeper)["now_ms"] = lambda: now_ms() + later + 1


def end(plan: Plan) -> End:
    """Look at everything."""
    parts = services()
    settings = parts.settings
    runs: dict[str, dict[str, Any]] = {}
    merged: dict[str, str] = {}
    left_over = {"undelivered": len(parts.ledger.undelivered(None, limit=100)), "open chunks": 0}
    for run_id in plan.runs:
        detail = parts.ledger.run(run_id)
        if detail is None:
            runs[run_id] = {"state": "unknown"}
            continue
        run = detail.run
        left_over["open chunks"] += len(parts.ledger.open_chunks([run.source, run.target]))
        steps = {step.name: step.result for step in detail.steps}
        runs[run_id] = {"state": run.state, "error": run.error, "warnings": list(run.warnings), "steps": steps}
        merged.update({user: parts.ledger.final_account(user) for user in (run.source, run.target)})
    left_over["locks"] = len(parts.locks.tokens(list(merged)))
    sent = sent_from(settings.out_dir)
    return End(
        {name: [list(row) for row in rows] for name, rows in tables_of(settings, parts.store).items()},
        {topic: {mid: line.decode() for mid, line in events.items()} for topic, events in sent.items()},
        runs,
        merged,
        left_over=left_over,
    )


def _in_child(act: Callable[[], None]) -> int:
    """Fork, act, end; gives how the child ended, as `waitpid` does."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException:  # noqa: BLE001 - however a child ends, it does not go on as its parent
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


@dataclass(frozen=True)
class Shard:
    """This program at work. Every copy has the same place, so that what was compiled once serves all."""

    plan: Plan
    directory: Path
    store: Store
    ledger: Ledger

    def warm_up(self) -> None:
        """Carry out the work in this process, which learns everything by it; then close everything."""
        self._copy()
        self._use_services()
        carry_out(self.plan)
        parts = services()
        for part in (parts.store, parts.queue, parts.broker, app):
            part.close()
        self.ledger._database.engine.dispose()
        # The thread that renews locks ends when there are none.
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join()

    def undisturbed(self) -> dict[str, Any]:
        """Carry out the work without being killed, and count its calls."""

        def work() -> None:
            CALLS.begin()
            carry_out(self.plan)
            self._told.write_text(json.dumps({"calls": CALLS.end(), **asdict(self._end())}))

        self._copy()
        return self._of_child(work)

    def killed_at(self, point: int) -> dict[str, Any]:
        """Be killed at one point and recover."""

        def disturbed() -> None:
            self._use_services()
            CALLS.begin(point)
            carry_out(self.plan)

        self._copy()
        status = _in_child(disturbed)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            raise SystemExit(f"at point {point} the process was not killed: {status}")
        return self._recovered()

    def _recovered(self) -> dict[str, Any]:
        """Do what happens after a death, and give what it came to."""

        def recovering() -> None:
            recover(self.plan)
            self._told.write_text(json.dumps(asdict(self._end())))

        return self._of_child(recovering)

    def _end(self) -> End:
        return end(self.plan)

    @property
    def _told(self) -> Path:
        return self.directory / TOLD

    def _of_child(self, act: Callable[[], None]) -> dict[str, Any]:
        """Let a child act, and give what it has told."""

        def with_services() -> None:
            self._use_services()
            act()

        status = _in_child(with_services)
        if status != 0:
            raise SystemExit(f"a process that nobody killed has ended with {status}")
        found: dict[str, Any] = json.loads(self._told.read_text())
        return found

    def _copy(self) -> None:
        """Begin with a fresh copy of the data directory, and with an empty Redis."""
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.copytree(self.plan.template, self.directory)
        with redis.Redis.from_url(os.environ["LERN_BROKER_URL"]) as client:
            client.flushdb()
            Locks(client, ttl=1.0).vouch()
            if not self.plan.redis_forgets:
                client.set(EPOCH, 1)

    def _use_services(self) -> None:
        parts = Services(Settings.load())
        parts.__dict__.update(store=self.store, ledger=self.ledger)
        # With no connection open, what the parent has compiled can be ours.
        self.ledger._database._pid = os.getpid()
        _Process.services, _Process.pid = parts, os.getpid()


def main() -> None:
    """Go through the plan's points; first, as point 0, undisturbed."""
    plan = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    directory = Path(plan.copies) / str(os.getpid())
    os.environ.update(plan.settings, LERN_DATA_DIR=str(directory))
    settings = Settings.load()
    log.configure(settings)
    app.loader.import_default_modules()
    app.finalize()
    count_everything()
    shard = Shard(plan, directory, open_store(settings), Ledger(settings.ledger_url_or_default))
    shard.warm_up()
    # Children live for a moment: let them share the parent's memory instead of looking through it.
    gc.disable()
    gc.freeze()
    tell({"point": 0, **shard.undisturbed()})
    for point in plan.points:
        tell({"point": point, **shard.killed_at(point)})


def tell(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)  # noqa: T201 - this is what the program is for


if __name__ == "__main__":
    main()
