"""The way of a request: from what the client sent to the endpoint that will answer, top to bottom in `Router.route`.

Parse, name the model, ask for admission, let producers attach what scorers need, schedule, reserve. From the look at the
pool to the reservation there is no `await`: two requests never take the same free slot. A refusal is raised as a
`Rejection`. Anything else that goes wrong here is our fault, not the request's: it is counted, and the request goes to
the endpoint with the least in flight. Knows no protobuf, no gRPC and no Envoy.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from epp.api import Parsed, Pick, PrefixMatch, Request, TokenLoad
from epp.errors import NoEndpoints, Rejection
from epp.requests.body import MAX_MODEL_LENGTH
from epp.requests.paths import request_path
from epp.scheduling.fallback import least_inflight
from epp.scheduling.guard import contained, place
from epp.telemetry import RequestLabels

if TYPE_CHECKING:
    import random

    from epp.api import Candidates, Endpoint, Pool
    from epp.clock import Clock
    from epp.config.adapters import AdapterMap
    from epp.config.assembly import Installed
    from epp.endpoints.lease import Lease
    from epp.flow.admission import Admission
    from epp.requests.choose import ParserTable
    from epp.scheduling.guard import Guard
    from epp.scheduling.scheduler import Scheduler
    from epp.telemetry import Telemetry

log = structlog.get_logger(__name__)

DESTINATION = "x-gateway-destination-endpoint"
MAX_ID = 128  # characters kept of a request id or fairness id: what clients choose must not fill memory
MODEL_NAME, BASE_MODEL_NAME = "x-gateway-model-name", "x-gateway-base-model-name"
FAIRNESS_ID = ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id")  # the new name beats the old

#: What the client may say to the picker, or what only the picker may say to model servers: removed from the request.
CONTROL_HEADERS = frozenset({
    DESTINATION, MODEL_NAME, BASE_MODEL_NAME, *FAIRNESS_ID,
    "x-gateway-destination-endpoint-subset", "x-gateway-destination-endpoint-served",
    "x-llm-d-inference-objective", "x-gateway-inference-objective",
    "x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite",
    "x-llm-d-slo-ttft-ms", "x-slo-ttft-ms", "x-llm-d-slo-tpot-ms", "x-slo-tpot-ms",
    "x-prefiller-host-port", "x-encoder-hosts-ports", "x-data-parallel-host-port", "x-kv-cache-source-host-port",
})  # fmt: skip

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Subset = Sequence[tuple[str, int | None]]


@dataclass(slots=True)
class Routed:
    """The decision: `endpoints` (the choice, then fallbacks), the lease that counts it, and what goes into the reply."""

    request: Request
    endpoints: Sequence[Endpoint]
    lease: Lease
    labels: RequestLabels
    pick: Pick | None
    set_headers: dict[str, bytes]
    remove_headers: Sequence[str]
    metadata: dict[str, str | Mapping[str, float]] = field(default_factory=dict)

    @property
    def destination(self) -> str:
        """The choice as Envoy reads it: `ip:port`, with fallbacks `ip:port,ip:port`."""
        return ",".join(endpoint.key for endpoint in self.endpoints)


class Journal(Protocol):
    """Keeps recent decisions for whoever asks why."""

    def record(self, request: Request, pick: Pick | None, endpoint: Endpoint, now: float) -> None:
        """Keep the decision; cheap, and nothing of the prompt."""
        ...


class Router:
    """Takes each request its way. Everything it works with is handed in."""

    def __init__(
        self,
        *,
        pool: Pool,
        parsers: ParserTable,
        adapters: AdapterMap,
        admission: Admission,
        producers: Sequence[Installed],
        scheduler: Scheduler,
        observers: Sequence[Installed],
        guard: Guard,
        telemetry: Telemetry,
        journal: Journal,
        clock: Clock,
        random: random.Random,
        emit_scores: bool = False,
        use_subset: bool = True,
    ) -> None:
        """Use `observers` (plugins with a `routed` verb) after each choice; `emit_scores` adds every total to the metadata.

        Without `use_subset` the whole pool is used whatever subset the data plane names.
        """
        self.adapters = adapters  # replaced when its file changes
        self._pool = pool
        self._parsers = parsers
        self._admission = admission
        self._producers = [(one, guard.measured("Producer", one, one.plugin.produce)) for one in producers]
        self._scheduler = scheduler
        self._observers = [(one, guard.measured("Routed", one, one.plugin.routed)) for one in observers]
        self._guard = guard
        self._telemetry = telemetry
        self._journal = journal
        self._clock = clock
        self._random = random
        self._emit_scores = emit_scores
        self._use_subset = use_subset

    async def route(self, headers: Mapping[str, str], body: bytes | None, subset: Subset | None) -> Routed:
        """Choose an endpoint for a request with these `headers` (names in lower case) and `body` (None: it has none).

        `subset` limits the choice: (address, port or None) pairs, None for the whole pool. Raises `Rejection`.
        """
        arrived = self._clock()
        request = self._parse(headers, body)
        labels = RequestLabels(request.model, request.target_model, request.fairness_id, request.priority)
        self._telemetry.request_received(labels, len(request.body))
        try:
            if body is not None:
                await self._admission.admit(request, lambda: self._candidates(subset))
            candidates = self._candidates(subset)
            pick = self._choose(request, candidates, has_body=body is not None)
        except Rejection as rejection:
            self._telemetry.request_rejected(labels, rejection.status, rejection.reason)
            raise
        routed = self._reserve(request, labels, candidates, pick)
        self._telemetry.request_processed(self._clock() - arrived)
        return routed

    # --- parse: body → Request ------------------------------------------------------------------------------------------

    def _parse(self, headers: Mapping[str, str], body: bytes | None) -> Request:
        request = Request(
            id=headers.get("x-request-id", "")[:MAX_ID] or str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            method=headers.get(":method", ""),
            path=headers.get(":path", ""),
            headers=headers,
            body=body or b"",
        )
        for name in FAIRNESS_ID:
            if headers.get(name):
                request.fairness_id = headers[name][:MAX_ID]
                break
        # A POST to an inference API without a body lacks its model: its parser says so. Other requests may well have none.
        if body is not None or (request.method == "POST" and self._parsers.claims(headers)):
            request.parsed = self._read_body(request, body or b"")
            request.model = request.target_model = request.parsed.model or ""
            request.base_model = self.adapters.base_of(request.model) if request.model else ""
        return request

    def _read_body(self, request: Request, body: bytes) -> Parsed:
        try:
            parser = self._parsers.find(request.headers)
            return _checked(contained(parser.parse)(request_path(request.headers), request.headers, body))
        except Rejection as rejection:
            labels = RequestLabels("", "", request.fairness_id, request.priority)
            self._telemetry.request_rejected(labels, rejection.status, rejection.reason)
            raise
        except Exception as error:  # noqa: BLE001 - a fault of ours must not lose the request
            self._fault("parse", request, error)
            return Parsed()

    # --- the choice ---------------------------------------------------------------------------------------------------

    def _candidates(self, subset: Subset | None) -> Candidates:
        if not self._use_subset:
            subset = None
        candidates = self._pool.candidates(subset)
        if len(candidates):
            return candidates
        where = "in the requested subset" if subset is not None and len(self._pool) else "in the pool"
        message = f"no ready endpoint {where}"
        raise NoEndpoints(message)

    def _choose(self, request: Request, candidates: Candidates, *, has_body: bool) -> Pick | None:
        """Let the scheduler choose; None when the choice falls to the least in flight (no body to score, or our fault)."""
        if not has_body:
            return None
        started = self._clock()
        try:
            self._prepare(request, candidates)
            pick = self._scheduler.schedule(request, candidates).primary
        except Rejection:
            self._telemetry.scheduled(request.target_model, "", self._clock() - started)
            raise
        except Exception as error:  # noqa: BLE001 - any ready endpoint is better than a lost request
            self._fault("schedule", request, error)
            return None
        self._telemetry.scheduled(request.target_model, pick.endpoints[0].key, self._clock() - started)
        return pick

    def _prepare(self, request: Request, candidates: Candidates) -> None:
        for producer, produce in self._producers:
            try:
                produce(request, candidates)
            except Exception as error:  # noqa: BLE001 - scorers do without what is missing
                self._guard.failed("Producer", producer, error)

    # --- the reservation ------------------------------------------------------------------------------------------------

    def _reserve(self, request: Request, labels: RequestLabels, candidates: Candidates, pick: Pick | None) -> Routed:
        endpoints = pick.endpoints if pick is not None else [least_inflight(candidates, self._random)]
        chosen = endpoints[0]
        lease = self._pool.reserve(chosen, self._tokens(request, chosen))
        try:
            self._announce(request, endpoints)
            self._journal.record(request, pick, chosen, self._clock())
            return self._reply(request, labels, endpoints, lease, pick)
        except BaseException:
            lease.end()
            raise

    def _tokens(self, request: Request, chosen: Endpoint) -> float:
        """Give the tokens `request` adds on `chosen`, as a producer found; without a usable answer its whole prompt."""
        load = request.get(TokenLoad)
        if load is not None:
            try:
                tokens = float(load.tokens[chosen.row])
                if 0.0 <= tokens < math.inf:
                    return tokens
            except Exception as error:  # noqa: BLE001 - what a plugin attached may be anything
                self._fault("load", request, error)
        return float(request.parsed.prompt_tokens)

    def _announce(self, request: Request, endpoints: Sequence[Endpoint]) -> None:
        match = request.get(PrefixMatch)
        if match is not None and match.total:
            try:
                matched = int(match.matched[endpoints[0].row])
                self._telemetry.prefix_matched(matched * match.block_tokens, match.total * match.block_tokens)
            except Exception as error:  # noqa: BLE001 - as above
                self._fault("prefix", request, error)
        for observer, routed in self._observers:
            try:
                routed(request, endpoints)
            except Exception as error:  # noqa: BLE001 - the choice stands whatever an observer makes of it
                self._guard.failed("Routed", observer, error)

    def _reply(
        self, request: Request, labels: RequestLabels, endpoints: Sequence[Endpoint], lease: Lease, pick: Pick | None
    ) -> Routed:
        destination = ",".join(endpoint.key for endpoint in endpoints)
        headers = {DESTINATION: destination.encode()}
        if request.model:
            headers[MODEL_NAME] = request.model.encode()
        if request.base_model:
            headers[BASE_MODEL_NAME] = request.base_model.encode()
        if "x-request-id" not in request.headers:
            headers["x-request-id"] = request.id.encode()
        remove = [name for name in request.headers if name in CONTROL_HEADERS and name not in headers]
        metadata: dict[str, str | Mapping[str, float]] = {DESTINATION: destination}
        if self._emit_scores and pick is not None and pick.totals is not None:
            totals = pick.totals.tolist()
            metadata[f"{DESTINATION}-scores"] = {e.key: s for e, s in zip(pick.candidates, totals, strict=True)}
        return Routed(request, endpoints, lease, labels, pick, headers, remove, metadata)

    # --- faults -------------------------------------------------------------------------------------------------------

    def _fault(self, stage: str, request: Request, error: Exception) -> None:
        self._telemetry.internal_fault(stage)
        log.error(
            "internal fault, routing by least in-flight",
            stage=stage,
            request_id=request.id,
            error=type(error).__qualname__,  # not its text, which may quote the prompt
            place=place(error),
        )


def _checked(parsed: Parsed) -> Parsed:
    """Make sure that a parser, which may be anybody's, gave what can be routed and put into headers; raise ValueError."""
    model = parsed.model
    if model is not None and not (isinstance(model, str) and len(model) <= MAX_MODEL_LENGTH and not _CONTROL.search(model)):
        message = "a parser gave a model that cannot be a header"
        raise ValueError(message)
    if model:
        model.encode()  # a lone surrogate raises UnicodeEncodeError, which is a ValueError
    return parsed
