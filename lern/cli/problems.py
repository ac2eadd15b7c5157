"""How what goes wrong is told: one line that says what and what to do about it, and an exit code.

Exit codes: 0 all went well; 1 work failed or a server is away; 2 the command or the settings are wrong.
"""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import typer

from lern.errors import Damaged, LernError, Overloaded, SettingsError, Unreachable

FAILED: Final = 1
WRONG: Final = 2
INTERRUPTED: Final = 128 + signal.SIGINT

# What to do about a server that does not answer, by its role in the error.
_WHERE: Final = {
    "broker": "LERN_BROKER_URL",
    "locks": "LERN_LOCKS_URL",
    "relations": "LERN_RELATIONS_URL",
    "ledger": "LERN_LEDGER_URL",
    "store": "LERN_STORE_URL",
    "search": "LERN_SEARCH_URL",
    "kafka": "LERN_KAFKA_BOOTSTRAP",
}

# A place that cannot be written to will be none the next time; a full disk may have room again.
_NOT_OURS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})


class WrongUse(LernError):
    """The command was called with what cannot be."""

    code = "WRONG_USE"


class WorkFailed(LernError):
    """The command did what it was asked to, and something in that did not go well."""

    code = "FAILED"


@contextmanager
def told() -> Iterator[None]:
    """Tell an error in one line and end with its exit code. What nobody foresaw keeps its traceback."""
    try:
        yield
    except LernError as error:
        _say(_text(error))
        raise typer.Exit(WRONG if isinstance(error, SettingsError | WrongUse) else FAILED) from error
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"lern", "tasks", "workflows"}:
            raise
        _say(f"this command needs the Python package {error.name}: install lern with its extras, `lern[all]`")
        raise typer.Exit(FAILED) from error
    except UnicodeEncodeError as error:
        # So does Python keep bytes that are no text, in what it was called with.
        _say(f"{error.object[error.start : error.end]!r} is no text: UTF-8 was expected")
        raise typer.Exit(WRONG) from error
    except KeyboardInterrupt:
        _say("stopped")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        _forget_output()
    except OSError as error:
        if error.filename is None:
            raise
        _say(
            f"{error.filename}: {error.strerror}. What Lern keeps is in LERN_DATA_DIR: a directory that it may write to"
        )
        raise typer.Exit(WRONG if error.errno in _NOT_OURS else FAILED) from error


def _text(error: LernError) -> str:
    if isinstance(error, Damaged):
        return f"{error}: {error.advice}"
    if isinstance(error, Unreachable) and not isinstance(error, Overloaded):
        where = _WHERE.get(error.server)
        return f"{_sentence(str(error))} `lern doctor` checks every connection" + (
            f"; {where} says where it is." if where else "."
        )
    return str(error)


def _sentence(text: str) -> str:
    # PostgreSQL's driver asks whether the server is running.
    return text if text.endswith("?") else f"{text.rstrip('.')}."


def _say(text: str) -> None:
    colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    head = typer.style("lern:", fg="red", bold=True) if colours else "lern:"
    typer.echo(f"{head} {text}", err=True, color=colours)


def _forget_output() -> NoReturn:
    """End quietly when nobody reads any more (`lern runs list | head`), also at the interpreter's last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(0)
