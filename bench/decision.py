"""The cost of one decision by stage, in microseconds, by pool and prompt size: in this process, with the default plugins.

Stages that are functions are called alone; plugins are timed by the picker's own telemetry while the whole router runs.
`stream` is everything between gRPC's messages in and out, in held mode: what gRPC itself costs comes on top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from bench.options import Options
from bench.report import Table
from bench.world import Asked, World, asked, clock, stream
from epp.extproc import codec
from epp.extproc.events import Mutation, Route
from epp.extproc.machine import Machine
from epp.prefix.hashing import block_hashes
from epp.router import Routed

DISTINCT = 32  # prompts
ROUNDS = 5
STAGES = ("decode", "parse", "produce", "hash", "score", "pick", "learn", "reserve", "encode", "route", "stream")
NAMESPACE = "envoy.lb"
BLOCK_TOKENS = 64


async def bench(options: Options) -> list[Table]:
    """Measure every pool size with every prompt size."""
    return [await measure(size, options) for size in options.sizes]


async def measure(prompt_bytes: int, options: Options) -> Table:
    """Measure one prompt size over all pools, which take turns: a disturbance of the machine then hits no pool alone."""
    table = Table(
        f"One decision, prompts of {prompt_bytes:,} bytes, µs (median of {ROUNDS} turns, each the median of {options.decisions})",
        ("endpoints", *STAGES),
    )
    requests = asked(DISTINCT, prompt_bytes)
    turns = [[await stages(endpoints, requests, options.decisions) for endpoints in options.pools] for _ in range(ROUNDS)]
    for number, endpoints in enumerate(options.pools):
        table.rows.append([str(endpoints), *(median(turn[number][stage] for turn in turns) * 1e6 for stage in STAGES)])
    table.notes = [
        "produce = prefix hashes (of them `hash`) and match; learn = the index takes the prompt; reserve = a lease and its end",
        "route = parse + produce + score + pick + learn + reserve + their frame; stream = decode + route + encode + registry",
    ]
    return table


async def stages(endpoints: int, requests: Sequence[Asked], count: int) -> dict[str, float]:
    """Give the median seconds of each stage."""
    world = World(endpoints, stages=True)
    cycle = [requests[number % len(requests)] for number in range(count)]
    routed = [await _route(world, request) for request in cycle]
    told = world.times.decisions[len(requests) :]  # the first ones meet an index that has seen nothing
    found = {
        stage: median(one[point] for one in told)
        for stage, point in (("produce", "Producer"), ("pick", "Picker"), ("learn", "Routed"), ("route", "route"))
    }
    found["score"] = median(one["Scorer"] + one["Filter"] for one in told)
    found["decode"] = timed(lambda request: [codec.decode(message) for message in request.messages], cycle)
    found["parse"] = timed(lambda request: _parse(world, request), cycle)
    prompts = [one.request.parsed.prompt for one in routed]
    found["hash"] = timed(lambda prompt: block_hashes(prompt, block_tokens=BLOCK_TOKENS, model="m"), prompts)
    chosen = routed[0].endpoints[0]
    found["reserve"] = timed(lambda tokens: world.pool.reserve(chosen, tokens).end(), [500.0] * count)
    found["encode"] = timed(
        lambda replies: [codec.encode(reply) for reply in replies], [_replies(one) for one in zip(cycle, routed, strict=True)]
    )
    whole = World(endpoints, stages=False)
    found["stream"] = await _streams(whole, cycle, len(requests))
    return found


def timed(call: Callable[[Any], object], arguments: Iterable[Any]) -> float:
    """Give the median seconds of `call` over `arguments`."""
    seconds = []
    for argument in arguments:
        started = clock()
        call(argument)
        seconds.append(clock() - started)
    return median(seconds)


async def _route(world: World, request: Asked) -> Routed:
    routed = await world.router.route(request.headers, request.body, None)
    routed.lease.end()
    return routed


def _parse(world: World, request: Asked) -> object:
    return world.parsers.find(request.headers).parse(request.headers[":path"], request.headers, request.body)


def _replies(exchange: tuple[Asked, Routed]) -> list[Any]:
    """Let the machine make the replies of the request phase."""
    request, routed = exchange
    machine = Machine(1 << 26)
    for message in request.messages:
        event = codec.decode(message)
        commands = machine.receive(event) if event is not None else ()
        if any(isinstance(command, Route) for command in commands):
            break
    metadata = {NAMESPACE: {**routed.metadata, "x-epp-lease": "0123456789abcdef-1"}}
    return list(machine.routed(Mutation(routed.set_headers, routed.remove_headers, metadata)))


async def _streams(world: World, cycle: Sequence[Asked], warm: int) -> float:
    """Serve each request's whole stream."""
    seconds = []
    for request in cycle:
        started = clock()
        async for _ in world.service.process(stream(request.messages), {}):
            pass
        seconds.append(clock() - started)
    return median(seconds[warm:])
