"""What commands print: tables, times, JSON. Colours and live bars only where a terminal reads."""

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

# Without a terminal nothing is known of the reader's width: lines stay whole for grep.
PIPED_WIDTH: Final = 200

STATES: Final[Mapping[str, str]] = {
    "queued": "cyan",
    "running": "blue",
    "waiting": "yellow",
    "retry": "yellow",
    "lost": "yellow",
    "succeeded": "green",
    "failed": "bold red",
    "refused": "bold red",
    "undone": "magenta",
    "pending": "dim",
    "open": "yellow",
    "replayed": "green",
    "starting": "yellow",
    "restarting": "bold red",
    "not ready": "bold red",
    "left": "bold red",
    "ended": "dim",
    "ready": "green",
}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def out() -> Console:
    """Give the console for results."""
    if sys.stdout.isatty():
        return Console()
    return Console(width=shutil.get_terminal_size((PIPED_WIDTH, 24)).columns)


def err() -> Console:
    """Give the console for progress and remarks."""
    return Console(stderr=True)


def remark(text: str) -> None:
    """Say something beside the result, on standard error."""
    err().print(Text(text), style="dim", soft_wrap=True)


def table(*columns: str, title: str | None = None) -> Table:
    """Make an empty table in the house's style. A column that ends in `>` is set to the right."""
    result = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        right = column.endswith(">")
        result.add_column(column.removesuffix(">"), justify="right" if right else "left", overflow="fold")
    return result


def state(name: str) -> Text:
    """Give a state in its colour."""
    return Text(name, STATES.get(name, ""))


def text(value: object) -> Text:
    """Give a value as plain text: what people have put into ids is no markup. None is empty."""
    return Text("" if value is None else harmless(str(value)))


def harmless(value: str) -> str:
    """Make control characters visible: an event must not be able to steer the reader's terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else f"\\x{ord(c):02x}" for c in value)


def moment(ms: int | None) -> str:
    """Give a time in this machine's zone; empty for None. `zone` says which zone that is."""
    if ms is None:
        return ""
    try:
        return f"{(_EPOCH + timedelta(milliseconds=ms)).astimezone():%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError):
        return f"{ms} ms"


def zone() -> str:
    """Give the name of this machine's time zone."""
    return datetime.now(UTC).astimezone().tzname() or "local time"


def print_json(records: Iterable[Mapping[str, Any]]) -> None:
    """Print one JSON array of objects and nothing else."""
    typer.echo(json.dumps(list(records), ensure_ascii=False, indent=2, default=_as_json))


def _as_json(value: object) -> object:
    """Give bytes as the text that they are, or in base64 where they are none."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            import base64

            return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, frozenset | set):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} in a record")


class _Count(ProgressColumn):
    """How many are done, and of how many where that is known; or how much, for a bar whose `unit` is %."""

    def render(self, task: Task) -> Text:
        """Give the column's text for a bar."""
        if not task.total:
            return Text(f"{task.completed:,.0f}" if task.completed else "")
        if task.fields.get("unit") == "%":
            return Text(f"{int(task.percentage)} %")
        return Text(f"{task.completed:,.0f} of {task.total:,.0f}")


def progress() -> Progress:
    """Give a live bar on standard error; silent where no terminal reads."""
    console = err()
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *Progress.get_default_columns()[1:2],
        _Count(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
