"""What a version leaves behind when it dies at its worst: written down, for later versions to finish.

    python -m tests.acceptance.leaving DIRECTORY

In the directory afterwards, compressed: `ledger.sql`, in which every kind of run has died between the journal of a
chunk and its writes, at each of its chunks; `rows.jsonl`, the learner rows as they were left; and `expected.jsonl`,
what they are where nobody dies. `tests/acceptance/left` has them by the ledger's schema, of a version that had it. The
first had no undo and no transfers, the second no undo of transfers. They stay as they are: what was journalled once
must be read.
"""

import gzip
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

from lern import undo
from lern.chunks.merge import MergeChunk
from lern.chunks.ownership import OwnershipChunk
from lern.chunks.returned import ReturnedChunk
from lern.chunks.sync import SyncChunk
from lern.chunks.undo import UndoChunk
from lern.embedded import EmbeddedRedis
from lern.store.rows import dump_line
from lern.store.tables import COURSE_BATCH, TABLES
from tasks.step import now_ms
from tests.acceptance.place import Place
from tests.accounts import RELATIONS, two_accounts
from tests.batches import batch, transfer_event
from workflows.intake import Message, take_in

KINDS: Final[tuple[Any, ...]] = (MergeChunk, SyncChunk, UndoChunk, OwnershipChunk, ReturnedChunk)
BATCHES: Final = 5
SETTINGS: Final = {"merge_tables": "current,legacy", "chunk_rows": "2"}


class Death(BaseException):
    """Nothing catches it, as nothing catches SIGKILL; that the locks are given back is all the difference."""


@contextmanager
def dying_at(number: int | None) -> Iterator[list[str]]:
    """Die when chunk `number`, from 1, has been journalled; gives the list of those that were carried out."""
    done: list[str] = []
    real = {kind: kind.carry_out for kind in KINDS}

    def dies(kind: Any) -> Callable[..., Any]:
        def carry_out(self: Any, *arguments: Any) -> Any:
            if len(done) + 1 == number:
                raise Death
            done.append(kind.__name__)
            return real[kind](self, *arguments)

        return carry_out

    for kind in KINDS:
        kind.carry_out = dies(kind)
    try:
        yield done
    except Death:
        pass
    finally:
        for kind, carry_out in real.items():
            kind.carry_out = carry_out


def merge(place: Place, name: str) -> str:
    """Enter the merge of two accounts of this name."""
    place.load(two_accounts(f"from-{name}", f"to-{name}"))
    return place.enter(f"from-{name}", f"to-{name}", name)


def transfer(place: Place, name: str) -> str:
    """Enter the transfer of some batches."""
    source, target = f"creator-{name}", f"Heir-{name}"
    rows = [batch(i, batchid=f"{name}-{i}", createdby=source, mentors=[source, "x"]) for i in range(BATCHES)]
    place.services.store.insert(COURSE_BATCH, rows)
    message = Message(None, None, None, None, transfer_event(source, target, name))
    return take_in(place.services, [message]).entered[0].run_id


def taken_back(entered: Callable[[Place, str], str]) -> Callable[[Place, str], str]:
    """Carry out a run and enter its undo."""

    def enter(place: Place, name: str) -> str:
        done = place.carry_out(entered(place, name))
        if done.state != "succeeded":
            raise SystemExit(f"{name}: {done}")
        return undo.request(place.services.ledger, done.id, now_ms()).run_id

    return enter


WORK: Final[dict[str, Callable[[Place, str], str]]] = {
    "merge": merge,
    "undo": taken_back(merge),
    "transfer": transfer,
    "return": taken_back(transfer),
}


def leave(directory: Path) -> None:
    """Write down what this version leaves, and what there is where nobody dies."""
    directory.mkdir(parents=True, exist_ok=True)
    names: list[tuple[str, str]] = []
    with at(directory / "left") as place:
        for kind, enter in WORK.items():
            for number in count(1):
                name = f"{kind}-{number}"
                names.append((kind, name))
                run_id = enter(place, name)
                with dying_at(number) as done:
                    place.carry_out(run_id)
                if len(done) < number - 1:
                    raise SystemExit(f"{name} has come to chunk {len(done)} alone")
                if place.run(run_id).state == "succeeded":
                    break
        # Some that nobody has begun, and what was no event.
        merge(place, "queued")
        take_in(place.services, [Message(None, None, None, None, b"{")])
        dump(place, directory / "rows.jsonl.gz")
        file = place.settings.data_dir / "ledger.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        write(directory / "ledger.sql.gz", connection.iterdump())
    with at(directory / "peace") as place:
        for kind, name in [*names, ("merge", "queued")]:
            run = place.carry_out(WORK[kind](place, name))
            if run.state != "succeeded":
                raise SystemExit(f"{name}: {run}")
        dump(place, directory / "expected.jsonl.gz")


@contextmanager
def at(directory: Path) -> Iterator[Place]:
    """Give a place in which every kind of row is merged, in small chunks."""
    with (
        tempfile.TemporaryDirectory() as redis_directory,
        EmbeddedRedis(Path(redis_directory)) as redis,
        closing(Place.at(directory, redis.url, **SETTINGS)) as place,
    ):
        place.create()
        place.load([], RELATIONS)
        yield place


def dump(place: Place, file: Path) -> None:
    """Write all learner rows."""
    write(file, lines_of(place))


def lines_of(place: Place) -> list[str]:
    """Give all learner rows as lines, sorted."""
    store = place.services.store
    return sorted(dump_line(table, row) for table in TABLES.values() for row in store.scan(table))


def write(file: Path, lines: Iterable[str]) -> None:
    """Write lines, the same bytes for the same lines."""
    file.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))


def read(file: Path) -> list[str]:
    """Read lines back."""
    return gzip.decompress(file.read_bytes()).decode().splitlines()


if __name__ == "__main__":
    leave(Path(sys.argv[1]))
