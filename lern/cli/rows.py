"""`lern rows load|dump`: learner rows in and out, whatever the store."""

import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Annotated, BinaryIO, Final, cast

import typer

from lern import phrases
from lern.cli import console
from lern.cli.options import existing, writable
from lern.cli.problems import WorkFailed, WrongUse
from lern.cli.rows_of_user import rows_of_user
from lern.cli.stack import create_tables, is_sql, with_broker
from lern.errors import BadRow
from lern.relations import is_relation
from lern.services import Services
from lern.settings import Settings
from lern.store.base import Bad
from lern.store.rows import RELATIONS, BadInput, RelationLine, RowLine, dump_line, dump_relation, load_lines
from lern.store.tables import TABLES, Table

app = typer.Typer(no_args_is_help=True)

PROBLEMS_AT_MOST: Final = 20
ROWS_AT_ONCE: Final = 1_000
IN_MEMORY: Final = 8 * 1024 * 1024


@app.command()
def load(
    file: Annotated[str, typer.Argument(metavar="FILE", help="- for standard input.", show_default=False)],
) -> None:
    """Write the rows of a file to the store: every line is checked before the first is written.

    A line is [bold]{"table": …, "row": {…}}[/bold]; null columns are left out, times are ISO-8601 UTC. A row that
    stands already keeps the columns that the file does not name, or gives as null or as an empty list or map. The
    table "relations" goes to Redis: [bold]{"key": …, "members": […]}[/bold].
    """
    settings = Settings.load()
    if settings.store_url is None:
        create_tables(settings)
    counted = load_file(file, settings)
    numbers = ", ".join(f"{name} {number:,}" for name, number in sorted(counted.items()))
    console.remark(f"{phrases.many(sum(counted.values()), 'line')} loaded" + (f": {numbers}" if numbers else ""))


def load_file(file: str, settings: Settings) -> dict[str, int]:
    """Check and then write the lines of a file; give their number by table. Raises `WorkFailed`, `WrongUse`."""
    with _seekable(file) as lines:
        counted = _check(lines)
        lines.seek(0)
        with _opened(settings, relations=counted.get(RELATIONS, 0) > 0) as parts:
            _write(lines, parts, sum(counted.values()))
    return counted


@contextmanager
def _seekable(file: str) -> Iterator[IO[bytes]]:
    """Open a file that is read twice; what comes from a pipe is kept meanwhile."""
    if Path(file).is_file():
        with Path(file).open("rb") as lines:
            yield lines
        return
    with ExitStack() as ends:
        source = sys.stdin.buffer if file == "-" else ends.enter_context(existing(file).open("rb"))
        kept = ends.enter_context(tempfile.SpooledTemporaryFile(max_size=IN_MEMORY))
        while piece := source.read(1 << 20):
            kept.write(piece)
        kept.seek(0)
        yield cast("IO[bytes]", kept)


def _check(lines: Iterable[bytes]) -> dict[str, int]:
    """Read every line and count them by table. Raises `WorkFailed` with the problems found."""
    counted: dict[str, int] = {}
    problems: list[str] = []
    more = 0
    with console.progress() as bar:
        task = bar.add_task("checking", total=None, note="")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            found = _one(line, number)
            if isinstance(found, BadInput):
                more += len(problems) == PROBLEMS_AT_MOST
                problems += [str(found)] if len(problems) < PROBLEMS_AT_MOST else []
                continue
            name = _table_of(found)
            counted[name] = counted.get(name, 0) + 1
            if not number % ROWS_AT_ONCE:
                bar.update(task, completed=number)
    if problems:
        rest = f"\n  and {phrases.many(more, 'more line')}" if more else ""
        raise WorkFailed("nothing was loaded: mend these lines and load again\n  " + "\n  ".join(problems) + rest)
    return counted


def _one(line: bytes, number: int) -> RowLine | RelationLine | BadInput:
    try:
        found = next(iter(load_lines([line])))
        if isinstance(found, RelationLine) and not is_relation(found.key):
            return BadInput("course:collection:leafnodes, :optionalnodes or :ancestors was expected", "key", number)
        return found
    except BadInput as problem:
        return BadInput(problem.problem, problem.column, number)


def _table_of(line: RowLine | RelationLine) -> str:
    return line.table.name if isinstance(line, RowLine) else RELATIONS


def _write(lines: Iterable[bytes], parts: Services, total: int) -> None:
    """Write checked lines, some at a time, in the order of the file."""
    stream = load_lines(lines)
    with console.progress() as bar:
        task = bar.add_task("loading", total=total, note="")
        while bunch := list(islice(stream, ROWS_AT_ONCE)):
            for _, group in groupby(bunch, key=_table_of):
                _write_group(list(group), parts)
            bar.advance(task, len(bunch))


def _write_group(group: list[RowLine | RelationLine], parts: Services) -> None:
    rows = [line.row for line in group if isinstance(line, RowLine)]
    if rows:
        parts.store.insert(cast("RowLine", group[0]).table, rows)
    for line in group:
        if isinstance(line, RelationLine):
            parts.relations.write(line.key, line.members)


@contextmanager
def _opened(settings: Settings, *, relations: bool) -> Iterator[Services]:
    """Give the services; the private Redis runs only where relations need it."""
    with ExitStack() as ends:
        alone = settings.embedded_redis and settings.relations_url is None
        named = ends.enter_context(with_broker(settings)) if relations and alone else settings
        yield Services(named)


@app.command()
def dump(
    *,
    user: Annotated[list[str] | None, typer.Option("--user", help="Only this account's rows; repeat for more.")] = None,
    table: Annotated[
        list[str] | None, typer.Option("--table", help=f"Only this table: {', '.join((*TABLES, RELATIONS))}.")
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="A file; - is standard output.")] = "-",
) -> None:
    """Write learner rows as lines that [bold]lern rows load[/bold] reads.

    With --user the rows of a table come in the order of their keys; course batches and relations belong to nobody
    and are left out. A row that cannot be read is left out, too: it is named on standard error, and the exit code is 1.
    """
    wanted = _wanted(table)
    settings = Settings.load()
    if settings.store_url is None:
        create_tables(settings)
    relations = RELATIONS in wanted and not user
    tables = [TABLES[name] for name in wanted if name != RELATIONS]
    needs_relations = relations or (bool(user) and not is_sql(settings.store_url_or_default))
    bad = _LeftOut()
    with _opened(settings, relations=needs_relations) as parts, _writer(output) as file:
        count = 0
        for line in _lines(parts, tables, user or [], bad, relations=relations):
            file.write(line.encode() + b"\n")
            count += 1
        file.flush()
    if output != "-":
        console.remark(f"{phrases.many(count, 'line')} written to {output}")
    if bad.count:
        raise WorkFailed(f"{phrases.many(bad.count, 'row')} could not be read and were left out: see above")


class _LeftOut:
    """Tells of rows that cannot be read as they are met, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, error: BadRow) -> None:
        self.count += 1
        console.remark(console.harmless(f"left out: {error}"))


def _wanted(table: list[str] | None) -> list[str]:
    known = (*TABLES, RELATIONS)
    unknown = [name for name in table or () if name not in known]
    if unknown:
        raise WrongUse(f"no table is called {unknown[0]!r}; one of {', '.join(known)} was expected")
    return [name for name in known if not table or name in table]


def _lines(parts: Services, tables: list[Table], users: list[str], bad: Bad, *, relations: bool) -> Iterator[str]:
    for table in tables:
        for row in rows_of_user(parts, table, users, bad) if users else parts.store.scan(table, bad=bad):
            yield dump_line(table, row)
    if relations:
        for key, members in parts.relations.dump():
            yield dump_relation(key, members)


@contextmanager
def _writer(output: str) -> Iterator[BinaryIO]:
    """Open the output. A file appears whole or not at all."""
    if output == "-":
        yield sys.stdout.buffer
        return
    final = Path(output)
    partial = final.with_name(f"{final.name}.partial")
    with writable(partial) as file:
        yield file
    partial.replace(final)
