"""The portable server: hosts the method table on `grpc.aio`. Raw bytes in, raw bytes out; it decides nothing about them.

Each stream is a coroutine that drives the method's generator itself, so that the generator is closed, and its `finally`
has run, before the stream is forgotten, however the stream ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from grpc import aio

from epp.methods import RpcError
from epp.scheduling.guard import place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from epp.methods import Metadata, Method, Table

log = structlog.get_logger(__name__)

UNLIMITED = -1
_CODES = {code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}
_LONGEST_MESSAGE = 1000  # a status message travels in a header
_LAST_WORDS = 5.0  # seconds the methods' `finally` blocks get once the transport is down
_ALL_V6, _ALL_V4 = "[::]:", "0.0.0.0:"


class GrpcServer:
    """A gRPC server for one method table, on one or more addresses."""

    def __init__(
        self,
        table: Table,
        *,
        credentials: grpc.ServerCredentials | None = None,
        max_receive: int = UNLIMITED,
        max_send: int = UNLIMITED,
        reuse_port: bool = False,
    ) -> None:
        """Serve `table`, with TLS if there are `credentials`; messages are at most `max_receive` and `max_send` bytes."""
        self.ports: tuple[int, ...] = ()
        self.active = 0  # streams open now
        self.begun = dict.fromkeys(table, 0)  # streams ever opened, by path
        self._table = table
        self._credentials = credentials
        self._options = channel_options(max_receive=max_receive, max_send=max_send, reuse_port=reuse_port)
        self._server: aio.Server | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self, address: str, *more: str) -> int:
        """Listen on `address` (`[::]:9002`, `127.0.0.1:0`) and on `more`; give the first one's port, all are in `ports`.

        Raises OSError, naming the address, when it cannot be had.
        """
        server = aio.server(options=self._options)
        server.add_generic_rpc_handlers([_Handlers({path: self._handler(path, m) for path, m in self._table.items()})])
        add: Callable[[str], int] = server.add_insecure_port
        if self._credentials is not None:
            credentials = self._credentials

            def add(address: str) -> int:
                return server.add_secure_port(address, credentials)

        self.ports = tuple(bind(add, each) for each in (address, *more))
        self._server = server
        await server.start()
        return self.ports[0]

    async def stop(self, grace: float | None = None) -> None:
        """Take no new streams; those open are cancelled after `grace` seconds (None: now). A second call may hurry the first.

        Returns when every method has ended.
        """
        if self._server is None:
            return
        await self._server.stop(grace)
        try:
            await asyncio.wait_for(self._idle.wait(), _LAST_WORDS)
        except TimeoutError:
            log.error("methods do not end", streams=self.active)

    def _handler(self, path: str, method: Method) -> Callable[[Any, Any], Coroutine[Any, Any, None]]:
        async def handle(_requests: object, context: Any) -> None:
            self._enter(path)
            try:
                await _run(path, method, context)
            finally:
                self._leave()

        return handle

    def _enter(self, path: str) -> None:
        self.begun[path] += 1
        self.active += 1
        self._idle.clear()

    def _leave(self) -> None:
        self.active -= 1
        if not self.active:
            self._idle.set()


def channel_options(*, max_receive: int, max_send: int, reuse_port: bool) -> list[tuple[str, int]]:
    """Give the transport's options. Envoy holds its connection for ever and pings it as it likes: no limit of ours on that."""
    return [
        ("grpc.max_receive_message_length", max_receive),
        ("grpc.max_send_message_length", max_send),
        ("grpc.max_concurrent_streams", 2**31 - 1),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 0),  # 0: pings never earn a GOAWAY "too_many_pings"
        ("grpc.http2.min_ping_interval_without_data_ms", 0),
        ("grpc.so_reuseport", int(reuse_port)),  # off: a second picker on the port must fail, not take half the requests
    ]


def bind(add: Callable[[str], int], address: str) -> int:
    """Bind `address` with `add` and give its port. `[::]` means every address, also where IPv6 is switched off."""
    tries = [address]
    if address.startswith(_ALL_V6):
        tries.append(_ALL_V4 + address.removeprefix(_ALL_V6))
    failure: Exception | None = None
    for each in tries:
        try:
            port = add(each)
        except (RuntimeError, ValueError) as error:
            failure = error
        else:
            if port:
                return port
    message = f"cannot listen on {address}: is the port taken by another process, or the address not this machine's?"
    raise OSError(message) from failure


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Finds the handler of a path; for others gRPC itself answers UNIMPLEMENTED."""

    def __init__(self, handlers: dict[str, Callable[[Any, Any], Coroutine[Any, Any, None]]]) -> None:
        self._handlers = {path: grpc.stream_stream_rpc_method_handler(handler) for path, handler in handlers.items()}

    def service(self, details: Any) -> Any:
        return self._handlers.get(details.method)


class _Requests:
    """The messages of a stream, until the caller half-closes."""

    __slots__ = ("_read",)

    def __init__(self, context: Any) -> None:
        self._read = context.read

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        message: bytes = await self._read()
        if message is aio.EOF:  # type: ignore[attr-defined]
            # A caller that went away looks like one that half-closed, until the cancellation arrives a moment later.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            raise StopAsyncIteration
        return message


def _metadata(context: Any) -> Metadata:
    """Collect the stream's metadata; HTTP/2 names are lower case already. Of a repeated name the values are joined."""
    metadata: dict[str, str] = {":peer": context.peer()}
    for name, value in context.invocation_metadata():
        text = value if isinstance(value, str) else value.decode("latin-1")
        metadata[name] = f"{metadata[name]},{text}" if name in metadata else text
    return metadata


async def _run(path: str, method: Method, context: Any) -> None:
    """Drive one stream: what the method yields is written; what it raises becomes a status."""
    replies = method(_Requests(context), _metadata(context))
    try:
        async for reply in replies:
            await context.write(reply)
    except RpcError as error:
        code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
        await context.abort(code, error.message[:_LONGEST_MESSAGE])
    except aio.BaseError:  # the transport's own: the caller is gone, or the server stopped
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
        # Not the error's text, which may quote the prompt.
        log.error("method failed", method=path, error=type(error).__qualname__, place=place(error))
        await context.abort(grpc.StatusCode.INTERNAL, "internal error of the endpoint picker; see its log")
    finally:
        if isinstance(replies, AsyncGenerator):
            await replies.aclose()
