"""Times that older versions of Sunbird kept as text."""

import pytest

from lern.rules.times import instant, later_text


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2022-02-21 05:54:43:853+0000", 1_645_422_883_853),
        ("2022-02-21 11:24:43:853+0530", 1_645_422_883_853),
        ("1969-12-31 23:59:59:999+0000", -1),
        ("1970-01-01 00:00:00:000+0000", 0),
        ("0001-01-01 00:00:00:000+2359", -62_135_683_140_000),
        ("9999-12-31 23:59:59:999-2359", 253_402_387_139_999),
    ],
)
def test_a_text_time_is_an_instant(text: str, milliseconds: int) -> None:
    assert instant(text) == milliseconds


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "null",
        "2022-02-21",
        "2022-02-21T05:54:43.853Z",
        "2022-02-21 05:54:43.853+0000",
        "2022-02-21 05:54:43:85+0000",
        "2022-02-21 05:54:43:853",
        "2022-02-21 05:54:43:853+00:00",
        "2022-02-30 05:54:43:853+0000",
        "2022-13-01 05:54:43:853+0000",
        "2022-02-21 24:54:43:853+0000",
        "0000-01-01 00:00:00:000+0000",
        "2022-02-21 05:54:43:853+9900",
        " 2022-02-21 05:54:43:853+0000",
        "2022-02-21 05:54:43:853+0000\n",
        "２０２２-02-21 05:54:43:853+0000",
    ],
)
def test_anything_else_is_none(text: str | None) -> None:
    assert instant(text) is None


def test_the_ends_of_the_calendar_can_be_compared() -> None:
    first, last = "0001-01-01 00:00:00:000+2359", "9999-12-31 23:59:59:999-2359"
    assert later_text(first, last) == later_text(last, first) == last
