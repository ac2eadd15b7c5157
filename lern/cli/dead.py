"""`lern dead list|show|replay`."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Final, get_args

import typer
from rich.padding import Padding
from rich.text import Text

from lern import actions
from lern.cli import console
from lern.cli.options import AsJson, Limit, Wait, existing
from lern.cli.problems import WrongUse
from lern.cli.runs import ledger_of
from lern.cli.stack import stack
from lern.cli.waiting import PAUSE, has_worker, require_success, wait_for, whoami
from lern.errors import Refused
from lern.ledger import DeadLetter, Ledger
from lern.ledger.records import DeadState
from lern.services import Services
from lern.settings import Settings

app = typer.Typer(no_args_is_help=True)

# How long (s) a worker may take to say what became of a replayed event.
PATIENCE: Final = 15.0

# As many as a database can count.
DeadId = Annotated[
    int, typer.Argument(metavar="ID", min=1, max=2**63 - 1, help="The dead letter's number.", show_default=False)
]


@app.command(name="list")
def list_dead(
    *,
    state: Annotated[str | None, typer.Option("--state", "-s", help="open or replayed; both otherwise.")] = None,
    code: Annotated[str | None, typer.Option("--code", help="Only these, as in MISSING_FIELD.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List the events that could not become a run, the latest first, each with its reason."""
    with ledger_of(Settings.load()) as ledger:
        found = ledger.dead_letters(state=_state(state), code=code, limit=limit + 1)
    shown = found[:limit]
    if as_json:
        console.print_json(asdict(letter) for letter in shown)
        return
    if not shown:
        console.remark("no dead letters")
        return
    console.out().print(table(shown))
    if len(found) > limit:
        console.remark(f"only the latest {limit}; --limit shows more")


def _state(name: str | None) -> DeadState | None:
    known: dict[str, DeadState] = {state: state for state in get_args(DeadState)}
    if name is not None and name not in known:
        raise WrongUse(f"--state {name!r}: one of {', '.join(known)} was expected")
    return None if name is None else known[name]


def table(letters: list[DeadLetter]) -> Any:
    """Give dead letters as a table."""
    result = console.table("id>", "state", "times>", f"last ({console.zone()})", "topic", "field", "code and reason")
    for letter in letters:
        result.add_row(
            str(letter.id),
            console.state(letter.state),
            str(letter.count),
            console.moment(letter.last_at),
            console.text(letter.topic),
            console.text(letter.field),
            # A column of its own would leave no room for the field at 80 columns.
            console.text(f"{letter.code}: {letter.reason}"),
        )
    return result


@app.command()
def show(dead_id: DeadId, *, as_json: AsJson = False) -> None:
    """Show a dead letter with the event as it came."""
    with ledger_of(Settings.load()) as ledger:
        letter = _letter(ledger, dead_id)
    if as_json:
        console.print_json([asdict(letter)])
        return
    screen = console.out()
    screen.print(Text.assemble(("dead letter ", "bold"), (str(letter.id), "bold"), "  ", console.state(letter.state)))
    facts = {
        "why": f"{' '.join(filter(None, (letter.code, letter.field)))}: {letter.reason}",
        "topic": letter.topic,
        "place": place(letter),
        "came": f"{letter.count} times" if letter.count > 1 else "once",
        "first": f"{console.moment(letter.first_at)} {console.zone()}",
        "last": f"{console.moment(letter.last_at)} {console.zone()}",
        "became": f"run {letter.run_id}" if letter.run_id else "",
    }
    for name, value in facts.items():
        if value:
            screen.print(Padding(Text.assemble((f"{name:<7}", "dim"), console.text(value)), (0, 0, 0, 2), expand=False))
    screen.print()
    typer.echo(pretty(letter.value))
    if letter.state == "open":
        console.remark(f"\nlern dead replay {letter.id} takes it in again; --file CORRECTED.json in its place")


def pretty(value: bytes) -> str:
    """Give an event's bytes indented if they are JSON, as they are otherwise; nothing of it steers a terminal."""
    text = value.decode("utf-8", "backslashreplace")
    try:
        indented = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return console.harmless(text)
    # As JSON escapes it: what is shown can be taken for the beginning of a corrected event.
    return "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in indented)


def place(letter: DeadLetter) -> str:
    """Say where an event stood: in Kafka, or in which line of a file."""
    if letter.offset is None:
        return ""
    return (
        f"line {letter.offset}" if letter.partition is None else f"partition {letter.partition}, offset {letter.offset}"
    )


@app.command()
def replay(
    dead_id: DeadId,
    *,
    file: Annotated[
        str | None, typer.Option("--file", help="The corrected event, taken in its place.", show_default=False)
    ] = None,
    wait: Wait = False,
) -> None:
    """Take a dead letter in again: as it came, or corrected. Prints the id of the run that it becomes.

    With the embedded default, and no worker at work, the run is carried out here and now.
    """
    settings = Settings.load()
    corrected = None if file is None else existing(file).read_bytes().strip()
    with stack(settings) as running:
        parts = Services(running.settings)
        ours = settings.embedded_redis and not has_worker(parts)
        asked = actions.replay(parts, dead_id, whoami(), corrected)
        if ours:
            running.start_worker()
        letter = _became(parts, asked, running.check, patience=math.inf if wait else PATIENCE)
        if letter is None or letter.run_id is None:
            console.remark("sent, but no worker has taken it in yet")
            return
        typer.echo(letter.run_id)
        if wait or ours:
            require_success(wait_for(parts, letter.run_id, running.check))


def _became(parts: Services, asked: actions.Asked, check: Callable[[], None], patience: float) -> DeadLetter | None:
    """Wait until a worker has made a run of it; None if none has for so long (s). Raises `Refused`."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            letter = actions.became(parts, asked)
        except Refused as refused:
            raise Refused(f"{refused}; --file takes a corrected event in its place") from refused
        if letter is not None:
            return letter
        check()
        time.sleep(PAUSE)
    return None


def _letter(ledger: Ledger, dead_id: int) -> DeadLetter:
    letter = ledger.dead_letter(dead_id)
    if letter is None:
        raise Refused(f"there is no dead letter {dead_id}; lern dead list shows which there are")
    return letter
