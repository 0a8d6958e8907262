"""`ExternalProcessor/Process`: the short loop around the machine. It reads messages, performs commands, writes replies.

An exception never leaves it as a gRPC error for a request that could be served. What it learns of the answer goes to the
registry of exchanges (`epp.feedback`), which ends the lease.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from google.protobuf.message import DecodeError

from epp.errors import Overloaded, Rejection
from epp.extproc import codec
from epp.extproc.budget import Budget
from epp.extproc.events import AnswerBegan, AnswerEnded, AnswerPassed, ImmediateReply, Mutation, Route
from epp.extproc.machine import Machine
from epp.feedback.access_log import LEASE_KEY
from epp.methods import RpcError
from epp.requests.usage import reader_for
from epp.scheduling.guard import contained, ends_task, place
from epp.telemetry import RequestLabels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from epp.api import UsageReader
    from epp.clock import Clock
    from epp.extproc.events import Command, Reply, ResponseHeaders
    from epp.feedback.registry import Exchange, Exchanges
    from epp.methods import Metadata
    from epp.requests.choose import ParserTable
    from epp.router import Router
    from epp.telemetry import Telemetry

log = structlog.get_logger(__name__)

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
TRAILERS_KEY = "x-epp-trailers"  # in the dynamic metadata of a request ended by trailers; Envoy must not retry such a one
INVALID_ARGUMENT = 3
MAX_BUFFERED = 2**30
LOG_AGAIN = 60.0  # seconds between two log lines about a proxy that is configured wrongly


class ExternalProcessor:
    """The ext_proc service. One `process` call is one stream, which is one HTTP request."""

    def __init__(
        self,
        *,
        router: Router,
        parsers: ParserTable,
        exchanges: Exchanges,
        telemetry: Telemetry,
        clock: Clock,
        max_body: int,
        max_buffered: int = MAX_BUFFERED,
        metadata_namespace: str = "envoy.lb",
    ) -> None:
        """Refuse bodies over `max_body` bytes, and those that would make all streams hold over `max_buffered` bytes.

        The decision's dynamic metadata goes under `metadata_namespace`.
        """
        self.router = router
        self.parsers = parsers
        self.exchanges = exchanges
        self.telemetry = telemetry
        self.clock = clock
        self.max_body = max_body
        self.budget = Budget(max_buffered)
        self.namespace = metadata_namespace
        self.streams = 0  # open now; the drain waits for them
        self._complained: dict[str, float] = {}  # when, by message

    async def process(self, requests: AsyncIterator[bytes], metadata: Metadata) -> AsyncIterator[bytes]:
        """Serve one stream."""
        stream = _Stream(self, metadata)
        opened, code = self.clock(), "OK"
        self.streams += 1
        self.telemetry.stream_opened()
        try:
            async for message in requests:
                for command in stream.receive(message):
                    if isinstance(command, Route):
                        for piece in await stream.route(command):
                            yield codec.encode(piece)
                    elif (reply := stream.observe(command)) is not None:
                        yield codec.encode(reply)
                if stream.refused:  # Envoy has its answer; nothing may follow it
                    return
        except RpcError:
            code = "INVALID_ARGUMENT"
            raise
        except BaseException:
            code = "CANCELLED"
            raise
        finally:
            self.streams -= 1
            stream.close()
            self.telemetry.stream_closed(self.clock() - opened, code)

    def note(self, rejection: Rejection | None) -> None:
        """Count what was refused before the router saw it; a proxy that cannot be served is for the operator to hear of."""
        if rejection is None:
            return
        self.telemetry.request_rejected(RequestLabels("", "", "default-flow", 0), rejection.status, rejection.reason)
        now = self.clock()
        if rejection.status >= 500 and now - self._complained.get(rejection.message, float("-inf")) >= LOG_AGAIN:
            self._complained[rejection.message] = now
            if isinstance(rejection, Overloaded):
                log.warning("requests refused, too many bodies at once", error=rejection.message)
            else:
                log.error("request refused, the proxy must be configured otherwise", error=rejection.message)


class _Stream:
    """One stream's machine, and the exchange once the request is routed."""

    def __init__(self, service: ExternalProcessor, metadata: Metadata) -> None:
        self._service = service
        self._metadata = metadata
        self._machine = Machine(service.max_body, service.budget)
        self._started = service.clock()
        self._exchange: Exchange | None = None
        self._answer: ResponseHeaders | None = None
        self._reader: UsageReader | None = None
        self._passed = 0
        self._ended = False
        self.refused = False

    def receive(self, message: bytes) -> Iterable[Command]:
        try:
            event = codec.decode(message)
        except DecodeError as error:
            raise RpcError(INVALID_ARGUMENT, "not an envoy.service.ext_proc.v3.ProcessingRequest") from error
        return self._machine.receive(event) if event is not None else ()

    async def route(self, command: Route) -> Iterable[Reply]:
        service = self._service
        try:
            routed = await service.router.route(command.headers, command.body, command.subset)
        except Rejection as rejection:
            self.refused = True
            return self._machine.refused(rejection)
        except BaseException as error:  # the last net; the router has its own for each stage
            if ends_task(error):
                raise
            log.error("the router failed", error=type(error).__qualname__, place=place(error))
            service.telemetry.internal_fault("route")
            self.refused = True
            return self._machine.refused(Rejection("internal error of the endpoint picker; see its log"))
        self._exchange = service.exchanges.register(routed, metadata=self._metadata, started=self._started)
        values = {**routed.metadata, LEASE_KEY: self._exchange.id}
        if command.trailers:
            values[TRAILERS_KEY] = "true"
        return self._machine.routed(Mutation(routed.set_headers, routed.remove_headers, {service.namespace: values}))

    def observe(self, command: Command) -> Reply | None:
        """Take what concerns the picker itself; give back what is to be sent."""
        match command:
            case AnswerBegan(event):
                self._began(event)
            case AnswerPassed(data):
                self._pass(data)
            case AnswerEnded():
                self._ended = True
            case Route():
                pass  # the service's own business
            case ImmediateReply():
                self.refused = True
                self._service.note(command.rejection)
                return command
            case _:
                return command
        return None

    def _began(self, event: ResponseHeaders) -> None:
        self._answer = event
        if self._exchange is not None:
            status = event.headers.get(":status", "")
            self._service.exchanges.answer_began(
                self._exchange, status=int(status) if status.isdecimal() else None, served=event.served
            )

    def _pass(self, data: bytes) -> None:
        if not self._passed:
            self._reader = self._usage_reader()
        self._passed += len(data)
        if self._reader is not None:
            try:
                contained(self._reader.feed)(data)
            except Exception as error:  # noqa: BLE001 - usage is a courtesy; the answer passes regardless
                self._reader = None
                log.error("usage not read", error=type(error).__qualname__, place=place(error))

    def _usage_reader(self) -> UsageReader | None:
        if self._exchange is None or self._answer is None:
            return None
        try:
            reader: UsageReader | None = contained(reader_for)(
                self._service.parsers.find(self._exchange.request.headers), self._answer.headers
            )
        except Exception as error:  # noqa: BLE001 - as above
            log.error("no usage reader", error=type(error).__qualname__, place=place(error))
            return None
        return reader

    def close(self) -> None:
        """The stream is over: whatever it knows of the answer goes to the registry."""
        self._machine.close()
        if self._exchange is None:
            return
        usage = None
        if self._reader is not None:
            try:
                usage = contained(self._reader.close)()
            except Exception as error:  # noqa: BLE001 - as above
                log.error("usage not read", error=type(error).__qualname__, place=place(error))
        self._service.exchanges.stream_ended(
            self._exchange, complete=self._ended, usage=usage, response_bytes=self._passed or None
        )
