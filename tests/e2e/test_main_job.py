"""The main job: a request through a real Envoy reaches the endpoint the picker chose."""

from __future__ import annotations

import json

import pytest

from tests.e2e.stack import stack


@pytest.mark.parametrize("mode", ["held", "released", "duplex", "buffered"])
async def test_requests_reach_the_chosen_endpoint_and_load_returns_to_zero(mode: str) -> None:
    """Plain and streamed answers arrive whole, from the endpoint that was chosen, and leave nothing counted."""
    async with stack(mode=mode) as running:
        for stream in (False, True):
            answer = await running.chat("tell me", stream=stream, stream_options={"include_usage": True} if stream else None)
            assert answer.status == 200, answer.body
            (decision,) = (await running.state(f"/api/decisions?request_id={answer.request_id}"))["decisions"]
            assert answer.served == decision["endpoint"]
            if stream:
                assert answer.body.endswith(b"data: [DONE]\n\n")
            else:
                assert answer.json()["usage"]["completion_tokens"] == 4

        async def told() -> bool:
            tokens = await running.metric("llm_d_epp_request_output_tokens_sum")
            return tokens == 8 and sum((await running.inflight()).values()) == 0

        await running.until(told)
        assert await running.metric("llm_d_epp_request_total", model_name="simulated-model") == 2


async def test_the_body_arrives_byte_for_byte_with_the_picker_s_headers() -> None:
    """Odd spacing and key order survive; the destination header equals the metadata that chose the host."""
    async with stack() as running:
        body = b'{ "z":1,\n"model" : "simulated-model","messages":[{"content":"h\\u00e9","role":"user"}],  "a":{"b":1,"a":2} }'
        answer = await running.request("POST", "/v1/chat/completions", body, {"x-gateway-destination-endpoint": "6.6.6.6:1"})
        assert answer.status == 200
        (received,) = [request for server in running.servers for request in server.requests]
        assert received.body == body
        assert received.headers["x-gateway-destination-endpoint"] == answer.served
        assert received.headers["x-gateway-model-name"] == "simulated-model"


async def test_a_get_is_routed_without_a_body() -> None:
    """GET /v1/models is answered by some endpoint."""
    async with stack() as running:
        answer = await running.request("GET", "/v1/models")
        assert answer.status == 200
        assert answer.json()["data"][0]["id"] == "simulated-model"


@pytest.mark.parametrize(("body", "told"), [(b"{", "JSON"), (b"{}", "model"), (b'{"model": "m", "messages": []}', "messages")])
async def test_a_bad_request_is_refused_in_openai_s_form(body: bytes, told: str) -> None:
    """The client learns what to change; no server sees the request."""
    async with stack(1) as running:
        answer = await running.request("POST", "/v1/chat/completions", body)
        assert answer.status == 400
        assert answer.headers["content-type"] == "application/json"
        assert told in json.loads(answer.body)["error"]["message"]
        assert not running.servers[0].requests
