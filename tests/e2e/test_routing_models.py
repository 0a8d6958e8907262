"""Body based routing: the model is read from each API's body, named to the server in headers, and never guessed."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from epp.simulator.options import SimulatorOptions
from tests.e2e.configs import using
from tests.e2e.stack import Answer, Stack, stack

MODEL, BASE = "x-gateway-model-name", "x-gateway-base-model-name"
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}),
    ("/v1/completions", {"prompt": "hello", "max_tokens": 3}),
    ("/v1/completions", {"prompt": [101, 102, 103], "max_tokens": 3}),
    ("/v1/embeddings", {"input": ["hello", "there"]}),
    ("/v1/responses", {"input": "hello", "max_output_tokens": 3}),
]
QUICK = SimulatorOptions(speed=50, loras=("sql", "law"))


async def post(running: Stack, path: str, body: object, headers: dict[str, str] | None = None) -> Answer:
    """Send `body` as JSON."""
    return await running.request("POST", path, json.dumps(body).encode(), headers)


def message(answer: Answer) -> str:
    """Read the error of a refusal, which must have OpenAI's form."""
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return str(error["message"])


async def test_each_api_is_routed_with_its_model_named_in_the_headers() -> None:
    """Chat, completions (text and token ids), embeddings and responses reach a server that sees which model was read."""
    async with stack([QUICK] * 2) as running:
        for path, fields in CALLS:
            answer = await post(running, path, {"model": "simulated-model", **fields})
            assert answer.status == 200, answer.body
            assert answer.json()["usage"]["total_tokens"] > 0
        received = [request for server in running.servers for request in server.requests]
        assert sorted(request.path for request in received) == sorted(path for path, _ in CALLS)
        assert {request.headers[MODEL] for request in received} == {"simulated-model"}
        assert not any(BASE in request.headers for request in received)
        for server in running.servers:
            server.requests.clear()
        await post(running, "/v1/chat/completions?beta=1", {"model": "sql", "messages": [{"role": "user", "content": "x"}]})
        (request,) = [request for server in running.servers for request in server.requests]
        assert (request.path, request.headers[MODEL]) == ("/v1/chat/completions?beta=1", "sql")


async def test_a_request_without_a_readable_model_is_refused_and_reaches_no_server() -> None:
    """In every API: 400 in OpenAI's form that says what to change, and nothing is routed silently."""
    async with stack([QUICK] * 2) as running:
        for path, fields in CALLS:
            for model in ({}, {"model": None}, {"model": ""}, {"model": 7}, {"model": ["m"]}):
                refused = await post(running, path, {**model, **fields})
                assert refused.status == 400
                assert "model" in message(refused)
        for body in (b"", b"hello", b'{"model": "simulated-model"', b"[]", b"\xff\xfe{}", b'{"model": "a", "model": "b"'):
            refused = await running.request("POST", "/v1/chat/completions", body)
            assert refused.status == 400
            assert "JSON" in message(refused)
        assert not any(server.requests for server in running.servers)
        assert await running.metric("llm_d_epp_request_error_total") > 0
        assert not any((await running.inflight()).values())


async def test_the_client_cannot_speak_for_the_gateway() -> None:
    """Model and control headers that a client sends are overwritten or removed, whatever their case."""
    lies = {MODEL: "lie", BASE: "lie", "X-Gateway-Inference-Objective": "vip", "x-prefiller-host-port": "6.6.6.6:1"}
    async with stack([QUICK]) as running:
        answer = await running.chat(headers=lies)
        assert answer.status == 200
        (request,) = running.servers[0].requests
        assert request.headers[MODEL] == "simulated-model"
        assert not {BASE, "x-gateway-inference-objective", "x-prefiller-host-port"} & set(request.headers)


async def test_the_base_model_follows_the_adapters_file(tmp_path: Path) -> None:
    """X-Gateway-Base-Model-Name is there for names in the file, changes with it, and survives a broken edit."""
    adapters = tmp_path / "adapters.yaml"
    adapters.write_text("simulated-model: [sql]\n")
    async with stack([QUICK], arguments=[f"--adapters-file={adapters}"]) as running:

        async def base_of(model: str) -> str | None:
            assert (await running.chat(model=model)).status == 200
            return running.servers[0].requests[-1].headers.get(BASE)

        async def law_is_known() -> bool:
            return await base_of("law") == "simulated-model"

        assert await base_of("sql") == "simulated-model"
        assert await base_of("simulated-model") == "simulated-model"
        assert await base_of("law") is None
        adapters.write_text("simulated-model: [law]\nother-base: [sql]\n")
        await running.until(law_is_known)
        assert await base_of("sql") == "other-base"
        adapters.write_text("simulated-model: [law\n")
        await running.picker.says("last good content stays")
        assert await base_of("law") == "simulated-model"


async def test_what_no_parser_reads_is_routed_by_load_when_the_passthrough_parser_takes_it() -> None:
    """A multipart upload arrives as it was sent; without the passthrough parser its path is refused with advice."""
    boundary = uuid.uuid4().hex
    upload = (
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode()
        + bytes(range(256)) * 40
        + f'\r\n--{boundary}\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper\r\n--{boundary}--\r\n'.encode()
    )
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    path = "/v1/audio/transcriptions"
    passing = using("queue-scorer", requestHandler={"parsers": [{"pluginRef": "passthrough-parser"}]})
    for config in ("", passing):
        async with stack([QUICK] * 2, config=config) as running:
            running.servers[0].fixed.waiting, running.servers[1].fixed.waiting = 5.0, 0.0
            await running.scraped()
            answer = await running.request("POST", path, upload, headers)
            assert answer.served == running.key(1)
            (request,) = running.servers[1].requests
            assert (request.path, request.body) == (path, upload)
            assert request.headers["content-type"] == headers["content-type"]
            assert MODEL not in request.headers


async def test_a_path_without_a_parser_is_refused_when_only_openai_is_configured() -> None:
    """400 names the path and what to configure; known paths and requests without a body still work."""
    config = using("queue-scorer", requestHandler={"parsers": [{"pluginRef": "openai-parser"}]})
    async with stack([QUICK], config=config) as running:
        refused = await running.request("POST", "/v1/audio/transcriptions", b"data")
        assert refused.status == 400
        assert "/v1/audio/transcriptions" in message(refused)
        assert "passthrough-parser" in message(refused)
        assert not running.servers[0].requests
        assert (await running.chat()).status == 200
        assert (await running.request("GET", "/v1/models")).status == 200


async def test_an_unusual_model_name_arrives_as_it_was_written() -> None:
    """A name is the client's business: it is refused by the model server, which read the same name, not lost on the way."""
    async with stack([QUICK]) as running:
        for model in ("modèle-中文", " spaced ", "a" * 1000, "org/model:tag@1", 'q"uote\\', "€", "a,b"):
            answer = await running.chat(model=model)
            assert answer.status == 404, (model, answer.body)
            request = running.servers[0].requests[-1]
            assert json.loads(request.body)["model"] == model
            named = request.headers[MODEL].encode("utf-8", "surrogateescape").decode()
            assert named.strip() == model.strip()
        for model in ("a\nb", "a\0b", "x" * 1025, "  "):
            refused = await running.chat(model=model)
            assert (refused.status, "model" in message(refused)) == (400, True)
