"""The gate before scheduling: asks the admitter plugins. A request that waits for its turn will wait here.

`admit` is a coroutine so that queues need no change in the router; today it never gives up the event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from epp.errors import Rejection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from epp.api import Candidates, Request
    from epp.config.assembly import Installed
    from epp.scheduling.guard import Guard


class Admission:
    """Lets a request on to the scheduler, or refuses it with the admitter's own status."""

    def __init__(self, admitters: Sequence[Installed], guard: Guard) -> None:
        """Ask `admitters` in this order; `guard` counts the failures."""
        self._admitters = [(one, guard.measured("Admitter", one, one.plugin.admit)) for one in admitters]
        self._guard = guard

    async def admit(self, request: Request, candidates: Callable[[], Candidates]) -> None:
        """Return when the request may be scheduled; raise the `Rejection` of the first admitter that refuses.

        An admitter that fails in any other way is counted and passed over: its fault is no reason to lose a request.
        """
        for admitter, ask in self._admitters:
            try:
                ask(request, candidates())
            except Rejection:
                raise
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                self._guard.failed("Admitter", admitter, error)
