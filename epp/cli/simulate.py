"""`epp simulate`: run simulated model servers until told to stop."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from epp.simulator.options import SimulatorOptions

_FAULTS, _ENGINE, _TIMING = "Faults and fixed figures", "Engine", "Timing"


def simulate(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one, which is printed.")] = 8000,
    count: Annotated[int, typer.Option(min=1, help="Servers in this process, on consecutive ports (any with --port 0).")] = 1,
    model: Annotated[str, typer.Option(help="Name of the base model.")] = "simulated-model",
    name: Annotated[str, typer.Option(help="Value of the header x-simulated-server; numbered with --count.")] = "",
    lora: Annotated[list[str] | None, typer.Option(help="A LoRA adapter that can be asked for; may be repeated.")] = None,
    max_loras: Annotated[int, typer.Option(help="Adapters that may run at once.", rich_help_panel=_ENGINE)] = 4,
    block_size: Annotated[int, typer.Option(help="Tokens in a block of the KV cache.", rich_help_panel=_ENGINE)] = 16,
    num_blocks: Annotated[int, typer.Option(help="Blocks in the KV cache.", rich_help_panel=_ENGINE)] = 26_000,
    max_num_seqs: Annotated[int, typer.Option(help="Sequences that may run at once.", rich_help_panel=_ENGINE)] = 256,
    max_num_batched_tokens: Annotated[int, typer.Option(help="Tokens computed in one step.", rich_help_panel=_ENGINE)] = 2_048,
    prefix_caching: Annotated[bool, typer.Option(help="Reuse the blocks of equal prefixes.", rich_help_panel=_ENGINE)] = True,
    default_max_tokens: Annotated[int, typer.Option(help="Tokens of an answer whose request names no limit.")] = 16,
    speed: Annotated[float, typer.Option(help="How many times faster than the timing says.", rich_help_panel=_TIMING)] = 1.0,
    step_base_ms: Annotated[float, typer.Option(help="Milliseconds a step takes at least.", rich_help_panel=_TIMING)] = 7.5,
    prefill_us: Annotated[float, typer.Option(help="Microseconds for each prompt token.", rich_help_panel=_TIMING)] = 40.0,
    decode_us: Annotated[float, typer.Option(help="Microseconds for each decoding sequence.", rich_help_panel=_TIMING)] = 5.0,
    context_us: Annotated[float, typer.Option(help="Microseconds for each token attended to.", rich_help_panel=_TIMING)] = 0.076,
    ttft_ms: Annotated[float | None, typer.Option(help="Fixed time to first token.", rich_help_panel=_TIMING)] = None,
    itl_ms: Annotated[float | None, typer.Option(help="Fixed time between tokens.", rich_help_panel=_TIMING)] = None,
    instant: Annotated[bool, typer.Option("--instant", help="Answer at once with one token, without an engine.")] = False,
    fail_rate: Annotated[float, typer.Option(help="Share of requests that get 500.", rich_help_panel=_FAULTS)] = 0.0,
    fixed_queue: Annotated[float | None, typer.Option(help="Waiting requests shown.", rich_help_panel=_FAULTS)] = None,
    fixed_running: Annotated[float | None, typer.Option(help="Running requests shown.", rich_help_panel=_FAULTS)] = None,
    fixed_kv: Annotated[float | None, typer.Option(help="KV cache usage shown, 0 to 1.", rich_help_panel=_FAULTS)] = None,
    fixed_lora: Annotated[list[str] | None, typer.Option(help="Running adapter shown.", rich_help_panel=_FAULTS)] = None,
    metrics_padding: Annotated[int, typer.Option(help="KiB of other families on /metrics.", rich_help_panel=_FAULTS)] = 0,
    seed: Annotated[int | None, typer.Option(help="Seed of the fault injection.", rich_help_panel=_FAULTS)] = None,
) -> None:
    """Run simulated model servers: OpenAI's APIs, vLLM's metrics, an engine with a prefix cache and a timing model."""
    try:
        fleet = servers(_options(locals()), count)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        _run(fleet)
    except OSError as error:
        print(f"error: cannot listen: {error}; choose another --host or --port", file=sys.stderr)
        raise typer.Exit(1) from None


def _options(given: Mapping[str, Any]) -> SimulatorOptions:
    """Turn the command's arguments into options: most have an option's name, a few are put together here."""
    from epp.simulator.options import SimulatorOptions
    from epp.simulator.timing import LinearTiming

    named = {field.name: given[field.name] for field in fields(SimulatorOptions) if field.name in given}
    return SimulatorOptions(
        **named,
        loras=tuple(given["lora"] or ()),
        fixed_loras=tuple(given["fixed_lora"]) if given["fixed_lora"] else None,
        metrics_padding_kb=given["metrics_padding"],
        timing=LinearTiming(given["step_base_ms"], given["prefill_us"], given["decode_us"], given["context_us"]),
        record=0,
    )


def servers(options: SimulatorOptions, count: int) -> list[SimulatorOptions]:
    """Give the options of `count` servers: ports counted up from a given one, names numbered from 1."""
    if count == 1:
        return [options]
    return [
        replace(
            options,
            port=options.port and options.port + index,
            name=options.name and f"{options.name}-{index + 1}",
            seed=None if options.seed is None else options.seed + index,
        )
        for index in range(count)
    ]


def _run(fleet: list[SimulatorOptions]) -> None:
    try:
        import uvloop
    except ImportError:  # not made for this platform
        asyncio.run(_serve(fleet))
    else:
        uvloop.run(_serve(fleet))


async def _serve(fleet: list[SimulatorOptions]) -> None:
    from epp.simulator.server import serve

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        for options in fleet:
            server = await stack.enter_async_context(serve(options))
            print(f"{server.name} serves {options.model} on {server.url}", flush=True)
        await stop.wait()
