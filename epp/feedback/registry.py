"""Exchanges: routed requests whose end is still to be learned. Decides when a lease ends, and tells each outcome once.

The ext_proc stream sees an answer begin and, in some modes, end. Where Envoy announced its access log, the entry tells the
rest: status, served endpoint, usage, and in released mode the end itself. An exchange that waits for an entry which
cannot come any more is given up, so nothing is counted for ever. Knows no protobuf; the clock is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import structlog

from epp.api import Outcome, Usage
from epp.feedback.access_log import CLIENT_DISCONNECT, ERROR, NATURAL
from epp.feedback.nodes import OpenStreams, announces_log, node_of
from epp.feedback.unnamed import Unnamed
from epp.scheduling.guard import place

if TYPE_CHECKING:
    import random

    from epp.api import Endpoint, Pool, Request
    from epp.clock import Clock
    from epp.endpoints.lease import Lease
    from epp.feedback.access_log import Entry
    from epp.telemetry import RequestLabels, Telemetry

log = structlog.get_logger(__name__)

EVICTED = "evicted"
_LOG_AGAIN = 60.0  # seconds between two log lines about the same failing plugin


class Hook(NamedTuple):
    """A plugin's optional verb, with the name and type it is counted under when it raises."""

    name: str
    type: str
    call: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an exchange waits for its access-log entry, in seconds, and how many may wait.

    `grace` is after all log streams of its Envoy closed: reopening one takes Envoy far less. `report` is for an answer
    that is known to be over and lacks only the entry's details, which Envoy sends within its flush interval. `age` is
    the last resort for an exchange whose end nobody told; a long generation must fit in. `reports` bounds the records
    of answers that are over.
    """

    grace: float = 10.0
    report: float = 60.0
    age: float = 3600.0
    reports: int = 100_000


@dataclass(slots=True)
class Counts:
    """What happened beside the ordinary: entries without an exchange, exchanges without an entry."""

    late: int = 0  # entries of exchanges already finished here
    unknown: int = 0  # entries of requests this process did not route
    gone: int = 0  # given up because their Envoy's log streams closed, or it went before it had one
    expired: int = 0  # given up by age
    unreported: int = 0  # answer over, entry never came, told with what the stream saw
    overflowed: int = 0  # told early because too many waited


class RoutedRequest(Protocol):
    """What the router decided, as far as it matters here."""

    @property
    def request(self) -> Request:
        """The request; its body and prompt are dropped when they are no longer needed."""
        ...

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """The choice, then fallbacks."""
        ...

    @property
    def lease(self) -> Lease:
        """What counts the request; it passes to the registry."""
        ...

    @property
    def labels(self) -> RequestLabels:
        """The labels of its metrics."""
        ...


@dataclass(slots=True, eq=False)
class Exchange:
    """One routed request on its way to being finished. Only the registry changes it."""

    id: str
    request: Request
    lease: Lease
    endpoint: Endpoint
    labels: RequestLabels
    started: float
    node: str
    announced: bool  # an access-log entry will come
    streaming: bool
    seen: Outcome = field(default_factory=Outcome)  # by the stream, so far
    began: bool = False  # the answer's first bytes came
    ended: bool = False  # the lease is over
    finished: bool = False
    waiting_since: float | None = None  # the stream is over, the entry has not come

    @property
    def request_id(self) -> str:
        """The request's id, by which an entry that names no exchange may find it."""
        return self.request.id

    def forget_body(self) -> None:
        """Drop the body and the prompt: they are large and the answer may take long."""
        self.request.body = b""
        self.request.parsed.prompt = b""


class Exchanges:
    """The registry of exchanges. Every one that is registered finishes exactly once, by one of several ways."""

    def __init__(
        self,
        *,
        pool: Pool,
        telemetry: Telemetry,
        clock: Clock,
        random: random.Random,
        first_token: Sequence[Hook] = (),
        finished: Sequence[Hook] = (),
        patience: Patience | None = None,
    ) -> None:
        """Call the hooks `first_token(request, endpoint)` and `finished(request, outcome)` as that is learned."""
        self.counts = Counts()
        self._pool = pool
        self._telemetry = telemetry
        self._clock = clock
        self._first_token = first_token
        self._finished = finished
        self._patience = patience or Patience()
        self._nonce = f"{random.getrandbits(64):016x}-"  # so that a restarted picker does not take old entries for its own
        self._registered = 0
        self._streams = OpenStreams()
        self._proxies = OpenStreams()
        self._unnamed: Unnamed[Exchange] = Unnamed()
        self._open: dict[str, Exchange] = {}
        self._waiting: dict[str, dict[str, Exchange]] = {}  # by node, then in the order they began to wait
        self._reports: dict[str, tuple[float, Exchange]] = {}  # lease over, entry to come; with since when, in that order
        self._logged_failures: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        """Count the exchanges that are not finished."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """Count the exchanges whose stream is over and whose access-log entry has not come."""
        return sum(len(exchanges) for exchanges in self._waiting.values())

    # --- what the ext_proc stream tells -----------------------------------------------------------------------------

    def register(self, routed: RoutedRequest, *, metadata: Mapping[str, str], started: float) -> Exchange:
        """Take over a routed request: from now on the registry ends its lease. `metadata` is the ext_proc stream's.

        `started` is when the picker first saw the request. The exchange's `id` goes into the dynamic metadata.
        """
        self._registered += 1
        exchange = Exchange(
            id=f"{self._nonce}{self._registered:x}",
            request=routed.request,
            lease=routed.lease,
            endpoint=routed.endpoints[0],
            labels=routed.labels,
            started=started,
            node=node_of(metadata),
            announced=announces_log(metadata),
            streaming=routed.request.parsed.stream,
        )
        self._open[exchange.id] = exchange
        self._telemetry.request_started(exchange.labels)
        return exchange

    def answer_began(self, exchange: Exchange, *, status: int | None = None, served: str | None = None) -> None:
        """The first bytes of the answer came, from endpoint `served` (`ip:port`) if the proxy said so."""
        if exchange.finished or exchange.began:
            return
        exchange.began = True
        ttft = max(0.0, self._clock() - exchange.started)
        exchange.seen = Outcome(status=status, served=served or exchange.endpoint.key, ttft=ttft)
        exchange.lease.first_token()
        if exchange.streaming and (status is None or status < 400):
            self._observe_ttft(served, ttft, otherwise=exchange.endpoint)
        endpoint = self._pool.get(exchange.seen.served or "") or exchange.endpoint
        self._call("FirstToken", self._first_token, exchange.request, endpoint)
        exchange.forget_body()

    def stream_ended(
        self,
        exchange: Exchange,
        *,
        complete: bool = False,
        cause: str | None = None,
        usage: Usage | None = None,
        response_bytes: int | None = None,
    ) -> None:
        """The ext_proc stream is over; `complete` when it saw the answer's end, `cause` when it knows better than that."""
        if exchange.finished or exchange.waiting_since is not None:
            return
        now = self._clock()
        exchange.forget_body()
        seen = exchange.seen
        seen.cause = cause or _guess(exchange, complete=complete, body_seen=response_bytes is not None)
        seen.usage = usage or Usage()
        seen.response_bytes = response_bytes
        if exchange.began or not exchange.announced:
            seen.duration = max(0.0, now - exchange.started)
        if not exchange.announced:
            self._finish(exchange, seen)
            return
        exchange.waiting_since = now
        self._waiting.setdefault(exchange.node, {})[exchange.id] = exchange
        if exchange.began:
            self._end(exchange)
            self._reports[exchange.id] = now, exchange
            self._bound_reports()
        elif (entry := self._unnamed.wait(exchange)) is not None:
            self._finish(exchange, _merge(seen, entry))

    # --- what the access log tells ----------------------------------------------------------------------------------

    def log_opened(self, node: str) -> None:
        """An access-log stream of `node` began."""
        self._streams.opened(node)

    def log_closed(self, node: str) -> None:
        """An access-log stream of `node` ended."""
        self._streams.closed(node, self._clock())

    def proxy_came(self, node: str) -> None:
        """`node` opened a stream that lasts as long as it lives, of another kind than its access log: EDS."""
        self._proxies.opened(node)

    def proxy_left(self, node: str) -> None:
        """Such a stream ended. Envoy opens its log stream with its first entry: one that dies before has only this."""
        self._proxies.closed(node, self._clock())

    def logged(self, entry: Entry) -> None:
        """Take an access-log entry. One that belongs to no exchange here still tells of the endpoint that served."""
        if entry.intermediate:
            return
        exchange = self._open.get(entry.lease) if entry.lease else self._unnamed.claim(entry, self._clock())
        if exchange is not None:
            if not exchange.began and entry.good and (exchange.streaming or entry.streamed):
                self._observe_ttft(entry.served, entry.ttft, otherwise=exchange.endpoint)
            self._finish(exchange, _merge(exchange.seen, entry))
        elif entry.lease.startswith(self._nonce):
            self.counts.late += 1
        else:
            self.counts.unknown += 1
            if entry.good and entry.streamed:
                self._observe_ttft(entry.served, entry.ttft)

    # --- what nobody tells ------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """Finish those whose entry cannot come any more. To be called about once a second."""
        now, patience = self._clock(), self._patience
        before = now - patience.grace
        dead = (node for node in self._proxies.gone(before) if not self._streams.has(node))
        gone = {*self._streams.gone(before), *dead}
        self.counts.gone += self._give_up([(node, before) for node in gone], "its log streams closed, or it is gone")
        aged = [(node, now - patience.age) for node in self._waiting]
        self.counts.expired += self._give_up(aged, "none came for too long")
        self._streams.forget(now - patience.age)
        self._proxies.forget(now - patience.age)
        while self._reports:
            since, exchange = next(iter(self._reports.values()))
            if since > now - patience.report:
                break
            self.counts.unreported += 1
            self._finish(exchange, exchange.seen)

    def close(self) -> None:
        """Finish everything: the picker stops. What is still running ends with cause `error`."""
        for exchange in list(self._open.values()):
            self._finish(exchange, _unknown(exchange))

    def _give_up(self, nodes: Sequence[tuple[str, float]], why: str) -> int:
        """Finish the exchanges of each node that began to wait at its time or earlier; give their number."""
        found: list[Exchange] = []
        for node, before in nodes:
            for exchange in self._waiting.get(node, {}).values():
                if exchange.waiting_since is None or exchange.waiting_since > before:
                    break
                found.append(exchange)
        for exchange in found:
            self._finish(exchange, _unknown(exchange))
        if found:
            log.warning("gave up waiting for access-log entries", why=why, exchanges=len(found), node=found[0].node)
        return len(found)

    def _bound_reports(self) -> None:
        while len(self._reports) > self._patience.reports:
            _, oldest = next(iter(self._reports.values()))
            self.counts.overflowed += 1
            self._finish(oldest, oldest.seen)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _end(self, exchange: Exchange) -> None:
        if not exchange.ended:
            exchange.ended = True
            exchange.lease.end()
            self._telemetry.request_ended(exchange.labels)

    def _finish(self, exchange: Exchange, outcome: Outcome) -> None:
        exchange.finished = True
        del self._open[exchange.id]
        self._reports.pop(exchange.id, None)
        self._unnamed.forget(exchange)
        waiting = self._waiting.get(exchange.node, {})
        if waiting.pop(exchange.id, None) is not None and not waiting:
            del self._waiting[exchange.node]
        self._end(exchange)
        exchange.forget_body()
        self._telemetry.request_finished(
            exchange.labels, outcome, streaming=exchange.streaming, prompt_tokens=exchange.request.parsed.prompt_tokens
        )
        self._call("Finished", self._finished, exchange.request, outcome)

    def _observe_ttft(self, served: str | None, ttft: float | None, otherwise: Endpoint | None = None) -> None:
        endpoint = self._pool.get(served) if served else otherwise
        if endpoint is not None and ttft is not None:
            self._pool.observe_ttft(endpoint, ttft)

    def _call(self, point: str, hooks: Sequence[Hook], request: Request, told: Endpoint | Outcome) -> None:
        for hook in hooks:
            try:
                hook.call(request, told)
            except Exception as error:  # noqa: BLE001 - whatever a plugin makes of it, the exchange goes on
                self._telemetry.plugin_failed(point, hook.type, hook.name)
                self._log_failure(point, hook.name, error)

    def _log_failure(self, point: str, name: str, error: Exception) -> None:
        now = self._clock()
        if now - self._logged_failures.get((point, name), float("-inf")) >= _LOG_AGAIN:
            self._logged_failures[point, name] = now
            # Not the error's text, which may quote the prompt.
            log.error(
                "plugin failed, going on without it", point=point, plugin=name, error=type(error).__qualname__, place=place(error)
            )


def _guess(exchange: Exchange, *, complete: bool, body_seen: bool) -> str:
    """Say why the exchange ended by what the stream saw; right when nothing else will tell."""
    if complete or (exchange.began and not body_seen):
        return NATURAL  # in held mode no body passes here, and the stream's end is the answer's end
    return CLIENT_DISCONNECT


def _unknown(exchange: Exchange) -> Outcome:
    """Give the outcome of an exchange nobody tells of: what the stream saw of an answer that is over, else an error."""
    return exchange.seen if exchange.ended else replace(exchange.seen, cause=ERROR)


def _merge(seen: Outcome, entry: Entry) -> Outcome:
    """Join what stream and access log told. The log knows the end; the stream what the picker itself did or measured."""
    told = entry.usage
    usage = Usage(
        prompt_tokens=_either(told.prompt_tokens, seen.usage.prompt_tokens),
        completion_tokens=_either(told.completion_tokens, seen.usage.completion_tokens),
        cached_tokens=_either(told.cached_tokens, seen.usage.cached_tokens),
    )
    return Outcome(
        cause=EVICTED if seen.cause == EVICTED else entry.cause,
        status=_either(entry.status, seen.status),
        served=entry.served or seen.served,
        ttft=entry.ttft if seen.ttft is None else seen.ttft,
        duration=seen.duration if entry.duration is None else entry.duration,
        response_bytes=_either(entry.response_bytes, seen.response_bytes),
        usage=usage,
    )


def _either(first: int | None, second: int | None) -> int | None:
    return second if first is None else first
