"""The ext_proc wire from the other side: a data plane of the tests' own, with messages of an independent codec.

The messages are envoy-data-plane's, not the picker's, so that a mistake in the picker's own protobuf code shows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import grpc
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as filter_config
from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc
from envoy_data_plane.google import protobuf
from grpc import aio

from epp.cli.stack import Child
from epp.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from tests.e2e.stack import start_picker

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
HEALTH = "/grpc.health.v1.Health/"
DESTINATION = "x-gateway-destination-endpoint"
WAIT = 20.0

BodyMode = filter_config.ProcessingModeBodySendMode
Reply = ext_proc.ProcessingResponse


def chat(model: str = "simulated-model", text: str = "hello") -> bytes:
    """Write the body of a chat request."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}).encode()


def header_map(headers: dict[str, str]) -> core.HeaderMap:
    """Write headers as Envoy does: the value in `raw_value` only."""
    return core.HeaderMap(headers=[core.HeaderValue(key=key, raw_value=value.encode()) for key, value in headers.items()])


def destination(reply: Reply) -> str:
    """Read the choice from a headers or body reply; header and dynamic metadata must agree."""
    part = reply.request_headers or reply.request_body
    assert part is not None
    assert part.response is not None
    mutation = part.response.header_mutation
    assert mutation is not None
    values = [
        option.header.raw_value.decode() for option in mutation.set_headers if option.header and option.header.key == DESTINATION
    ]
    assert reply.dynamic_metadata is not None
    namespace = reply.dynamic_metadata.fields["envoy.lb"].struct_value
    assert namespace is not None
    assert values == [namespace.fields[DESTINATION].string_value]
    return values[0]


def streamed(reply: Reply) -> tuple[bytes, bool]:
    """Read a piece of body and whether it is the last."""
    part = reply.request_body or reply.response_body
    assert part is not None
    assert part.response is not None
    assert part.response.body_mutation is not None
    piece = part.response.body_mutation.streamed_response
    assert piece is not None
    return piece.body, piece.end_of_stream


def refusal(reply: Reply) -> tuple[int, str, str]:
    """Read an immediate response: status, drop reason, the message of its JSON body."""
    immediate = reply.immediate_response
    assert immediate is not None
    assert immediate.status is not None
    headers = {
        option.header.key: option.header.raw_value.decode()
        for option in (immediate.headers.set_headers if immediate.headers else ())
        if option.header
    }
    assert headers["content-type"] == "application/json"
    message = json.loads(immediate.body)["error"]["message"]
    return int(immediate.status.code), headers.get("x-llm-d-request-dropped-reason", ""), message


class Exchange:
    """One ext_proc stream, driven message by message."""

    def __init__(self, call: Any) -> None:
        """Drive `call`."""
        self.call = call

    async def send(self, **parts: Any) -> None:
        """Send one ProcessingRequest."""
        await self.call.write(bytes(ext_proc.ProcessingRequest(**parts)))

    async def headers(
        self,
        *,
        end: bool = False,
        request_mode: BodyMode | None = BodyMode.FULL_DUPLEX_STREAMED,
        response_mode: BodyMode = BodyMode.NONE,
        subset: Sequence[str] | None = None,
        **named: str,
    ) -> None:
        """Send the request's headers; `named` adds or replaces some (underscores for dashes, `path` and `method` too)."""
        method = named.pop("method", "GET" if end else "POST")
        sent = {":method": method, ":path": named.pop("path", "/v1/models" if end else "/v1/chat/completions")}
        sent |= {name.replace("_", "-"): value for name, value in named.items()}
        config = None
        if request_mode is not None:
            config = ext_proc.ProtocolConfiguration(request_body_mode=request_mode, response_body_mode=response_mode)
        await self.send(
            request_headers=ext_proc.HttpHeaders(headers=header_map(sent), end_of_stream=end),
            protocol_config=config,
            metadata_context=None if subset is None else _subset(subset),
        )

    async def body(self, data: bytes, *, end: bool = True) -> None:
        """Send a piece of the request's body."""
        await self.send(request_body=ext_proc.HttpBody(body=data, end_of_stream=end))

    async def trailers(self) -> None:
        """Send the request's trailers."""
        await self.send(request_trailers=ext_proc.HttpTrailers(trailers=header_map({"x-checksum": "1"})))

    async def answer_head(self, status: str, *, end: bool = False) -> None:
        """Send the head of the model server's answer."""
        head = header_map({":status": status, "content-type": "text/event-stream"})
        await self.send(response_headers=ext_proc.HttpHeaders(headers=head, end_of_stream=end))

    async def answer_body(self, data: bytes, *, end: bool) -> None:
        """Send a piece of the model server's answer."""
        await self.send(response_body=ext_proc.HttpBody(body=data, end_of_stream=end))

    async def reply(self) -> Reply:
        """Give the picker's next message; fails when there is none."""
        reply = await self.read()
        assert reply is not None, "the picker ended the stream"
        return reply

    async def read(self) -> Reply | None:
        """Give the picker's next message, None at the end of the stream."""
        message = await asyncio.wait_for(self.call.read(), WAIT)
        return None if message is aio.EOF else Reply.parse(message)  # type: ignore[attr-defined]

    async def routed(self, body: bytes | None = None) -> str:
        """Send a whole request and give the choice, having read all replies of the request phase."""
        await self.headers(end=body is None)
        if body is None:
            return destination(await self.reply())
        await self.body(body)
        chosen = destination(await self.reply())
        received, last = b"", False
        while not last:
            piece, last = streamed(await self.reply())
            received += piece
        assert received == body
        return chosen

    async def half_close(self) -> None:
        """Say that nothing more will be sent."""
        await self.call.done_writing()

    async def code(self) -> grpc.StatusCode:
        """Wait for the end of the stream and give its status."""
        code: grpc.StatusCode = await asyncio.wait_for(self.call.code(), WAIT)
        return code

    async def finish(self) -> None:
        """Half-close and read to the end, which must come at once and be OK."""
        await self.half_close()
        assert await self.read() is None
        assert await self.code() is grpc.StatusCode.OK

    def cancel(self) -> None:
        """Go away, as Envoy does when it is done with a stream or its client left."""
        self.call.cancel()


def _subset(addresses: Sequence[str]) -> core.Metadata:
    values = protobuf.ListValue(values=[protobuf.Value(string_value=address) for address in addresses])
    fields = {f"{DESTINATION}-subset": protobuf.Value(list_value=values)}
    return core.Metadata(filter_metadata={"envoy.lb.subset_hint": protobuf.Struct(fields=fields)})


class Channel:
    """A connection of its own to one of the picker's gRPC ports."""

    def __init__(
        self, port: int, credentials: grpc.ChannelCredentials | None = None, *, options: Sequence[tuple[str, Any]] = ()
    ) -> None:
        """Connect to `port` on loopback when it is first used."""
        target = f"127.0.0.1:{port}"
        given = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), *options]
        self.channel: Any = (
            aio.insecure_channel(target, options=given) if credentials is None else aio.secure_channel(target, credentials, given)
        )

    def exchange(self, **metadata: str) -> Exchange:
        """Open an ext_proc stream; `metadata` with underscores for dashes."""
        sent = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        return Exchange(self.channel.stream_stream(METHOD)(metadata=sent))

    async def check(self, service: str) -> int:
        """Ask for a service's health: 1 is SERVING, 2 NOT_SERVING."""
        call = self.channel.unary_unary(f"{HEALTH}Check", response_deserializer=HealthCheckResponse.FromString)
        answer = await call(HealthCheckRequest(service=service).SerializeToString(), timeout=WAIT)
        return int(answer.status)

    def watch(self, service: str) -> Any:
        """Watch a service's health: `read()` gives each state."""
        call = self.channel.unary_stream(f"{HEALTH}Watch", response_deserializer=HealthCheckResponse.FromString)
        return call(HealthCheckRequest(service=service).SerializeToString())

    async def __aenter__(self) -> Self:
        """Use it for a block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it at its end."""
        await self.channel.close()


@dataclass
class Alone:
    """A picker without an Envoy."""

    child: Child
    ports: dict[str, int]
    session: aiohttp.ClientSession

    async def page(self, path: str) -> tuple[int, str]:
        """Read a page of the admin port: its status and text."""
        async with self.session.get(f"http://127.0.0.1:{self.ports['metrics']}{path}") as answer:
            return answer.status, await answer.text()

    async def state(self, path: str) -> Any:
        """Read a page of the admin port as JSON."""
        return json.loads((await self.page(path))[1])

    async def metric(self, name: str, **labels: str) -> float:
        """Sum the samples of a metric whose labels match."""
        return sum(value for found, value in await self.samples(name) if labels.items() <= found.items())

    async def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Give the samples of a metric: labels and value."""
        from prometheus_client.parser import text_string_to_metric_families

        _, text = await self.page("/metrics")
        return [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        ]

    async def inflight(self) -> float:
        """Give all requests in flight; none may ever be counted below zero."""
        leases = [row["leases"] for row in (await self.state("/api/pool"))["endpoints"]]
        assert min(leases, default=0) >= 0
        return float(sum(leases))

    async def idle(self, seconds: float = 10.0) -> None:
        """Wait until nothing is in flight and no stream is open."""
        async with asyncio.timeout(seconds):
            while True:
                if not await self.inflight() and not await self.metric("llm_d_epp_extproc_streams_inflight"):
                    return
                await asyncio.sleep(0.02)

    def said(self, event: str) -> list[dict[str, Any]]:
        """Give the log entries whose event contains `event`."""
        return [entry for entry in self.child.entries if event in str(entry.get("event"))]


@asynccontextmanager
async def picker(*arguments: str, secure: bool = False, config: str = "", directory: Path | None = None) -> AsyncIterator[Alone]:
    """Run a picker alone on free ports; `config` is written to `directory`."""
    given = ["--drain-timeout=0s", f"--secure-serving={'true' if secure else 'false'}", *arguments]
    if config:
        assert directory is not None
        file = directory / "config.yaml"
        file.write_text(config)
        given.append(f"--config-file={file}")
    child = await start_picker(dict.fromkeys(("grpc", "health", "metrics"), 0), given)
    try:
        (serving,) = await child.says("serving")
        ports = {name: serving[f"{name}_port"] for name in ("grpc", "health", "metrics")}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            yield Alone(child, ports, session)
    finally:
        await child.stop()
