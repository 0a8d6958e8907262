"""The sample requests of `epp up`: sent through Envoy as a client would, each shown with who answered and why.

A sample is good when the endpoint that answered, as Envoy reports it, is the one the picker decided on.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

SERVED_HEADER = "x-served-endpoint"  # set by the Envoy configuration that `epp up` uses
SYSTEM = "You are a patient assistant who explains how requests reach model servers. " * 12
CONVERSATIONS = (
    ("plain", [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "What does an endpoint picker do?"}]),
    ("streaming", [{"role": "user", "content": "Count to five. " * 30}]),
    (
        "streaming, same beginning",
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "What does an endpoint picker do?"},
         {"role": "assistant", "content": "It chooses a model server for each request."}, {"role": "user", "content": "Why?"}],
    ),
    ("plain, same beginning", [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "And who is asked first?"}]),
)  # fmt: skip


async def show(envoy: str, admin: str, model: str) -> int:
    """Send the samples through `envoy`, print each with the picker's reasons from `admin`; 0 when all went as decided."""
    console = Console(highlight=False, width=200)
    problems: list[str] = []
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            model = model or await _first_model(session, envoy)
            for name, messages in CONVERSATIONS:
                problem = await _sample(session, Place(console, envoy, admin), name, {"model": model, "messages": messages})
                if problem:
                    problems.append(f"{name}: {problem}")
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            problems.append(str(error) or "no answer in time")
    for problem in problems:
        console.print(f"[red]failed[/] {problem}")
    if not problems:
        console.print(f"All {len(CONVERSATIONS)} samples were answered by the endpoint the picker chose. Try one yourself:\n")
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": True})
        print(f"  curl -N {envoy}/v1/chat/completions -H 'content-type: application/json' -d '{body}'")
        print(f"  curl '{admin}/api/decisions?limit=1'")
    return 1 if problems else 0


async def _first_model(session: aiohttp.ClientSession, envoy: str) -> str:
    async with session.get(f"{envoy}/v1/models") as answer:
        if answer.status != 200:
            told = (await answer.text())[:200]
            msg = f"GET /v1/models was answered with {answer.status}: {told}. Do the model servers answer?"
            raise ValueError(msg)
        return str((await answer.json())["data"][0]["id"])


@dataclass(frozen=True, slots=True)
class Place:
    """Where samples go, where the reasons are, and where both are shown."""

    console: Console
    envoy: str
    admin: str


async def _sample(session: aiohttp.ClientSession, place: Place, name: str, body: dict[str, Any]) -> str | None:
    """Send one; give what went wrong, or None."""
    stream = name.startswith("streaming")
    request_id = str(uuid.uuid4())
    body = {**body, "stream": stream, "max_tokens": 12}
    async with session.post(f"{place.envoy}/v1/chat/completions", json=body, headers={"x-request-id": request_id}) as answer:
        text = await answer.text()
        served = answer.headers.get(SERVED_HEADER, "")
        if answer.status != 200:
            return f"status {answer.status}: {text[:300]}"
    decision = await _decision(session, place.admin, request_id)
    if decision is None:
        return f"answered by {served}, but the picker has no decision for it (did Envoy fail open?)"
    chosen = str(decision["endpoint"])
    shape = f"{text.count('data: ')} events" if stream else f"{len(text)} bytes"
    place.console.print(f"[bold]{name}[/]  200, {shape}, answered by [bold]{served}[/]")
    place.console.print(_reasons(decision))
    return None if served == chosen else f"the picker chose {chosen}, but {served or 'an unnamed endpoint'} answered"


async def _decision(session: aiohttp.ClientSession, admin: str, request_id: str) -> dict[str, Any] | None:
    for _ in range(20):
        async with session.get(f"{admin}/api/decisions", params={"request_id": request_id}) as answer:
            found = (await answer.json())["decisions"]
        if found:
            return dict(found[0])
        await asyncio.sleep(0.05)
    return None


def _reasons(decision: dict[str, Any]) -> Table:
    """Lay out every candidate's scores: a column a scorer, the weighted total last."""
    table = Table(box=None, padding=(0, 2, 0, 2))
    candidates = decision["candidates"]
    parts = candidates[0]["scores"] if candidates else {}
    table.add_column("candidate")
    for name, part in parts.items():
        table.add_column(f"{name} ×{part['weight']:g}", justify="right")
    table.add_column("total", justify="right")
    for candidate in candidates:
        mark = "→" if candidate["chosen"] else " "
        scores = [_number(part["score"]) for part in candidate["scores"].values()]
        table.add_row(f"{mark} {candidate['endpoint']}", *scores, _number(candidate["total"]))
    return table


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"
