"""Options that several commands share."""

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Literal

import typer

from lern.cli.problems import WrongUse

# More than anybody lists, and what every database takes.
MANY: Final = 1_000_000_000

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON array of objects with the ledger's column names, nothing else.")
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=MANY, help="How many at most.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the run has ended; exit 1 unless it succeeded.")]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None,
    typer.Option("--loglevel", "-l", case_sensitive=False, help="LERN_LOG_LEVEL otherwise."),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or the beginning of it.", show_default=False)]

_AGO: Final = re.compile(r"(\d{1,6})\s*([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def existing(file: str) -> Path:
    """Give a file's path. Raises `WrongUse` if it is not there to be read."""
    path = Path(file)
    if path.is_dir():
        raise WrongUse(f"{file} is a directory; a file was expected")
    if not path.exists():
        raise WrongUse(f"{file} is not there; a file was expected")
    if not os.access(path, os.R_OK):
        raise WrongUse(f"{file} may not be read by this user")
    return path


def writable(path: Path) -> BinaryIO:
    """Open a file for writing. Raises `WrongUse` where that cannot be."""
    try:
        return path.open("wb")
    except OSError as error:
        raise WrongUse(f"{path} cannot be written: {error.strerror}") from error


def moment_of(value: str | None, option: str, now: datetime | None = None) -> int | None:
    """Read a time (ms since 1970): `2h` ago, a date, or ISO-8601; without an offset it is this machine's time.

    Raises `WrongUse`.
    """
    if value is None:
        return None
    if ago := _AGO.fullmatch(value.strip().lower()):
        time = (now or datetime.now(UTC)) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    else:
        try:
            time = datetime.fromisoformat(value.strip()).astimezone()
        except (ValueError, OverflowError):
            raise WrongUse(f"{option} {value!r}: write 30m, 2h, 7d, 2024-05-01 or 2024-05-01T12:00:00Z") from None
    return round(time.timestamp() * 1000)
