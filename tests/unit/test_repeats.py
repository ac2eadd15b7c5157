"""What a library says again and again is said once in a while, and only that."""

import logging

from lern.repeats import Repeats

FAIL = "FAIL [rdkafka#consumer-%d] [thrd:h:9092/bootstrap]: connection refused (after %dms in state CONNECT)"


class Clock:
    """Time (s) that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(text: str, *args: object, level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord("lern.kafka", level, __file__, 1, text, args, None)


def test_the_same_line_passes_once_in_a_while_and_says_how_many_were_left_out() -> None:
    clock = Clock()
    kept = Repeats(30, clock)
    passed = []
    for clock.now in range(61):
        line = record(FAIL, 3, clock.now)
        if kept.filter(line):
            passed.append((clock.now, line.getMessage()))
    first, *later = [FAIL % (3, moment) for moment in (0, 30, 60)]
    assert passed == [(0, first), *zip((30, 60), [f"{line} (and 29 times before)" for line in later], strict=True)]


def test_another_line_or_another_level_is_not_held_back() -> None:
    kept = Repeats(30, Clock())
    assert kept.filter(record("connection refused"))
    assert kept.filter(record("the certificate has expired"))
    assert kept.filter(record("connection refused", level=logging.WARNING))
    assert not kept.filter(record("connection refused"))


def test_what_was_kept_back_is_not_kept_in_memory() -> None:
    kept = Repeats(30, Clock())
    for number in range(1000):
        assert kept.filter(record("topic " + "x" * number))
    assert len(kept._passed) <= 200
