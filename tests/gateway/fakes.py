"""What stands around a real Envoy in these tests: a picker that decides nothing, model servers, and the three together."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import grpc
import grpc.aio
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from epp.gateway.config import render
from epp.gateway.process import EnvoyProcess, run_envoy
from epp.gateway.wiring import HostPort, Wiring
from epp.pb import access_log_pb2, eds_pb2, endpoint_pb2, ext_proc_pb2, health_pb2

LOOPBACK = "127.0.0.1"
DESTINATION = "x-gateway-destination-endpoint"
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 5}}
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
)


@dataclass
class Stream:
    """What one ext_proc stream told the picker."""

    metadata: dict[str, str]
    headers: dict[str, str] = field(default_factory=dict)
    kinds: list[str] = field(default_factory=list)
    body: bytes = b""
    served: str = ""
    began: asyncio.Event = field(default_factory=asyncio.Event)  # response headers came
    over: asyncio.Event = field(default_factory=asyncio.Event)


class FakePicker:
    """Serves ext_proc, the access log, EDS and health on one port; sends every request to `choice`."""

    def __init__(self, pool: list[str]) -> None:
        """Announce `pool` (`ip:port`), and choose its first until told otherwise."""
        self.pool = pool
        self.choice = pool[0]
        self.streams: list[Stream] = []
        self.entries: list[access_log_pb2.HTTPAccessLogEntry] = []
        self.nodes: list[str] = []
        self.log_names: list[str] = []
        self.port = 0
        self.model_name = ""
        self.serving = True
        self._news = asyncio.Condition()
        self._server: grpc.aio.Server | None = None

    async def start(self, credentials: grpc.ServerCredentials | None = None) -> None:
        """Listen: on any port the first time, on the same one after a `stop`."""
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers(tuple(self._services()))
        place = f"{LOOPBACK}:{self.port}"
        self.port = server.add_secure_port(place, credentials) if credentials else server.add_insecure_port(place)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Vanish, as a killed process does."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def logged(self, request_id: str) -> access_log_pb2.HTTPAccessLogEntry:
        """Wait for the access-log entry of a request."""
        async with self._news:
            while True:
                for entry in self.entries:
                    if entry.request.request_id == request_id:
                        return entry
                await self._news.wait()

    def _services(self) -> Iterator[grpc.GenericRpcHandler[bytes, bytes]]:
        stream_stream, stream_unary = grpc.stream_stream_rpc_method_handler, grpc.stream_unary_rpc_method_handler
        generic = grpc.method_handlers_generic_handler
        yield generic("envoy.service.ext_proc.v3.ExternalProcessor", {"Process": stream_stream(self._process)})
        yield generic("envoy.service.accesslog.v3.AccessLogService", {"StreamAccessLogs": stream_unary(self._logs)})
        yield generic("envoy.service.endpoint.v3.EndpointDiscoveryService", {"StreamEndpoints": stream_stream(self._endpoints)})
        yield generic("grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(self._check)})

    async def _process(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        stream = Stream(dict(context.invocation_metadata()))
        self.streams.append(stream)
        buffered = False
        try:
            async for data in requests:
                message = ext_proc_pb2.ProcessingRequest.FromString(data)
                buffered |= message.protocol_config.request_body_mode == ext_proc_pb2.BUFFERED
                for reply in self._replies(stream, message, buffered=buffered):
                    yield reply.SerializeToString()
        finally:
            stream.over.set()

    def _replies(
        self, stream: Stream, message: ext_proc_pb2.ProcessingRequest, *, buffered: bool
    ) -> Iterator[ext_proc_pb2.ProcessingResponse]:
        kind = message.WhichOneof("request")
        stream.kinds.append(str(kind))
        if kind == "request_headers":
            stream.headers = {h.key: h.raw_value.decode() for h in message.request_headers.headers.headers}
            if buffered and not message.request_headers.end_of_stream:
                yield ext_proc_pb2.ProcessingResponse(request_headers=ext_proc_pb2.HeadersResponse())
            elif message.request_headers.end_of_stream:
                yield self._decided("request_headers")
        elif kind == "request_body":
            stream.body += message.request_body.body
            if buffered:
                yield self._decided("request_body")
            elif message.request_body.end_of_stream:
                yield self._decided("request_headers")
                yield from _echo(stream.body)
        elif kind == "response_headers":
            stream.began.set()
            stream.served = message.metadata_context.filter_metadata["envoy.lb"].fields[f"{DESTINATION}-served"].string_value
            yield ext_proc_pb2.ProcessingResponse(response_headers=ext_proc_pb2.HeadersResponse())
        elif kind == "response_body":
            reply = ext_proc_pb2.ProcessingResponse()
            passed = reply.response_body.response.body_mutation.streamed_response
            passed.body, passed.end_of_stream = message.response_body.body, message.response_body.end_of_stream
            yield reply

    def _decided(self, phase: str) -> ext_proc_pb2.ProcessingResponse:
        reply = ext_proc_pb2.ProcessingResponse()
        common = getattr(reply, phase).response
        common.clear_route_cache = True
        for name, value in ((DESTINATION, self.choice), ("x-gateway-model-name", self.model_name)):
            if value:
                header = common.header_mutation.set_headers.add().header
                header.key, header.raw_value = name, value.encode()
        lease = f"lease-{len(self.streams)}"
        reply.dynamic_metadata.update({"envoy.lb": {DESTINATION: self.choice, "x-epp-lease": lease}})
        return reply

    async def _logs(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        del context
        async for data in requests:
            message = access_log_pb2.StreamAccessLogsMessage.FromString(data)
            if message.HasField("identifier"):
                self.nodes.append(message.identifier.node.id)
                self.log_names.append(message.identifier.log_name)
            async with self._news:
                self.entries.extend(message.http_logs.log_entry)
                self._news.notify_all()
        return b""

    async def _endpoints(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        del context
        async for data in requests:
            request = eds_pb2.DiscoveryRequest.FromString(data)
            if request.version_info:  # an acknowledgement
                continue
            members = endpoint_pb2.ClusterLoadAssignment(cluster_name=request.resource_names[0])
            locality = members.endpoints.add()
            for member in self.pool:
                place = HostPort.parse(member)
                socket = locality.lb_endpoints.add().endpoint.address.socket_address
                socket.address, socket.port_value = place.host, place.port
            response = eds_pb2.DiscoveryResponse(version_info="1", nonce="1", type_url=request.type_url)
            response.resources.add().Pack(members)
            yield response.SerializeToString()

    async def _check(self, request: bytes, context: Any) -> bytes:
        del request, context
        kinds = health_pb2.HealthCheckResponse
        return kinds(status=kinds.SERVING if self.serving else kinds.NOT_SERVING).SerializeToString()


def _echo(body: bytes) -> Iterator[ext_proc_pb2.ProcessingResponse]:
    for start in range(0, max(len(body), 1), 62_000):
        reply = ext_proc_pb2.ProcessingResponse()
        chunk = reply.request_body.response.body_mutation.streamed_response
        chunk.body, chunk.end_of_stream = body[start : start + 62_000], start + 62_000 >= len(body)
        yield reply


class Model:
    """A model server that answers with its name, as JSON or as events of which the second waits for `release`."""

    def __init__(self) -> None:
        """Listen on no port yet."""
        self.address = ""
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.release = asyncio.Event()
        self.reached = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        """Listen on any port."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, 0)
        await site.start()
        self.address = f"{LOOPBACK}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening."""
        await self.stop()

    async def stop(self) -> None:
        """Vanish, connections and all."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        body = await request.read()
        self.bodies.append(body)
        wish = json.loads(body) if body else {}
        self.reached.set()
        if wish.get("hold"):
            await self.release.wait()
        if not wish.get("stream"):
            kind = wish.get("content_type", "application/json")
            return web.Response(body=json.dumps({"usage": USAGE}), headers={"content-type": kind, "x-server": self.address})
        answer = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8", "x-server": self.address})
        await answer.prepare(request)
        await answer.write(b'data: {"choices":[],"usage":null}\n\n')
        await self.release.wait()
        await answer.write(b'data: {"choices":[],"usage":%s}\n\ndata: [DONE]\n\n' % json.dumps(USAGE).encode())
        return answer


@dataclass
class World:
    """A client, a real Envoy, a picker and two model servers."""

    client: aiohttp.ClientSession
    envoy: EnvoyProcess
    picker: FakePicker
    models: list[Model]

    async def post(self, **wish: object) -> aiohttp.ClientResponse:
        """Send a request and read its answer."""
        headers = {"x-request-id": str(wish.pop("id"))} if "id" in wish else {}
        async with self.client.post(f"{self.envoy.url}/v1/chat/completions", json=wish, headers=headers) as response:
            await response.read()
            return response

    async def stat(self, name: str) -> int:
        """Read one of Envoy's counters."""
        async with self.client.get(f"{self.envoy.admin_url}/stats", params={"filter": f"^{name}$"}) as response:
            return int((await response.text()).rpartition(":")[2] or 0)


@asynccontextmanager
async def world(
    directory: Path,
    *,
    credentials: grpc.ServerCredentials | None = None,
    listening: bool = True,
    alter: Callable[[str], str] = str,
    **settings: Any,
) -> AsyncIterator[World]:
    """Bring it all up with a `Wiring` of `settings`, and down again."""
    async with AsyncExitStack() as stack:
        models = [await stack.enter_async_context(Model()) for _ in range(2)]
        picker = FakePicker([model.address for model in models])
        await picker.start(credentials)
        stack.push_async_callback(picker.stop)
        if not listening:
            await picker.stop()
        nowhere = HostPort(LOOPBACK, 0)
        wiring = Wiring(listen=nowhere, admin=nowhere, picker=HostPort(LOOPBACK, picker.port), **settings)
        config = alter(render(wiring))
        envoy = await stack.enter_async_context(run_envoy(config, log_path=directory / "envoy.log", concurrency=1))
        client = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)))
        yield World(client, envoy, picker, models)


def certificate(name: x509.GeneralName) -> tuple[bytes, bytes]:
    """Make a key and a self-signed certificate for `name`, which is its own CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "picker")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return pem, made.public_bytes(serialization.Encoding.PEM)
