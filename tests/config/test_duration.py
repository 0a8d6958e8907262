from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.duration import (
    MAX_QUANTITY,
    format_duration,
    is_bool,
    parse_bool,
    parse_duration,
    parse_quantity,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0), ("50ms", 0.05), ("30s", 30.0), ("1m30s", 90.0), ("1.5h", 5400.0), (".5s", 0.5), ("1.s", 1.0),
        ("2us", 2e-6), ("2µs", 2e-6), ("3ns", 3e-9), ("-1m", -60.0), ("+1s", 1.0), ("1h1m1s1ms", 3661.001), (" 5s ", 5.0),
    ],
)  # fmt: skip
def test_a_duration_is_read_as_go_reads_it(text: str, seconds: float) -> None:
    """Every unit of Go, several of them, fractions and signs."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "5d", "1m30", "--5s", "five", "1,5s", "٣s", "-"])
def test_what_is_no_duration_is_refused_with_what_to_write(text: str) -> None:
    """The error names the units."""
    with pytest.raises(ValueError, match="such as 50ms"):
        parse_duration(text)


@given(st.integers(0, 10**7))
def test_a_duration_written_is_read_again(milliseconds: int) -> None:
    """Writing and reading agree to the millisecond."""
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=1e-3)


@pytest.mark.parametrize(("seconds", "text"), [(0.05, "50ms"), (30, "30s"), (90, "1m30s"), (0, "0s"), (3600, "1h"), (-2, "-2s")])
def test_a_duration_is_written_short(seconds: float, text: str) -> None:
    """Parts that are zero are left out."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("500", 500), (500, 500), ("1k", 1000), ("500M", 500_000_000), ("1Gi", 2**30), ("1.5Gi", 3 * 2**29), ("1e3", 1000),
        ("100m", 1), ("0", 0), (2.5, 3), ("-1", -1), ("-1.5", -2), ("8Ei", None), (".5k", 500),
    ],
)  # fmt: skip
def test_a_quantity_is_read_as_kubernetes_reads_it(value: str | float, number: int | None) -> None:
    """Decimal and binary suffixes and exponents, rounded away from zero; what fits no 64 bits is refused."""
    if number is None:
        with pytest.raises(ValueError, match="too large"):
            parse_quantity(value)
    else:
        assert parse_quantity(value) == number


@given(st.integers(-MAX_QUANTITY, MAX_QUANTITY))
def test_a_whole_quantity_is_itself(number: int) -> None:
    """No digit is lost, as a float would lose."""
    assert parse_quantity(str(number)) == number


@pytest.mark.parametrize("value", ["", "k", "1 k", "1KB", "1e999", True, "lots", "1e-", "nan"])
def test_what_is_no_quantity_is_refused(value: str) -> None:
    """The error says what one looks like."""
    with pytest.raises(ValueError, match="such as 500"):
        parse_quantity(value)


@pytest.mark.parametrize(
    ("text", "size"), [("10MiB", 10 * 2**20), ("25MB", 25_000_000), ("64Mi", 2**26), ("100", 100), ("7b", 7)]
)
def test_a_size_may_end_in_b(text: str, size: int) -> None:
    """As the reference's size flags."""
    assert parse_size(text) == size


def test_a_size_is_not_negative() -> None:
    """There is no negative message."""
    with pytest.raises(ValueError, match="negative"):
        parse_size("-1Mi")


@given(st.text(max_size=8))
def test_is_bool_says_what_parse_bool_reads(text: str) -> None:
    """The two agree on every text."""
    if is_bool(text):
        assert parse_bool(text) in (True, False)
    else:
        with pytest.raises(ValueError, match="neither true nor false"):
            parse_bool(text)


@given(st.text(max_size=12))
def test_strange_text_raises_nothing_but_value_errors(text: str) -> None:
    """Whatever is typed gets an error that the callers expect."""
    for read in (parse_duration, parse_quantity, parse_size):
        with contextlib.suppress(ValueError):
            assert isinstance(read(text), (int, float))
