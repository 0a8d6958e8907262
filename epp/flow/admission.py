"""The gate before scheduling: asks the admitter plugins. A request that waits for its turn will wait here.

`admit` is a coroutine so that queues need no change in the router; today it never gives up the event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from epp.errors import Rejection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from epp.api import Candidates, Request
    from epp.config.assembly import Installed
    from epp.telemetry import Telemetry

log = structlog.get_logger(__name__)


class Admission:
    """Lets a request on to the scheduler, or refuses it with the admitter's own status."""

    def __init__(self, admitters: Sequence[Installed], telemetry: Telemetry) -> None:
        """Ask `admitters` in this order."""
        self._admitters = admitters
        self._telemetry = telemetry

    async def admit(self, request: Request, candidates: Callable[[], Candidates]) -> None:
        """Return when the request may be scheduled; raise the `Rejection` of the first admitter that refuses.

        An admitter that fails in any other way is counted and passed over: its fault is no reason to lose a request.
        """
        for admitter in self._admitters:
            try:
                admitter.plugin.admit(request, candidates())
            except Rejection:
                raise
            except Exception:
                self._telemetry.plugin_failed("Admitter", admitter.type, admitter.name)
                log.exception("admitter failed and was passed over", plugin=admitter.name, request_id=request.id)
