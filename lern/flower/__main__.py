"""`python -m lern.flower [Flower's options]`: the process behind `lern flower`.

Options come from the command line, else from Flower's configuration file, else from FLOWER_* variables, else from
LERN_FLOWER_* and from here.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final

import structlog
from flower import command
from flower.options import default_options as options
from flower.urls import settings as tornado_settings

from lern import log as logging
from lern.errors import SettingsError
from lern.flower.access import Access
from lern.flower.application import Application
from lern.flower.templates import UnknownFlower
from lern.services import Services
from lern.settings import Settings

log = structlog.get_logger()

FAILED: Final = 1
# For what will be as wrong the next time. A ledger that is away is not: the pages say so until it is back.
WRONG: Final = 2
# What Flower keeps in memory of tasks, at some 7 kB each; left to itself it keeps 100,000. Nobody misses an older one:
# the ledger knows every run, and the page of a task that Flower has let go leads there.
RECENT_TASKS: Final = 5_000


def application(settings: Settings, arguments: Sequence[str] = ()) -> Application:
    """Make the application from settings, Flower's variables and its options. Raises `SettingsError`."""
    options.port, options.address = settings.flower_port, settings.flower_address
    options.max_tasks = RECENT_TASKS
    command.apply_env_options()
    _check(arguments)
    try:
        command.apply_options("lern flower", list(arguments))
    except OSError as error:
        raise SettingsError(f"FLOWER_CONF={options.conf}: {error.strerror}: {error.filename}") from error
    access = Access.of(options, settings.flower_readonly_users, settings.flower_api_token)
    command.extract_settings()
    command.setup_logging()
    return Application(Services(settings), access, options=options, **tornado_settings)


def _check(arguments: Sequence[str]) -> None:
    """Refuse what Flower would silently leave out. Raises `SettingsError`."""
    unknown = [word for word in arguments if not command.is_flower_option(word)]
    if unknown:
        raise SettingsError(f"{' '.join(unknown)}: no option of Flower's; they are written --name=value")


def main() -> int:
    """Serve until SIGTERM or Ctrl-C."""
    settings = Settings.load()
    logging.configure(settings)
    try:
        made = application(settings, sys.argv[1:])
        port = made.start_http_server()
    except (SettingsError, UnknownFlower) as error:
        sys.stderr.write(f"lern: {error}\n")
        return WRONG
    except OSError as error:
        sys.stderr.write(
            f"lern: {options.address}:{options.port} cannot be listened on: {error.strerror or error}. "
            "LERN_FLOWER_ADDRESS and LERN_FLOWER_PORT name another\n"
        )
        return FAILED

    def end(_number: int, _frame: Any) -> None:
        made.io_loop.add_callback_from_signal(made.stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    log.info("Flower is there", url=f"http://{options.address}:{port}/{(options.url_prefix or '').strip('/')}")
    made.start()
    made.parts.ledger.close()
    # Flower's thread that listens to the workers is a daemon in the middle of a blocking read.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
