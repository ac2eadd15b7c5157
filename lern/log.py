"""Logging: structlog and the standard library's loggers through one formatter, with run, step and users on every line.

JSON, one object a line, unless the stream is a terminal. Needs the `worker` extra.
"""

import logging
import sys
from typing import TYPE_CHECKING, Final, TextIO

import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter

from lern.repeats import RaisedToo, Repeats
from lern.urls import redacted

if TYPE_CHECKING:
    from structlog.typing import Processor

    from lern.settings import Settings

# Loggers that tell of every request or message at INFO; they are heard from WARNING on, unless the level is DEBUG.
QUIET: Final = (
    "alembic",
    "amqp",
    "cassandra",
    # A step writes one line of its own; "received" and "succeeded" would be two more, with the event in them.
    "celery.app.trace",
    "celery.worker.strategy",
    "elastic_transport",
    "httpcore",
    "httpx",
    "kombu",
)

# Loggers that say the same while a server is away, each with what is kept back of it, unless the level is DEBUG.
HELD_BACK: Final[dict[str, logging.Filter]] = {
    "cassandra.cluster": RaisedToo(),
    "cassandra.pool": Repeats(),
    "lern.kafka": Repeats(),
}


class _RedactingFormatter(ProcessorFormatter):
    """Take passwords out of the finished line: whatever brought them there, a field, an argument or a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        line = super().format(record)
        return redacted(line) if "://" in line else line


def configure(settings: "Settings", stream: TextIO | None = None) -> None:
    """Send all logging of this process to `stream` (standard error), in place of whatever was set up before.

    `log_format` and `log_level` say how. To be called once at the start of a process; Celery's own set-up is kept
    away by its `setup_logging` signal.
    """
    out = sys.stderr if stream is None else stream
    level = settings.log_level
    text = is_text(settings, out)
    handler = logging.StreamHandler(out)
    handler.setFormatter(_formatter(text=text, colours=out.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(capture=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "DEBUG" else logging.WARNING)
    for name, kept in HELD_BACK.items():
        # Once, however often we are called: what is removed need not be there.
        logging.getLogger(name).removeFilter(kept)
        if level != "DEBUG":
            logging.getLogger(name).addFilter(kept)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_shared(), ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=BoundLogger,
        cache_logger_on_first_use=True,
    )


def is_text(settings: "Settings", stream: TextIO) -> bool:
    """Say whether what is logged to a stream is text for people; otherwise it is JSON."""
    return settings.log_format == "text" or (settings.log_format == "auto" and stream.isatty())


def _shared() -> list["Processor"]:
    """Give what is done to our own records and to those of other libraries alike."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.UnicodeDecoder(),
    ]


def _formatter(*, text: bool, colours: bool) -> logging.Formatter:
    # Without exception_formatter the console renderer would print every local variable of a traceback.
    plain = structlog.dev.plain_traceback
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
        if text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str, ensure_ascii=False)]
    )
    return _RedactingFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *_shared()],
        processors=[ProcessorFormatter.remove_processors_meta, *last],
    )
