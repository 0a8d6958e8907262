"""How the log looks: text for people, JSON for machines, on stderr; records of other libraries come in the same form.

Values of local variables are never shown with an error: they may hold prompts.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor

DEBUGGING = 4  # the reference's verbosity for debugging; below it, what is worth knowing
_LEVELS = {
    "debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "warning": logging.WARNING,
    "error": logging.ERROR, "dpanic": logging.ERROR, "panic": logging.CRITICAL, "fatal": logging.CRITICAL,
}  # fmt: skip


def level_of(verbosity: int, name: str = "") -> int:
    """Turn `-v` into a level, or `--zap-log-level`, which wins: a name, or a verbosity of its own."""
    if name.lower() in _LEVELS:
        return _LEVELS[name.lower()]
    if name:
        try:
            verbosity = int(name)
        except ValueError:
            message = f"{name!r} is no log level: write debug, info, warn, error or a number"
            raise ValueError(message) from None
    return logging.DEBUG if verbosity >= DEBUGGING else logging.INFO


def is_json(log_format: str, zap_encoder: str = "", stream: TextIO | None = None) -> bool:
    """Decide the form: as asked, else text on a terminal and JSON elsewhere."""
    if log_format == "auto" and zap_encoder:
        return zap_encoder == "json"
    if log_format == "auto":
        return not (stream or sys.stderr).isatty()
    return log_format == "json"


def configure(*, json: bool, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging. Call it once, before the first line."""
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[Processor]
    if json:
        ending = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    else:
        plain = structlog.dev.plain_traceback
        ending = [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain, pad_event_to=0)]
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, _name], processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending]
    )
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.INFO))  # other libraries' debugging is theirs
    # watchfiles tells of every event in a watched directory; with the log in that directory, of its own lines, for ever.
    for chatty in ("aiohttp.access", "watchfiles"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _name(_: Any, __: str, event: Any) -> Any:
    """Add the logger's name to a record of another library."""
    if (record := event.get("_record")) is not None:
        event["logger"] = record.name
    return event
