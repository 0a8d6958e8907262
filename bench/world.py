"""A picker without its servers: pool, default plugins, router and ext_proc service, and the messages Envoy would send.

Wired as `epp.app` wires them, with a telemetry of the bench's choice, which hears how long each plugin took.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from bench.wrk import PATH, bodies
from epp.admin.decisions import DecisionLog
from epp.admin.metrics import PrometheusTelemetry
from epp.api import EndpointSpec, Pool, Signals
from epp.config.adapters import AdapterMap
from epp.config.assemble import assemble
from epp.config.load import load_default
from epp.config.registry import Registry
from epp.extproc.service import ExternalProcessor
from epp.feedback.registry import Exchanges
from epp.flow.admission import Admission
from epp.pb.ext_proc_pb2 import BodySendMode, ProcessingRequest
from epp.requests.choose import ParserTable
from epp.router import Router
from epp.scheduling.guard import Guard
from epp.scheduling.scheduler import Scheduler

CHUNK = 16_384  # bytes of body in one of Envoy's messages
clock = time.perf_counter


class StageTimes(PrometheusTelemetry):
    """The picker's own telemetry, which also remembers the seconds of each point of a decision."""

    def __init__(self, pool: Pool) -> None:
        """Remember nothing yet."""
        super().__init__(pool)
        self.decision: dict[str, float] = defaultdict(float)  # of the decision at hand, by point
        self.decisions: list[dict[str, float]] = []

    def plugin_ran(self, point: str, kind: str, name: str, seconds: float) -> None:
        """Add to the decision at hand."""
        super().plugin_ran(point, kind, name, seconds)
        self.decision[point] += seconds

    def request_processed(self, seconds: float) -> None:
        """The decision is complete."""
        super().request_processed(seconds)
        self.decision["route"] = seconds
        self.decisions.append(self.decision)
        self.decision = defaultdict(float)


class World:
    """The parts, over `endpoints` endpoints whose signals differ."""

    def __init__(self, endpoints: int, *, stages: bool) -> None:
        """Put it together; with `stages`, `times` hears each plugin's duration."""
        rng = random.Random(11)
        assembly = assemble(load_default(), registry=Registry(), clock=clock, random=rng)
        self.pool = Pool(clock, stale_after=3600.0)
        self.times = StageTimes(self.pool)
        self.parsers = ParserTable([one.plugin for one in assembly.parsers])
        telemetry = self.times if stages else PrometheusTelemetry(self.pool)
        guard = Guard(telemetry, clock)
        self.router = Router(
            pool=self.pool,
            parsers=self.parsers,
            adapters=AdapterMap(),
            admission=Admission(assembly.admitters, guard),
            producers=assembly.producers,
            scheduler=Scheduler(assembly.profiles, assembly.handler, telemetry=telemetry, random=rng),
            observers=[one for one in assembly.plugins.values() if hasattr(one.plugin, "routed")],
            guard=guard,
            telemetry=telemetry,
            journal=DecisionLog(),
            clock=clock,
            random=rng,
        )
        exchanges = Exchanges(pool=self.pool, telemetry=telemetry, clock=clock, random=rng)
        self.service = ExternalProcessor(
            router=self.router, parsers=self.parsers, exchanges=exchanges, telemetry=telemetry, clock=clock, max_body=1 << 26
        )
        self.pool.update([EndpointSpec(f"10.0.{number // 250}.{number % 250 + 1}", 8000) for number in range(endpoints)])
        for endpoint in self.pool.endpoints:
            signals = Signals(
                waiting=rng.randrange(20), running=rng.randrange(60), kv_usage=rng.random(), block_size=16, num_blocks=26_000
            )
            self.pool.record(endpoint, signals)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as Envoy sends it in held mode: the messages of its stream, and its parts."""

    messages: Sequence[bytes]
    headers: Mapping[str, str]
    body: bytes


def asked(count: int, prompt_bytes: int) -> list[Asked]:
    """Make `count` requests with different prompts, half of each shared by all."""
    found = []
    for number, body in enumerate(bodies(count, prompt_bytes, rng=random.Random(5), shared=prompt_bytes // 2)):
        headers = {
            ":method": "POST", ":path": PATH, ":authority": "gateway.example", ":scheme": "http", "user-agent": "bench/1",
            "accept": "*/*", "content-type": "application/json", "content-length": str(len(body)),
            "authorization": "Bearer 0123456789abcdef", "x-forwarded-for": "10.0.0.9", "x-forwarded-proto": "http",
            "x-request-id": f"00000000-0000-4000-8000-{number:012x}",
        }  # fmt: skip
        found.append(Asked([*_request(headers, body), _answer()], headers, body))
    return found


def _request(headers: Mapping[str, str], body: bytes) -> list[bytes]:
    head = ProcessingRequest()
    for name, value in headers.items():
        head.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    head.protocol_config.request_body_mode = BodySendMode.FULL_DUPLEX_STREAMED
    head.protocol_config.response_body_mode = BodySendMode.NONE
    messages = [head.SerializeToString()]
    for start in range(0, len(body), CHUNK):
        piece = ProcessingRequest()
        piece.request_body.body = body[start : start + CHUNK]
        messages.append(piece.SerializeToString())
    end = ProcessingRequest()
    end.request_body.end_of_stream = True
    return [*messages, end.SerializeToString()]


def _answer() -> bytes:
    message = ProcessingRequest()
    for name, value in ((":status", "200"), ("content-type", "application/json"), ("content-length", "412")):
        message.response_headers.headers.headers.add(key=name, raw_value=value.encode())
    return message.SerializeToString()


async def stream(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
    """Give the messages as a gRPC server would."""
    for message in messages:
        yield message
