from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from epp.cli.logs import configure, is_json, level_of

PROMPT = "the prompt"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave the logging of the test run as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    access = logging.getLogger("aiohttp.access").level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("aiohttp.access").setLevel(access)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def fail(secret: str) -> None:
    """Raise with a local variable that must not be shown."""
    if secret:
        raise ZeroDivisionError


def test_json_has_one_entry_a_line() -> None:
    """Event, level, time and values; an error's traceback as text, without local variables."""
    stream = io.StringIO()
    configure(json=True, stream=stream)
    log = structlog.get_logger("test")
    log.info("served", endpoint="10.0.0.1:8000", odd=object)
    try:
        fail(PROMPT)
    except ZeroDivisionError:
        log.exception("failed")
    logging.getLogger("aiohttp.server").warning("of %s", "another")
    logging.getLogger("aiohttp.access").info("not shown")
    served, failed, foreign = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (served["event"], served["level"], served["endpoint"]) == ("served", "info", "10.0.0.1:8000")
    assert served["timestamp"].endswith("Z")
    assert "ZeroDivisionError" in failed["exception"]
    assert PROMPT not in stream.getvalue()
    assert (foreign["event"], foreign["level"], foreign["logger"]) == ("of another", "warning", "aiohttp.server")


def test_text_is_for_people() -> None:
    """Without colours where there is no terminal, and without local variables."""
    stream = io.StringIO()
    configure(json=False, stream=stream)
    log = structlog.get_logger("test")
    log.warning("served", endpoint="10.0.0.1:8000")
    try:
        fail(PROMPT)
    except ZeroDivisionError:
        log.exception("failed")
    text = stream.getvalue()
    assert "served endpoint=10.0.0.1:8000" in text
    assert "\x1b" not in text
    assert "ZeroDivisionError" in text
    assert PROMPT not in text


def test_the_level_is_kept_to() -> None:
    """Of ours, and of other libraries never below info."""
    stream = io.StringIO()
    configure(json=True, level=logging.DEBUG, stream=stream)
    structlog.get_logger("test").debug("ours")
    logging.getLogger("asyncio").debug("theirs")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["ours"]
    quiet = io.StringIO()
    structlog.reset_defaults()
    configure(json=True, level=logging.WARNING, stream=quiet)
    structlog.get_logger("other").info("not shown")
    assert quiet.getvalue() == ""


@pytest.mark.parametrize(
    ("verbosity", "name", "level"),
    [
        (0, "", logging.INFO), (2, "", logging.INFO), (4, "", logging.DEBUG), (9, "error", logging.ERROR),
        (2, "DEBUG", logging.DEBUG), (2, "5", logging.DEBUG), (9, "1", logging.INFO),
    ],
)  # fmt: skip
def test_the_level_is_from_v_or_zap(verbosity: int, name: str, level: int) -> None:
    """The name wins, and may be a verbosity."""
    assert level_of(verbosity, name) == level


def test_an_unknown_level_is_refused() -> None:
    """With those there are."""
    with pytest.raises(ValueError, match="debug, info, warn, error or a number"):
        level_of(2, "loud")


@pytest.mark.parametrize(
    ("log_format", "encoder", "terminal", "json_wanted"),
    [
        ("auto", "", True, False), ("auto", "", False, True), ("text", "json", False, False), ("json", "", True, True),
        ("auto", "json", True, True), ("auto", "console", False, False),
    ],
)  # fmt: skip
def test_the_form_is_as_asked_else_by_the_stream(log_format: str, encoder: str, *, terminal: bool, json_wanted: bool) -> None:
    """People get text, machines JSON."""
    assert is_json(log_format, encoder, Terminal() if terminal else io.StringIO()) is json_wanted
