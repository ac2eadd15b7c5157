"""Logging: ids on every line, whoever logs it; JSON for machines; no password on any line."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from lern import log
from lern.settings import Settings

JSON = Settings(log_format="json")
URL = "redis://:hunter2@h:6379/0"


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    quiet = {name: logging.getLogger(name).level for name in log.QUIET}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, was in quiet.items():
        logging.getLogger(name).setLevel(was)
    for name, kept in log.HELD_BACK.items():
        logging.getLogger(name).removeFilter(kept)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Give what was logged, line by line."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_logger_level_and_time() -> None:
    stream = io.StringIO()
    log.configure(Settings(), stream)
    structlog.stdlib.get_logger("lern.x").info("step done", rows=12)
    [line] = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "step done", "rows": 12, "logger": "lern.x", "level": "info"}


def test_a_person_at_a_terminal_gets_text() -> None:
    stream = Terminal()
    log.configure(Settings(), stream)
    structlog.stdlib.get_logger("lern.x").info("step done", rows=12)
    assert "step done" in stream.getvalue()
    assert "{" not in stream.getvalue()


def test_the_format_can_be_chosen_against_the_terminal() -> None:
    stream = Terminal()
    log.configure(JSON, stream)
    structlog.stdlib.get_logger("lern.x").info("step done")
    assert lines(stream)[0]["event"] == "step done"


def test_ids_are_on_every_line_inside_and_on_none_outside_even_on_celerys() -> None:
    stream = io.StringIO()
    log.configure(Settings(), stream)
    with structlog.contextvars.bound_contextvars(run="r1", step="merge.content", users=["a", "b"]):
        structlog.stdlib.get_logger("lern.x").info("ours")
        logging.getLogger("celery.worker").info("theirs %s", "too")
    structlog.stdlib.get_logger("lern.x").info("after")
    ours, theirs, after = lines(stream)
    ids = {"run": "r1", "step": "merge.content", "users": ["a", "b"]}
    assert ours.items() >= ids.items()
    assert theirs.items() >= {**ids, "event": "theirs too", "logger": "celery.worker"}.items()
    assert not ids.keys() & after.keys()


@pytest.mark.parametrize("settings", [JSON, Settings(log_format="text")])
def test_no_password_is_logged_by_whatever_way_it_comes(settings: Settings) -> None:
    stream = io.StringIO()
    log.configure(settings, stream)
    structlog.stdlib.get_logger("lern.x").warning("in the text " + URL, field=URL, deep={"list": [URL]})
    logging.getLogger("kombu").warning("Cannot connect to %s", URL)
    try:
        raise ConnectionError(URL)
    except ConnectionError:
        structlog.stdlib.get_logger("lern.x").exception("in a traceback")
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count("***") >= 5


def test_a_traceback_is_part_of_its_line() -> None:
    stream = io.StringIO()
    log.configure(JSON, stream)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("celery").exception("failed")
    [line] = lines(stream)
    assert "ValueError: why" in line["exception"]


def test_what_is_below_the_level_is_left_out_and_chatty_libraries_are_quiet() -> None:
    stream = io.StringIO()
    log.configure(JSON, stream)
    structlog.stdlib.get_logger("lern.x").debug("no")
    logging.getLogger("httpx").info("no")
    logging.getLogger("httpx").warning("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]


def test_debug_lets_the_libraries_speak() -> None:
    stream = io.StringIO()
    log.configure(Settings(log_format="json", log_level="DEBUG"), stream)
    logging.getLogger("httpx").info("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]


def test_configuring_twice_logs_once() -> None:
    stream = io.StringIO()
    log.configure(JSON, stream)
    log.configure(JSON, stream)
    structlog.stdlib.get_logger("lern.x").info("once")
    assert len(lines(stream)) == 1


def test_warnings_of_python_are_logged_too() -> None:
    stream = io.StringIO()
    log.configure(JSON, stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("beware", stacklevel=1)
        logging.captureWarnings(capture=False)
    assert "beware" in lines(stream)[0]["event"]


def test_values_that_json_does_not_know_are_logged_as_text() -> None:
    stream = io.StringIO()
    log.configure(JSON, stream)
    structlog.stdlib.get_logger("lern.x").info("odd", path=Path("/a"), error=ValueError("x"))
    assert lines(stream)[0].items() >= {"path": "/a", "error": "x"}.items()


@pytest.mark.parametrize(("level", "told"), [("INFO", 2), ("DEBUG", 4)])
def test_what_libraries_repeat_is_held_back_unless_somebody_wants_it_all(level: str, told: int) -> None:
    stream = io.StringIO()
    log.configure(Settings.load({"LERN_LOG_LEVEL": level, "LERN_LOG_FORMAT": "json"}), stream)
    for port in (4711, 4712):
        logging.getLogger("lern.kafka").error("FAIL h:%d: Connection refused", port)
    driver = logging.getLogger("cassandra.cluster")
    driver.error("Error preparing query:")
    driver.warning("Host %s has been marked down", "h")
    said = [line["event"] for line in lines(stream)]
    assert (len(said), said[-1]) == (told, "Host h has been marked down")
