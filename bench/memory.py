"""What cached prefix blocks cost: resident memory of a fresh process before and after the index takes them."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import random
from dataclasses import dataclass

from bench.options import Options
from bench.processes import resident_bytes
from bench.report import Table
from epp.prefix.index import PrefixIndex


@dataclass(frozen=True, slots=True)
class Filling:
    """How the index is filled: prompts of `blocks` blocks each, every one held by `holders` of 8 endpoints."""

    title: str
    blocks: int
    holders: int


@dataclass(frozen=True, slots=True)
class Holder:
    """An endpoint, as far as the index is concerned."""

    key: str
    row: int


FILLINGS = (
    Filling("long prompts (500 blocks), one holder", 500, 1),
    Filling("short prompts (8 blocks), one holder", 8, 1),
    Filling("long prompts, all 8 endpoints hold them", 500, 8),
)


async def bench(options: Options) -> list[Table]:
    """Fill an index in each way."""
    table = Table(
        f"Prefix index with {options.blocks:,} cached blocks", ("filling", "pairs held", "MiB", "bytes/block", "bytes/pair")
    )
    for filling in FILLINGS:
        pairs, grown = await asyncio.to_thread(_in_fresh_process, filling, options.blocks)
        table.rows.append((filling.title, pairs, grown / 2**20, grown / options.blocks, grown / pairs))
    table.notes = ["a block is 64 tokens of a prompt; a pair is a block and an endpoint that holds it"]
    return [table]


def _in_fresh_process(filling: Filling, blocks: int) -> tuple[int, int]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(fill, (filling, blocks))


def fill(filling: Filling, blocks: int) -> tuple[int, int]:
    """Fill an index with `blocks` blocks; give the pairs it holds and the bytes it took."""
    rng = random.Random(3)
    holders = [Holder(f"10.0.0.{number}:8000", number) for number in range(8)]
    index = PrefixIndex(capacity=blocks, total=blocks * filling.holders)
    gc.collect()
    before = resident_bytes()
    for number in range(blocks // filling.blocks):
        chain = [rng.getrandbits(64) for _ in range(filling.blocks)]
        for offset in range(filling.holders):
            index.add(holders[(number + offset) % 8], chain)
    gc.collect()
    return index.pairs, resident_bytes() - before
