"""The load: wrk with 64 connections over a set of chat requests. Decides what the requests look like."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")
PATH = "/v1/chat/completions"
MODEL = "simulated-model"
HOW_TO_INSTALL = "wrk is not installed: apt-get install wrk  (https://github.com/wg/wrk), then run this bench again"

_WORDS = ("route", "model", "server", "cache", "prefix", "queue", "token", "batch", "proxy", "score", "the", "a", "of", "and")
_NOTHING: Mapping[str, object] = {}


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw; times in seconds. `refused` are answers of 400 and more, `broken` failed connections."""

    requests: int
    seconds: float
    p50: float
    p99: float
    refused: int
    broken: int


def find_wrk() -> str:
    """Give wrk's path; end the program with how to install it where it is missing."""
    found = shutil.which("wrk")
    if found is None:
        sys.exit(HOW_TO_INSTALL)
    return found


def text(size: int, rng: random.Random) -> str:
    """Write `size` bytes that look like words."""
    words = " ".join(rng.choices(_WORDS, k=size // 3))
    return words[:size]


def bodies(count: int, size: int, *, rng: random.Random, shared: int = 0, fields: Mapping[str, object] = _NOTHING) -> list[bytes]:
    """Write `count` chat requests of about `size` bytes; the first `shared` bytes of each are a system prompt they share.

    Where a prefix is shared and the endpoints are equally idle, the default scorers send all requests to one endpoint.
    """
    system = text(shared, rng)
    return [
        json.dumps({
            "model": MODEL,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": text(size - shared - 120, rng)}],
            **fields,
        }).encode()
        for _ in range(count)
    ]  # fmt: skip


async def run(url: str, requests: Path, *, connections: int, seconds: float) -> Load:
    """Post the lines of the file `requests` to `url`, as fast as answers come; raise RuntimeError when wrk fails."""
    command = [find_wrk(), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", str(SCRIPT), url]
    process = await asyncio.create_subprocess_exec(
        *command, "--", PATH, str(requests), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        out, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    lines: Sequence[str] = out.decode(errors="replace").splitlines()
    result = next((line for line in reversed(lines) if line.startswith("{")), None)
    if process.returncode or result is None:
        message = f"wrk failed: {' '.join(lines)[-500:]}"
        raise RuntimeError(message)
    return Load(**json.loads(result))
