"""What surrounds each verb of a plugin: its duration is reported, and so is its failure, in the log at most once a minute.

Decides what is said about a failure, never what follows from it: that is the profile's and the scheduler's. The log names
the kind of error and the line of code, not the error's text, which may quote the prompt.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from epp.clock import Clock
    from epp.config.assembly import Installed
    from epp.telemetry import Telemetry

log = structlog.get_logger(__name__)

QUIET = 60.0  # seconds between two log lines about the same verb of the same plugin


class NonsenseError(ValueError):
    """A plugin gave something of the wrong kind, shape or range. The text is ours, so the log may show it."""


def failure(error: BaseException) -> Exception:
    """Make of what a plugin's verb raised what ends that verb only: `SystemExit` and its like would end the picker.

    A verb awaits nothing, so a `CancelledError` from it is no cancellation of ours. Neither is a `KeyboardInterrupt` the
    operator's: signals are handled on the event loop (`epp.app`), which does not run while a verb does.
    """
    if isinstance(error, Exception):
        return error
    return NonsenseError(f"raised {type(error).__qualname__}").with_traceback(error.__traceback__)


def contained(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `verb` so that all it can raise is an `Exception`."""

    def run(*arguments: Any) -> Any:
        try:
            return verb(*arguments)
        except Exception:
            raise
        except BaseException as error:
            raise failure(error) from error

    return run


def ends_task(error: BaseException) -> bool:
    """Tell whether `error` ends the running task by our own will: the task is being cancelled, or its coroutine closed."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, GeneratorExit)


class Guard:
    """Measures verbs and takes note of failures."""

    def __init__(self, telemetry: Telemetry, timer: Clock) -> None:
        """Report to `telemetry`; `timer` measures, and spaces the log lines."""
        self._telemetry = telemetry
        self._timer = timer
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}  # when last, and how many failures since

    def measured(self, point: str, installed: Installed, verb: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `verb` so that the time it takes is reported, whether it returns or raises, and it raises an `Exception`."""
        timer, report = self._timer, self._telemetry.plugin_ran
        kind, name = installed.type, installed.name

        def run(*arguments: Any) -> Any:
            started = timer()
            try:
                return verb(*arguments)
            except Exception:
                raise
            except BaseException as error:
                raise failure(error) from error
            finally:
                report(point, kind, name, timer() - started)

        return run

    def failed(self, point: str, installed: Installed, error: Exception) -> None:
        """Count the failure; log it unless the same verb was logged less than a minute ago."""
        self._telemetry.plugin_failed(point, installed.type, installed.name)
        key, now = (point, installed.name), self._timer()
        last, unlogged = self._logged.get(key, (None, 0))
        if last is not None and now - last < QUIET:
            self._logged[key] = last, unlogged + 1
            return
        self._logged[key] = now, 0
        log.error(
            "plugin failed, going on without it",
            point=point,
            plugin=installed.name,
            type=installed.type,
            error=str(error) if isinstance(error, NonsenseError) else type(error).__qualname__,
            place=place(error),
            unlogged=unlogged,
        )


def place(error: BaseException) -> str:
    """Name the line of code that raised: `file:line`."""
    traceback = error.__traceback__
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
