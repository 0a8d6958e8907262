"""What each path of a simulated server answers: the edge between HTTP and the engine.

Reads a call, puts its sequences into the engine, writes what comes out. A client that goes away ends its sequences.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from epp.simulator.answers import Spent, Writer, writer
from epp.simulator.calls import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Received, Refusal, read_call
from epp.simulator.engine import Sequence
from epp.simulator.text import Answer, block_hashes, count_tokens

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from epp.simulator.calls import Call
    from epp.simulator.driver import Ticket
    from epp.simulator.server import SimulatedServer

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_BODY = 64 * 1024 * 1024
INFERENCE = frozenset({CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES})
_UNRECORDED = frozenset({"/metrics", "/health"})
_PREFIXES = {CHAT: "chatcmpl", COMPLETIONS: "cmpl", EMBEDDINGS: "embd", RESPONSES: "resp"}


def models_document(server: SimulatedServer) -> bytes:
    """Give the answer of `/v1/models`: the base model, then its adapters."""
    base = server.options.model
    common = {"object": "model", "created": server.created, "owned_by": "simulator"}
    length = server.engine.settings.capacity
    data: list[dict[str, Any]] = [{"id": base, **common, "root": base, "parent": None, "max_model_len": length}]
    data += [{"id": name, **common, "root": path, "parent": base} for name, path in server.loras.items()]
    return msgspec.json.encode({"object": "list", "data": data})


class Handlers:
    """The handlers of one server."""

    def __init__(self, server: SimulatedServer) -> None:
        """Answer for `server`."""
        self.server = server
        self._numbers = itertools.count(1)

    def application(self) -> web.Application:
        """Make the aiohttp application."""
        app = web.Application(middlewares=[self._edge], client_max_size=MAX_BODY)
        app.on_response_prepare.append(self._sign)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/load_lora_adapter", self._load_lora)
        app.router.add_post("/v1/unload_lora_adapter", self._unload_lora)
        for path in sorted(INFERENCE):
            app.router.add_post(path, self._infer)
        return app

    # --- the edge -----------------------------------------------------------------------------------------------------

    async def _sign(self, request: web.Request, response: web.StreamResponse) -> None:  # noqa: ARG002 - aiohttp's signature
        response.headers["x-simulated-server"] = self.server.name

    @web.middleware
    async def _edge(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Record the request, fail it if asked to, and give every refusal the same form."""
        try:
            await self._record(request)
            self._inject(request)
            return await handler(request)
        except Refusal as refusal:
            return _json(refusal.body(), refusal.status)
        except web.HTTPException as error:
            return _json(Refusal(error.status, error.reason).body(), error.status, error.headers.get("allow"))

    def _inject(self, request: web.Request) -> None:
        if request.path in INFERENCE and self.server.failing():
            raise Refusal(500, "injected fault")

    async def _record(self, request: web.Request) -> None:
        body = await request.read()
        if request.path in _UNRECORDED or not self.server.options.record:
            return
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            key = name.lower()
            headers[key] = f"{headers[key]},{value}" if key in headers else value
        self.server.requests.append(Received(request.method, request.path_qs, headers, body))

    # --- small pages --------------------------------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        return web.Response()

    async def _metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        return web.Response(body=self.server.metrics(), headers={"content-type": METRICS_TYPE})

    async def _models(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        return _json(models_document(self.server))

    async def _load_lora(self, request: web.Request) -> web.Response:
        name, path = await self._lora_fields(request)
        if not path:
            raise Refusal(400, "Both 'lora_name' and 'lora_path' must be provided.")
        self.server.loras[name] = path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload_lora(self, request: web.Request) -> web.Response:
        name, _ = await self._lora_fields(request)
        if self.server.loras.pop(name, None) is None:
            raise Refusal(404, f"The lora adapter '{name}' cannot be found.")
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _lora_fields(self, request: web.Request) -> tuple[str, str]:
        try:
            data = msgspec.json.decode(await request.read(), type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise Refusal(400, f"the body is not a JSON object: {error}") from None
        name, path = data.get("lora_name"), data.get("lora_path")
        if not isinstance(name, str) or not name or "," in name:
            raise Refusal(400, "'lora_name' must be provided, and must not contain a comma.")
        return name, path if isinstance(path, str) else ""

    # --- inference ----------------------------------------------------------------------------------------------------

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        server = self.server
        call = read_call(request.path, await request.read())
        if call.model != server.options.model and call.model not in server.loras:
            raise Refusal(404, f"The model `{call.model}` does not exist.", "model")
        limit = server.options.default_max_tokens if call.max_tokens is None else call.max_tokens
        sequences = [self._sequence(call, prompt, limit) for prompt in call.prompts]
        ident = f"{_PREFIXES[call.api]}-{server.name}-{next(self._numbers)}"
        answer = writer(call, ident, int(server.wall_clock()), limit)
        with server.driver.submit(sequences, each=call.stream) as ticket:
            return await (self._stream(request, ticket, answer) if call.stream else self._whole(ticket, answer))

    def _sequence(self, call: Call, prompt: bytes, limit: int) -> Sequence:
        settings, tokens = self.server.engine.settings, count_tokens(prompt)
        if tokens + limit > settings.capacity:
            asked = f"{tokens} in the prompt and {limit} in the answer"
            raise Refusal(400, f"This model's maximum context length is {settings.capacity} tokens; you asked for {asked}.")
        adapter = call.model if call.model in self.server.loras else ""
        text = prompt + Answer(prompt).text(0, limit).encode()
        hashes = block_hashes(text, settings.block_size, f"{call.model}\0{call.salt}")
        return Sequence(tokens, limit, hashes, adapter)

    async def _whole(self, ticket: Ticket, answer: Writer) -> web.StreamResponse:
        while not ticket.over:
            await ticket.wait()
        return _json(answer.whole(_spent(ticket, answer.call.n)))

    async def _stream(self, request: web.Request, ticket: Ticket, answer: Writer) -> web.StreamResponse:
        """Send an event a token. The head goes out with the first token, as vLLM's does."""
        await ticket.wait()
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"})
        await response.prepare(request)
        sent = [0] * len(ticket.sequences)
        events = [answer.begin()]
        try:
            while True:
                for index, sequence in enumerate(ticket.sequences):
                    events += (answer.tokens(index, token, token + 1) for token in range(sent[index], sequence.generated))
                    sent[index] = sequence.generated
                if ticket.over:
                    break
                if any(events):
                    await response.write(b"".join(events))
                events.clear()
                await ticket.wait()
            events.append(answer.end(_spent(ticket, answer.call.n)))
            await response.write(b"".join(events))
            await response.write_eof()
        except ConnectionResetError:
            pass  # the client has gone: leaving the ticket's block frees what it held
        return response


def _spent(ticket: Ticket, n: int) -> Spent:
    """Add up a call's tokens. A prompt with `n` answers counts once, as the first of them met it."""
    sequences = ticket.sequences
    return Spent(
        prompt=sum(sequence.prompt_tokens for sequence in sequences[::n]),
        completion=sum(sequence.generated for sequence in sequences),
        cached=sum(sequence.cached for sequence in sequences[::n]),
    )


def _json(body: bytes, status: int = 200, allow: str | None = None) -> web.Response:
    headers = {"content-type": "application/json", **({"allow": allow} if allow else {})}
    return web.Response(status=status, body=body, headers=headers)
