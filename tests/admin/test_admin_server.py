from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from epp.admin.decisions import DecisionLog
from epp.admin.metrics import PrometheusTelemetry
from epp.admin.page import MetricsPage
from epp.admin.pool import PoolGauges
from epp.admin.server import AdminServer, listen
from epp.api import Pick, Pool, Request
from epp.grpc.tls import Certificates, ssl_context

Get = Callable[..., Awaitable[aiohttp.ClientResponse]]


@pytest.fixture
def reasons() -> list[str]:
    """Give the reasons against readiness; the test changes them."""
    return []


@pytest.fixture
def decisions(pool: Pool, pick: Pick, request_: Request) -> DecisionLog:
    """Give a log of two decisions."""
    log = DecisionLog()
    log.record(request_, pick, pool.endpoints[1], 998.0)
    log.record(Request("id-2", "POST", "/", {}), None, pool.endpoints[0], 999.0)
    return log


@pytest.fixture
def parts(pool: Pool, telemetry: PrometheusTelemetry, decisions: DecisionLog, reasons: list[str]) -> dict[str, Any]:
    """Give what an admin server shows."""
    page = MetricsPage([telemetry, PoolGauges(pool, "pool")])
    return {"page": page, "pool": pool, "decisions": decisions, "why_not_ready": lambda: reasons}


@pytest.fixture
async def get(parts: dict[str, Any]) -> AsyncIterator[Get]:
    """Ask a running admin server."""
    server = AdminServer(**parts)
    port = await server.start("127.0.0.1:0")
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def ask(path: str, **options: Any) -> aiohttp.ClientResponse:
            response = await session.get(path, **options)
            await response.read()
            return response

        yield ask
    await server.stop()


@pytest.mark.parametrize(
    ("accept", "content_type", "read"),
    [
        ("", "text/plain", parse),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4",
            "application/openmetrics-text",
            parse_openmetrics,
        ),
    ],
)
async def test_metrics_in_the_form_asked_for(get: Get, accept: str, content_type: str, read: Callable[..., Any]) -> None:
    """The page comes in the text form the scraper prefers, and parses."""
    response = await get("/metrics", headers={"accept": accept})
    assert response.status == 200
    assert response.content_type == content_type
    names = {sample.name for family in read(await response.text()) for sample in family.samples}
    assert {"llm_d_epp_ready_endpoints", "llm_d_epp_info", "process_cpu_seconds_total"} <= names


async def test_metrics_are_compressed_for_who_wants_it(get: Get) -> None:
    """A scraper that accepts gzip gets it; one that does not gets plain text."""
    assert (await get("/metrics", headers={"accept-encoding": "gzip"})).headers["content-encoding"] == "gzip"
    assert "content-encoding" not in (await get("/metrics", headers={"accept-encoding": "identity"})).headers


async def test_probes(get: Get, reasons: list[str]) -> None:
    """`/healthz` says that the process lives; `/readyz` follows readiness and says why not, as text or JSON."""
    assert ((await get("/healthz")).status, (await get("/readyz")).status) == (200, 200)
    reasons += ["pool not synced", "draining"]
    response = await get("/readyz")
    assert (response.status, await response.text()) == (503, "pool not synced\ndraining\n")
    response = await get("/readyz", headers={"accept": "application/json"})
    assert response.status == 503
    assert await response.json() == {"ready": False, "reasons": reasons}
    assert (await get("/healthz")).status == 200


async def test_the_pool_as_json(get: Get) -> None:
    """`/api/pool` lists the endpoints; unknown is null."""
    state = await (await get("/api/pool")).json()
    assert [row["endpoint"] for row in state["endpoints"]] == ["10.0.0.1:8000", "10.0.0.2:8000", "[::1]:8000"]
    assert state["endpoints"][0]["columns"]["waiting"] is None


async def test_decisions_as_json(get: Get) -> None:
    """`/api/decisions` tells the newest first, by request and up to a limit, and nothing of a prompt."""
    response = await get("/api/decisions")
    told = (await response.json())["decisions"]
    assert [(row["request_id"], row["age_seconds"]) for row in told] == [("id-2", 1.0), ("id-1", 2.0)]
    assert "the prompt" not in await response.text()
    assert len((await (await get("/api/decisions?limit=1")).json())["decisions"]) == 1
    one = (await (await get("/api/decisions?request_id=id-1")).json())["decisions"]
    assert [row["endpoint"] for row in one] == ["10.0.0.2:8000"]


@pytest.mark.parametrize("limit", ["-1", "many", "", "1e3", "٣", "9" * 30, "101"])
async def test_a_limit_that_is_none_is_explained(get: Get, limit: str) -> None:
    """A bad `limit` gets 400 and what to write instead."""
    response = await get("/api/decisions", params={"limit": limit})
    assert response.status == 400
    assert "limit must be a number" in (await response.json())["error"]


async def test_decisions_are_put_into_words_beside_the_event_loop(parts: dict[str, Any], pool: Pool) -> None:
    """A large pool's decisions take a while to write, and requests are answered meanwhile: another thread does it."""
    threads: set[int] = set()

    class Scores(list[float]):
        def tolist(self) -> list[float]:
            threads.add(threading.get_ident())
            return list(self)

    log = DecisionLog()
    pick = Pick("default", pool.endpoints, pool.endpoints, Scores([0.1, 0.2, 0.3]))  # type: ignore[arg-type]
    for number in range(150):
        log.record(Request(f"id-{number}", "POST", "/", {}), pick, pool.endpoints[0], 998.0)
    server = AdminServer(**{**parts, "decisions": log})
    port = await server.start("127.0.0.1:0")
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/api/decisions") as response:
        rows = (await response.json())["decisions"]
    await server.stop()
    assert [row["request_id"] for row in rows] == [f"id-{number}" for number in range(149, 49, -1)]
    assert threads
    assert threading.get_ident() not in threads


async def test_the_index_names_the_pages_and_others_are_not_found(get: Get) -> None:
    """The root helps whoever looks around."""
    assert "/api/decisions" in await (await get("/")).text()
    assert (await get("/nothing")).status == 404


async def test_more_pages_can_be_added(parts: dict[str, Any]) -> None:
    """Another part's page is served beside."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="more")

    server = AdminServer(**parts, routes=[web.get("/more", page)])
    port = await server.start("127.0.0.1:0")
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/more") as response:
        assert await response.text() == "more"
    await server.stop()


async def test_with_tls(parts: dict[str, Any]) -> None:
    """With a context the pages are HTTPS, verified by the certificate."""
    certificates = Certificates()
    server = AdminServer(**parts, tls=ssl_context(certificates))
    port = await server.start("127.0.0.1:0")
    client = ssl.create_default_context(cadata=certificates.current().certificate.decode())
    async with aiohttp.ClientSession() as session, session.get(f"https://127.0.0.1:{port}/healthz", ssl=client) as response:
        assert response.status == 200
    await server.stop()


async def test_stopping_frees_the_port(parts: dict[str, Any]) -> None:
    """After `stop` nothing listens, a second stop changes nothing, and the port can be had again."""
    server = AdminServer(**parts)
    port = await server.start("127.0.0.1:0")
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
        await AdminServer(**parts).start(f"127.0.0.1:{port}")
    await server.stop()
    await server.stop()
    again = AdminServer(**parts)
    assert await again.start(f"127.0.0.1:{port}") == port
    await again.stop()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_all_addresses_means_both_families(parts: dict[str, Any]) -> None:
    """`[::]` is reached over IPv4 and over IPv6 on one port."""
    server = AdminServer(**parts)
    port = await server.start("[::]:0")
    async with aiohttp.ClientSession() as session:
        for host in ("127.0.0.1", "[::1]"):
            async with session.get(f"http://{host}:{port}/healthz") as response:
                assert response.status == 200
    await server.stop()


@pytest.mark.parametrize("address", ["9090", "localhost", "127.0.0.1:http", "127.0.0.1:99999", "not a host:0"])
def test_an_address_that_is_none_is_explained(address: str) -> None:
    """An unusable address is an error that repeats it."""
    with pytest.raises(OSError, match="cannot listen on"):
        listen(address)
