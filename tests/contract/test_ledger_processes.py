"""What the ledger promises to several processes at once, and to a process that is killed in the middle of a call."""

import itertools
import multiprocessing
import os
import signal
import socket
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from lern.errors import Damaged, LockLost, Refused, SchemaMissing, Unreachable
from lern.ledger import Ledger, NewDeadLetter, Started, database, prepared
from lern.ledger.schema import HEAD, metadata
from tests.contract.given_ledger import (
    MAX_LOST,
    NOW,
    STEPS,
    begin,
    carry_out,
    chunk,
    do,
    enter,
    event,
    fail,
    journal,
    merge,
    undo,
)
from tests.servers.postgres import PostgresServer

# From 3.12 Python warns of forks beside threads. These children touch nothing that a thread could have held.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

FORK: Final = multiprocessing.get_context("fork")
PROCESSES: Final = 4


def at_once(url: str, work: Callable[[Ledger, int], Any]) -> list[Any]:
    """Do the same in several processes, begun together, and give what each came to."""
    together = FORK.Barrier(PROCESSES)
    results = FORK.SimpleQueue()

    def one(number: int) -> None:
        ledger = Ledger(url)
        together.wait(60)
        try:
            results.put(work(ledger, number))
        except BaseException as error:
            results.put(error)
            raise

    children = [FORK.Process(target=one, args=(number,)) for number in range(PROCESSES)]
    for child in children:
        child.start()
    found = [results.get() for _ in children]
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * PROCESSES, found
    return found


class TestTogether:
    def test_they_may_all_be_the_first_to_start(self, ledger_url: str) -> None:
        def work(ledger: Ledger, _number: int) -> str | None:
            ledger.migrate()
            return ledger.version()

        assert at_once(ledger_url, work) == [HEAD] * PROCESSES

    def test_a_run_is_new_to_one_of_them(self, ledger: Ledger, ledger_url: str) -> None:
        runs = [merge(f"S{number}", f"T{number}") for number in range(25)]
        found = at_once(ledger_url, lambda mine, _: [e.run_id for run in runs for e in enter(mine, run) if e.new])
        assert Counter(run_id for some in found for run_id in some) == Counter(run.id for run in runs)
        assert len(ledger.runs()) == 25

    def test_they_close_no_circle(self, ledger: Ledger, ledger_url: str) -> None:
        circle = "ABCD"[:PROCESSES]

        def work(mine: Ledger, number: int) -> list[str]:
            pairs = [merge(f"{circle[number]}{i}", f"{circle[number - 1]}{i}") for i in range(10)]
            return [entered.state for pair in pairs for entered in enter(mine, pair)]

        states = Counter(state for some in at_once(ledger_url, work) for state in some)
        assert states == {"queued": 10 * (PROCESSES - 1), "refused": 10}
        assert len(ledger.dead_letters()) == 10

    def test_every_dead_letter_is_counted(self, ledger: Ledger, ledger_url: str) -> None:
        letter = NewDeadLetter("t", b"{", "MALFORMED", "no JSON")
        at_once(ledger_url, lambda mine, _: [mine.enter([], [letter], NOW) for _ in range(10)] and None)
        assert [dead.count for dead in ledger.dead_letters()] == [10 * PROCESSES]

    def test_of_those_who_find_a_step_due_one_sends_it(self, ledger: Ledger, ledger_url: str) -> None:
        enter(ledger, *(merge(f"S{number}", "T") for number in range(20)))
        for number in range(20):
            ledger.step_aside(f"S{number}-T", "first", 1, None, NOW, NOW, "BUSY")
        due = ledger.due(NOW)
        found = at_once(ledger_url, lambda mine, _: sum(mine.requeue(pending, NOW) for pending in due))
        assert sum(found) == 20

    def test_of_those_who_retry_a_run_one_starts_it(self, ledger: Ledger, ledger_url: str) -> None:
        for number in range(10):
            enter(ledger, merge(f"S{number}", "T"))
            fail(ledger, f"S{number}-T")

        def work(mine: Ledger, number: int) -> int:
            return sum(_retries(mine, f"S{run}-T", f"admin {number}") for run in range(10))

        assert sum(at_once(ledger_url, work)) == 10
        assert {run.generation for run in ledger.runs()} == {2}

    def test_one_chunk_is_journalled_at_a_place(self, ledger: Ledger, ledger_url: str) -> None:
        def work(mine: Ledger, number: int) -> list[tuple[bool, Any]]:
            new = [chunk("A-B", place, payload=[number]) for place in range(10)]
            return [(c.new, c.payload) for c in (carry_out(mine, one, event(f"{one.number}")) for one in new)]

        found = at_once(ledger_url, work)
        assert sum(new for some in found for new, _ in some) == 10
        assert all(len({repr(some[place][1]) for some in found}) == 1 for place in range(10))
        assert len(ledger.undelivered()) == 10

    def test_a_step_is_finished_by_whoever_took_it_last(self, ledger: Ledger, ledger_url: str) -> None:
        runs = [f"S{number}-T" for number in range(10)]
        enter(ledger, *(merge(f"S{number}", "T") for number in range(10)))

        def work(mine: Ledger, number: int) -> int:
            return sum(_takes_and_finishes(mine, run, f"token {number}") for run in runs)

        assert sum(at_once(ledger_url, work)) == 10
        for run in runs:
            detail = ledger.run(run)
            assert detail is not None
            assert detail.run.step == "second"
            assert [a.outcome for a in detail.attempts].count("succeeded") == 1


def _retries(ledger: Ledger, run: str, who: str) -> bool:
    try:
        ledger.retry(run, NOW, who)
    except Refused:
        return False
    return True


def _takes_and_finishes(ledger: Ledger, run: str, token: str) -> bool:
    if not isinstance(ledger.begin(run, "first", 1, token, NOW, PROCESSES + 1), Started):
        return False
    try:
        ledger.finish(run, "first", 1, token, {}, NOW)
    except LockLost:
        return False
    return True


def _do_nothing(_ledger: Ledger) -> None:
    pass


def _entered(ledger: Ledger) -> None:
    enter(ledger, merge("A", "B"))


def _begun(ledger: Ledger) -> None:
    _entered(ledger)
    begin(ledger, "A-B")


def _failed(ledger: Ledger) -> None:
    _entered(ledger)
    fail(ledger, "A-B")


def _ended(ledger: Ledger) -> None:
    _entered(ledger)
    do(ledger, "A-B", *STEPS)


def _journalled(ledger: Ledger) -> None:
    _begun(ledger)
    journal(ledger, chunk("A-B"), event("one"))


def _the_chunk(ledger: Ledger) -> int:
    return next(ledger.chunks("A-B")).id


CALLS: Final[dict[str, tuple[Callable[[Ledger], None], Callable[[Ledger], object]]]] = {
    "enter": (
        _do_nothing,
        lambda ledger: ledger.enter(
            [merge("A", "B"), merge("B", "A", topic="t", partition=0, offset=1)],
            [NewDeadLetter("t", b"{", "MALFORMED", "no JSON", partition=0, offset=2)],
            NOW,
        ),
    ),
    "enter an undo": (_ended, lambda ledger: enter(ledger, undo("A-B", "A", "B"))),
    "begin": (_entered, lambda ledger: ledger.begin("A-B", "first", 1, "token", NOW, MAX_LOST)),
    "take over": (_begun, lambda ledger: ledger.begin("A-B", "first", 1, "heir", NOW, MAX_LOST)),
    "finish": (_begun, lambda ledger: ledger.finish("A-B", "first", 1, "token", {"warnings": ["odd"]}, NOW)),
    "step aside": (
        _begun,
        lambda ledger: ledger.step_aside("A-B", "first", 1, "token", NOW, NOW, "TRANSIENT", counts=True),
    ),
    "fail": (_begun, lambda ledger: ledger.fail("A-B", "first", 1, "token", NOW, "BAD", "broken", event("failure"))),
    "journal": (
        _begun,
        lambda ledger: ledger.journal(chunk("A-B", scope={}), [event("one"), event("two")], NOW, token="token"),
    ),
    "mark": (
        _journalled,
        lambda ledger: ledger.mark(
            _the_chunk(ledger), {"read": 1}, {("t", ("1",)): {"v": 1}, ("t", ("2",)): None}, NOW
        ),
    ),
    "delivered": (_journalled, lambda ledger: ledger.delivered(["one"], NOW)),
    # What a person does again is answered by the state that it finds: `Refused`.
    "retry": (_failed, lambda ledger: _retries(ledger, "A-B", "ada")),
    "undone": (_ended, lambda ledger: ledger.undone("A-B", "undo", NOW)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_killed_anywhere_and_repeated_leaves_what_one_call_leaves(ledger: Ledger, name: str) -> None:
    prepare, call = CALLS[name]
    prepare(ledger)
    call(ledger)
    undisturbed = _contents(ledger)
    for point in itertools.count(1):
        _empty(ledger)
        prepare(ledger)
        survived = _killed_at(ledger, call, point)
        call(ledger)
        assert _contents(ledger) == undisturbed, f"killed at point {point}"
        if survived:
            break
    # At least one statement, both sides of COMMIT, and the end.
    assert point > 3


def _killed_at(ledger: Ledger, call: Callable[[Ledger], object], point: int) -> bool:
    """Make a call in a child that is killed when it comes to its n-th point. True if it never came there."""

    def one() -> None:
        _kill_at(ledger, point)
        call(ledger)

    child = FORK.Process(target=one)
    child.start()
    child.join(60)
    assert child.exitcode in {0, -signal.SIGKILL}
    return child.exitcode == 0


def _kill_at(ledger: Ledger, point: int) -> None:
    """End this process at its n-th point: before each statement, and before and after each COMMIT."""
    points = itertools.count(1)

    def here(*_: object) -> None:
        if next(points) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    real_run, real_send = database._run, prepared._send

    def run(driver: Any, statement: str) -> None:
        here()
        real_run(driver, statement)
        here()

    def send(driver: Any, text: str, parameters: Sequence[Any]) -> Any:
        here()
        return real_send(driver, text, parameters)

    database._run, prepared._send = run, send
    sa.event.listen(ledger._database.engine, "before_cursor_execute", here)


def _contents(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    """Give all rows but for the numbers that databases count up: a transaction that was rolled back uses some up."""
    contents = {}
    with ledger._database.read() as connection:
        for table in metadata.sorted_tables:
            counted = [c.name for c in table.primary_key if len(table.primary_key.columns) == 1 and not _is_text(c)]
            columns = [column for column in table.c if column.name not in counted]
            contents[table.name] = sorted((tuple(row) for row in connection.execute(sa.select(*columns))), key=repr)
    return contents


def _is_text(column: "sa.Column[Any]") -> bool:
    return isinstance(column.type, sa.Text)


def _empty(ledger: Ledger) -> None:
    with ledger._database.write() as connection:
        for table in metadata.sorted_tables:
            connection.execute(table.delete())


def test_a_forked_child_and_its_parent_do_not_share_connections(ledger: Ledger) -> None:
    enter(ledger, merge("A", "B"))
    child = FORK.Process(target=do, args=(ledger, "A-B", *STEPS))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    run = ledger.peek("A-B")
    assert run is not None
    assert run.state == "succeeded"


class TestKeptConnections:
    """A step keeps its connections for all that it asks; nobody else gets to see that."""

    def test_calls_share_them(self, ledger: Ledger) -> None:
        made: list[object] = []
        sa.event.listen(ledger._database.engine, "checkout", lambda driver, *_: made.append(driver))
        with ledger.keep_connection():
            _failed(ledger)
            ledger.run("A-B")
        assert len(made) == (2 if ledger._database.is_sqlite else 1)

    def test_what_goes_wrong_leaves_nothing_behind_and_the_next_call_works(self, ledger: Ledger) -> None:
        def stops() -> None:
            with ledger._database.write() as connection:
                connection.execute(sa.text("UPDATE runs SET state = 'failed'"))
                raise ValueError("stop")

        with ledger.keep_connection():
            _entered(ledger)
            with pytest.raises(ValueError, match="stop"):
                stops()
            assert [run.state for run in ledger.runs()] == ["queued"]
            begin(ledger, "A-B")
        assert [run.state for run in ledger.runs()] == ["running"]

    def test_a_call_within_another_sees_nothing_unfinished(self, ledger: Ledger) -> None:
        _entered(ledger)
        with ledger.keep_connection(), ledger._database.write() as connection:
            connection.execute(sa.text("UPDATE runs SET state = 'failed'"))
            assert [run.state for run in ledger.runs()] == ["queued"]

    def test_other_threads_have_their_own(self, ledger: Ledger) -> None:
        _entered(ledger)
        found: list[str] = []
        with ledger.keep_connection(), ledger._database.write() as connection:
            connection.execute(sa.text("UPDATE runs SET state = 'failed'"))
            thread = threading.Thread(target=lambda: found.extend(run.state for run in ledger.runs()))
            thread.start()
            thread.join()
        assert found == ["queued"]
        assert [run.state for run in ledger.runs()] == ["failed"]

    def test_a_forked_child_has_its_own(self, ledger: Ledger) -> None:
        def work() -> None:
            enter(ledger, merge("C", "D"))

        with ledger.keep_connection():
            _entered(ledger)
            child = FORK.Process(target=work)
            child.start()
            child.join(60)
            assert child.exitcode == 0
            enter(ledger, merge("E", "F"))
        assert {run.source for run in ledger.runs()} == {"A", "C", "E"}


def test_it_can_be_used_again_after_it_was_closed(ledger: Ledger) -> None:
    enter(ledger, merge("A", "B"))
    ledger.close()
    ledger.close()
    assert ledger.peek("A-B") is not None


def test_without_a_schema_it_says_what_to_do(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    with pytest.raises(SchemaMissing, match="lern migrate"):
        enter(ledger, merge("A", "B"))
    ledger.close()


def test_an_exception_in_a_transaction_leaves_nothing_and_the_connection_usable(ledger: Ledger) -> None:
    def work() -> None:
        with ledger._database.write() as connection:
            connection.execute(metadata.tables["audit"].insert(), {"at": 1, "who": "x", "action": "y"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert _contents(ledger)["audit"] == []
    assert enter(ledger, merge("A", "B"))[0].new


class TestUnreachable:
    def test_a_file_that_someone_holds_for_too_long(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database, "_BUSY_SECONDS", 0.05)
        file = tmp_path / "ledger.sqlite"
        ledger = Ledger(f"sqlite:///{file}")
        ledger.migrate()
        holder = sqlite3.connect(file, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unreachable, match="ledger cannot be reached: database is locked"):
            enter(ledger, merge("A", "B"))
        assert ledger.peek("A-B") is None
        holder.execute("ROLLBACK")
        holder.close()
        assert enter(ledger, merge("A", "B"))[0].new
        ledger.close()

    def test_a_directory_that_is_not_there_is_made(self, tmp_path: Path) -> None:
        ledger = Ledger(f"sqlite:///{tmp_path}/not/there/ledger.sqlite")
        with pytest.raises(Unreachable):
            enter(ledger, merge("A", "B"))
        assert ledger.version() is None
        ledger.migrate()
        assert enter(ledger, merge("A", "B"))[0].new
        ledger.close()

    def test_a_file_that_is_damaged_is_waited_for_until_a_copy_is_put_back(self, tmp_path: Path) -> None:
        file = tmp_path / "ledger.sqlite"
        ledger = Ledger(f"sqlite:///{file}")
        ledger.migrate()
        enter(ledger, merge("A", "B"))
        ledger.close()
        copy = file.read_bytes()
        for damaged in (b"no database" * 1000, copy[:100] + b"\xff" * (len(copy) - 100)):
            file.write_bytes(damaged)
            for call in (ledger.runs, lambda: enter(ledger, merge("C", "D")), ledger.migrate):
                with pytest.raises(Damaged, match=r"ledger\.sqlite, the ledger's file, is damaged"):
                    call()
            ledger.close()
        assert issubclass(Damaged, Unreachable)
        file.write_bytes(copy)
        assert [run.id for run in ledger.runs()] == ["A-B"]
        ledger.close()

    def test_a_server_that_goes_and_comes_back(self, own_postgres: PostgresServer) -> None:
        ledger = Ledger(own_postgres.new_database())
        ledger.migrate()
        enter(ledger, merge("A", "B"))
        own_postgres.kill()
        for call in (lambda: enter(ledger, merge("C", "D")), lambda: ledger.peek("A-B"), ledger.migrate):
            with pytest.raises(Unreachable, match="ledger cannot be reached"):
                call()
        own_postgres.start()
        assert ledger.peek("A-B") is not None
        assert enter(ledger, merge("C", "D"))[0].new
        ledger.close()

    def test_a_server_that_takes_connections_and_says_nothing(self) -> None:
        """A host that hangs, or a network that drops what is sent."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            place = f"127.0.0.1:{silent.getsockname()[1]}"
            ledger = Ledger(f"postgresql+psycopg://lern@{place}/ledger?connect_timeout=2")
            for call in (lambda: enter(ledger, merge("C", "D")), lambda: ledger.peek("A-B"), ledger.migrate):
                with pytest.raises(Unreachable, match="ledger cannot be reached: connection timeout"):
                    call()

    def test_a_server_that_ends_connections_while_nobody_looks(self, own_postgres: PostgresServer) -> None:
        ledger = Ledger(own_postgres.new_database())
        ledger.migrate()
        own_postgres.stop()
        own_postgres.start()
        with pytest.raises(Unreachable):
            enter(ledger, merge("A", "B"))
        assert enter(ledger, merge("A", "B"))[0].new
        ledger.close()

    def test_a_server_that_takes_no_writes(self, postgres_server: PostgresServer) -> None:
        """As one that follows another: it answers, and will take them when it has been told to go on by itself."""
        url = postgres_server.new_database()
        ledger = Ledger(url)
        ledger.migrate()
        ledger.close()
        postgres_server.read_only(url, on=True)
        with pytest.raises(Unreachable, match="read-only"):
            enter(ledger, merge("A", "B"))
        ledger.close()
        postgres_server.read_only(url, on=False)
        assert enter(ledger, merge("A", "B"))[0].new
        ledger.close()

    def test_no_password_is_told(self) -> None:
        ledger = Ledger("postgresql+psycopg://lern:hush@127.0.0.1:1/ledger")
        with pytest.raises(Unreachable) as raised:
            ledger.peek("A-B")
        assert "hush" not in str(raised.value)


def test_a_ledger_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a file"):
        Ledger("sqlite://")
