"""What the rendered configurations do in a real Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import io
import ipaddress
import json
from pathlib import Path

import grpc
import pytest
import yaml
from cryptography import x509

from epp.gateway.wiring import Failure, HostPort, Mode, PickerTls
from epp.pb.access_log_pb2 import HTTPAccessLogEntry
from tests.gateway.fakes import DESTINATION, USAGE, World, certificate, world

ALL_MODES = pytest.mark.parametrize("mode", list(Mode))


def metadata(entry: HTTPAccessLogEntry, namespace: str) -> dict[str, object]:
    """Give one namespace of an entry's dynamic metadata."""
    found = entry.common_properties.metadata.filter_metadata
    return dict(found[namespace].items()) if namespace in found else {}


@ALL_MODES
async def test_the_picked_server_answers(mode: Mode, tmp_path: Path) -> None:
    """In every mode the picker's choice answers, the body arrives byte for byte, and the log names the lease."""
    async with world(tmp_path, mode=mode) as w:
        for index, model in enumerate(w.models):
            w.picker.choice = model.address
            answer = await w.post(id=f"r{index}", text="Grüße, \u4e16\u754c")
            assert (answer.status, answer.headers["x-server"]) == (200, model.address)
            assert json.loads(model.bodies[0]) == {"text": "Grüße, \u4e16\u754c"}
            entry = await w.picker.logged(f"r{index}")
            assert metadata(entry, "envoy.lb")["x-epp-lease"] == f"lease-{index + 1}"
            assert metadata(entry, "envoy.lb")[f"{DESTINATION}-served"] == model.address
            assert entry.common_properties.upstream_remote_address.socket_address.port_value == HostPort.parse(model.address).port


async def test_the_stream_says_where_the_end_will_be_told(tmp_path: Path) -> None:
    """The ext_proc stream announces the access log and names the same node as the access log's first message."""
    async with world(tmp_path, node="edge-7") as w:
        await w.post(id="r")
        await w.picker.logged("r")
        (stream,) = w.picker.streams
        assert stream.metadata["x-epp-completion"] == "access-log"
        assert stream.metadata["x-epp-node"] == "edge-7"
        assert (w.picker.nodes, w.picker.log_names) == (["edge-7"], ["epp"])


async def test_a_client_cannot_choose_the_server(tmp_path: Path) -> None:
    """Control headers of a client neither reach the picker nor steer the request, even when there is no picker."""
    async with world(tmp_path) as w:
        other = w.models[1].address
        names = (DESTINATION, f"{DESTINATION}-subset", "x-prefiller-host-port", "x-encoder-hosts-ports")
        forged = dict.fromkeys((*names, "x-data-parallel-host-port", "x-kv-cache-source-host-port"), other)
        async with w.client.post(f"{w.envoy.url}/v1/completions", json={}, headers=forged) as answer:
            assert answer.headers["x-server"] == w.models[0].address
        assert not forged.keys() & w.picker.streams[0].headers.keys()
        assert w.models[0].headers[0][DESTINATION] == w.models[0].address
        assert not (forged.keys() - {DESTINATION}) & w.models[0].headers[0].keys()
        await w.picker.stop()
        await until_200(w)
        answered = set()
        for _ in range(4):
            async with w.client.post(f"{w.envoy.url}/v1/completions", json={}, headers=forged) as answer:
                answered.add(answer.headers["x-server"])
        assert answered == {model.address for model in w.models}


async def test_a_request_id_is_kept_or_made(tmp_path: Path) -> None:
    """A client's request id reaches picker, model server and answer unchanged; without one Envoy makes one."""
    async with world(tmp_path) as w:
        answer = await w.post(id="00000000-0000-4000-8000-000000000001")
        assert w.picker.streams[0].headers["x-request-id"] == "00000000-0000-4000-8000-000000000001"
        assert answer.headers["x-request-id"] == "00000000-0000-4000-8000-000000000001"
        answer = await w.post()
        made = w.picker.streams[1].headers["x-request-id"]
        assert made
        assert made == w.models[0].headers[1]["x-request-id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("mode", [Mode.HELD, Mode.RELEASED])
@pytest.mark.parametrize("wish", [{}, {"content_type": "application/json; charset=utf-8"}, {"stream": True}])
async def test_usage_comes_with_the_log(mode: Mode, wish: dict[str, object], tmp_path: Path) -> None:
    """Token counts of JSON and streamed answers arrive in the log, though no byte of them passes the picker."""
    async with world(tmp_path, mode=mode) as w:
        w.models[0].release.set()
        await w.post(id="r", **wish)
        usage = metadata(await w.picker.logged("r"), "epp.usage")
        cached = USAGE["prompt_tokens_details"]["cached_tokens"]  # type: ignore[index]
        assert usage == {"prompt_tokens": 11, "completion_tokens": 7, "cached_tokens": cached}
        assert "response_body" not in w.picker.streams[0].kinds


async def test_usage_can_be_left_out(tmp_path: Path) -> None:
    """Without usage Envoy does not touch the answer's body."""
    async with world(tmp_path, usage=False) as w:
        await w.post(id="r")
        assert metadata(await w.picker.logged("r"), "epp.usage") == {}


@ALL_MODES
async def test_streamed_answers_are_not_buffered(mode: Mode, tmp_path: Path) -> None:
    """The first event is with the client while the model server has not made the second."""
    async with world(tmp_path, mode=mode) as w, w.client.post(f"{w.envoy.url}/v1/completions", json={"stream": True}) as answer:
        first = await answer.content.readline()
        assert first == b'data: {"choices":[],"usage":null}\n'
        w.models[0].release.set()
        assert (await answer.content.read()).endswith(b"[DONE]\n\n")


async def test_what_each_mode_shows_the_picker(tmp_path: Path) -> None:
    """Released streams end while the answer is awaited; held ones live as long as the exchange and see no answer body."""
    async with world(tmp_path, mode=Mode.RELEASED) as w:
        task = asyncio.create_task(w.post(id="r", hold=True))
        await w.models[0].reached.wait()
        await asyncio.wait_for(w.picker.streams[0].over.wait(), 10)
        assert not task.done()
        w.models[0].release.set()
        await task
        assert set(w.picker.streams[0].kinds) == {"request_headers", "request_body"}
    async with world(tmp_path, mode=Mode.HELD) as w:
        task = asyncio.create_task(w.post(stream=True))
        await w.models[0].reached.wait()
        assert not w.picker.streams[0].over.is_set()
        w.models[0].release.set()
        await task
        await asyncio.wait_for(w.picker.streams[0].over.wait(), 10)
        assert set(w.picker.streams[0].kinds) == {"request_headers", "request_body", "response_headers"}
        assert w.picker.streams[0].served == w.models[0].address


@pytest.mark.parametrize("mode", [Mode.HELD, Mode.RELEASED, Mode.DUPLEX])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_aborted_request_is_logged(mode: Mode, stream: bool, tmp_path: Path) -> None:
    """A client that leaves, before or after the answer has begun, ends the stream and leaves an entry with the lease."""
    async with world(tmp_path, mode=mode) as w:
        task = asyncio.create_task(w.post(id="r", stream=stream, hold=not stream))
        await w.models[0].reached.wait()
        if stream and mode is not Mode.RELEASED:
            await asyncio.wait_for(w.picker.streams[0].began.wait(), 10)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        entry = await asyncio.wait_for(w.picker.logged("r"), 10)
        assert entry.response.response_code_details == "downstream_remote_disconnect"
        assert metadata(entry, "envoy.lb")["x-epp-lease"] == "lease-1"
        await asyncio.wait_for(w.picker.streams[0].over.wait(), 10)


@ALL_MODES
async def test_a_body_of_five_megabytes_passes(mode: Mode, tmp_path: Path) -> None:
    """Large prompts pass in every mode, to the picker and to the model server."""
    async with world(tmp_path, mode=mode) as w:
        body = json.dumps({"text": "x" * 5_000_000}).encode()
        async with w.client.post(f"{w.envoy.url}/v1/completions", data=io.BytesIO(body)) as answer:
            assert answer.status == 200
        assert w.picker.streams[0].body == body
        assert w.models[0].bodies[0] == body


async def until_200(w: World) -> int:
    """Send requests until one is answered with 200; count those that were not, and insist on 503 for them."""
    failed = 0
    async with asyncio.timeout(10):
        while (answer := await w.post()).status != 200:
            assert answer.status == 503
            failed += 1
            await asyncio.sleep(0.05)
    return failed


@ALL_MODES
async def test_fail_open(mode: Mode, tmp_path: Path) -> None:
    """With the picker gone, requests are spread over the pool; with the picker back, its choice counts again."""
    async with world(tmp_path, mode=mode, failure=Failure.OPEN) as w:
        assert (await w.post()).status == 200
        await w.picker.stop()
        await until_200(w)
        answers = [await w.post(text="x" * 2000) for _ in range(10)]
        assert [answer.status for answer in answers] == [200] * 10
        assert {answer.headers["x-server"] for answer in answers} == {model.address for model in w.models}
        await w.picker.start()
        seen = len(w.picker.streams)
        async with asyncio.timeout(10):
            while len(w.picker.streams) == seen:
                await w.post()
                await asyncio.sleep(0.05)
        answers = [await w.post() for _ in range(4)]
        assert {answer.headers["x-server"] for answer in answers} == {w.models[0].address}


async def test_fail_open_leaves_a_dead_server(tmp_path: Path) -> None:
    """Without a picker a request that meets a dead model server is tried on another."""
    async with world(tmp_path, failure=Failure.OPEN) as w:
        assert (await w.post()).status == 200
        await w.picker.stop()
        await until_200(w)
        await w.models[1].stop()
        answers = [await w.post() for _ in range(6)]
        assert {(answer.status, answer.headers.get("x-server")) for answer in answers} == {(200, w.models[0].address)}


@ALL_MODES
async def test_fail_close(mode: Mode, tmp_path: Path) -> None:
    """With the picker gone, every request gets 503 and no model server sees one; with the picker back, it works again."""
    async with world(tmp_path, mode=mode, failure=Failure.CLOSE) as w:
        assert (await w.post()).status == 200
        await w.picker.stop()
        before = [len(model.headers) for model in w.models]
        for _ in range(15):
            assert (await w.post()).status == 503
            await asyncio.sleep(0.1)  # past a health check, so that both what was learned and what was not is covered
        assert [len(model.headers) for model in w.models] == before
        await w.picker.start()
        await until_200(w)


async def test_a_draining_picker(tmp_path: Path) -> None:
    """A picker that says NOT_SERVING is asked no more under FailOpen, and still asked under FailClose as there is no other."""
    for failure in Failure:
        async with world(tmp_path, failure=failure) as w:
            assert (await w.post()).status == 200
            w.picker.serving = False
            async with asyncio.timeout(10):
                while not await w.stat(r"cluster\.picker\.health_check\.failure"):  # noqa: ASYNC110 - Envoy only counts
                    await asyncio.sleep(0.05)
            seen = len(w.picker.streams)
            assert [(await w.post()).status for _ in range(4)] == [200] * 4
            assert len(w.picker.streams) == seen + (4 if failure is Failure.CLOSE else 0)


async def test_a_picker_that_comes_late_is_used(tmp_path: Path) -> None:
    """Envoy starts without a picker, and asks it within seconds once it is there."""
    async with world(tmp_path, listening=False, failure=Failure.OPEN) as w:
        assert (await w.post()).status == 503
        w.picker.choice = w.models[1].address
        await w.picker.start()
        await until_200(w)
        assert (await w.post()).headers["x-server"] == w.models[1].address


async def test_a_client_can_be_told_who_answered(tmp_path: Path) -> None:
    """With `reveal_served` the answer names the model server's address, over anything that server says itself."""
    async with world(tmp_path, reveal_served=True) as w:
        assert (await w.post()).headers.getall("x-served-endpoint") == [w.models[0].address]


async def test_the_picker_can_choose_the_route(tmp_path: Path) -> None:
    """A model-name header that the picker sets selects a route, because the route is chosen again after the picker's answer."""
    by_model = {
        "match": {"prefix": "/", "headers": [{"name": "x-gateway-model-name", "string_match": {"exact": "small"}}]},
        "direct_response": {"status": 299},
    }

    def with_route(config: str) -> str:
        tree = yaml.safe_load(config)
        manager = tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        manager["route_config"]["virtual_hosts"][0]["routes"].insert(0, by_model)
        return yaml.safe_dump(tree)

    async with world(tmp_path, alter=with_route) as w:
        assert (await w.post()).status == 200
        w.picker.model_name = "small"
        assert (await w.post()).status == 299


@pytest.mark.parametrize(
    ("san", "name", "trusted", "status"),
    [
        (x509.DNSName("epp.example"), "epp.example", True, 200),
        (x509.DNSName("epp.example"), "other.example", True, 503),
        (x509.DNSName("epp.example"), "epp.example", False, 503),
        (x509.IPAddress(ipaddress.ip_address("127.0.0.1")), "", True, 200),
        (x509.DNSName("whatever"), None, False, 200),
    ],
)
async def test_tls_to_the_picker(
    san: x509.GeneralName,
    name: str | None,
    trusted: bool,
    status: int,
    tmp_path: Path,
) -> None:
    """With a CA the picker's certificate must be signed by it and carry the name; `unverified` takes any."""
    key, pem = certificate(san)
    authority = tmp_path / "ca.pem"
    authority.write_bytes(pem if trusted else certificate(san)[1])
    settings = PickerTls() if name is None else PickerTls(str(authority), name)
    credentials = grpc.ssl_server_credentials([(key, pem)])
    async with world(tmp_path, credentials=credentials, failure=Failure.CLOSE, picker_tls=settings) as w:
        assert (await w.post()).status == status
