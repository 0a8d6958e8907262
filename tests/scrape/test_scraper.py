"""The scraper beside model servers that answer, fail, vanish and come back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from structlog.testing import capture_logs

from epp.endpoints.endpoint import EndpointSpec
from epp.scrape.pace import Pace

if TYPE_CHECKING:
    from .conftest import Bench, Eventually, ModelServer

PAGE = b'vllm:num_requests_waiting{engine="0"} %d\nvllm:num_requests_running 2\nvllm:kv_cache_usage_perc 0.5\n'


def at(server: ModelServer, **more: object) -> EndpointSpec:
    """Name the endpoint a server is."""
    return replace(EndpointSpec("127.0.0.1", server.port), **more)  # type: ignore[arg-type]


def down(bench: Bench) -> list[bool]:
    """Tell which endpoints count as unreachable."""
    return [bool(value) for value in bench.pool.columns["unreachable"]]


async def test_what_a_page_says_is_in_the_pool(bench: Bench, server: ModelServer, eventually: Eventually) -> None:
    """Signals are recorded with their age, over one connection that is kept, uncompressed and reported as scraped."""
    bench.pool.update([at(server)])
    assert np.isnan(bench.pool.columns["waiting"][0])
    async with bench.scraping():
        await eventually(lambda: bench.pool.columns["waiting"][0] == 1)
        server.page = PAGE % 7
        await eventually(lambda: bench.pool.columns["waiting"][0] == 7)
    assert bench.pool.columns["running"][0] == 2
    assert bench.pool.columns["kv_usage"][0] == 0.5
    assert bench.pool.clock() - bench.pool.columns["scraped_at"][0] < 5
    assert server.connections == 1
    assert all(b"Accept-Encoding: identity" in request for request in server.requests)
    assert bench.reports.good[bench.pool.endpoints[0].key] >= 2
    assert not bench.reports.failed


async def test_the_first_scrape_does_not_wait_for_a_long_interval(
    bench: Bench, server: ModelServer, eventually: Eventually
) -> None:
    """Who asks once an hour still knows every endpoint within moments of its arrival."""
    bench.options = replace(bench.options, pace=Pace(interval=3600.0, max_interval=0.5))
    bench.pool.update([at(server)])
    async with bench.scraping():
        await eventually(lambda: bench.pool.columns["waiting"][0] == 1)


async def test_tasks_follow_the_pool(bench: Bench, server: ModelServer, other: ModelServer, eventually: Eventually) -> None:
    """An endpoint that joins is scraped, one that left is not any more, and one that comes back is again."""
    async with bench.scraping():
        bench.pool.update([at(server)])
        await eventually(lambda: server.requests)
        bench.pool.update([at(other)])
        await eventually(lambda: other.requests)
        seen = len(server.requests)
        await eventually(lambda: len(other.requests) >= 3)
        assert len(server.requests) <= seen + 1
        bench.pool.update([at(other), at(server)])
        await eventually(lambda: bench.pool.columns["waiting"][1] == 1)
        bench.pool.update([])
        count = len(server.requests) + len(other.requests)
        await asyncio.sleep(0.3)
        assert len(server.requests) + len(other.requests) <= count + 2


async def test_a_killed_server_is_left_at_once(
    bench: Bench, server: ModelServer, other: ModelServer, eventually: Eventually
) -> None:
    """A refused connection makes the endpoint unreachable, its values stay, and it is back when the server is."""
    bench.pool.update([at(server), at(other)])
    async with bench.scraping():
        await eventually(lambda: not np.isnan(bench.pool.columns["waiting"]).any())
        with capture_logs() as logs:
            with bench.pool.reserve(bench.pool.endpoints[0]):
                await server.kill()
                async with asyncio.timeout(1):
                    await eventually(lambda: down(bench) == [True, False])
            assert bench.pool.columns["waiting"][0] == 1
            await eventually(lambda: bench.reports.failed[bench.pool.endpoints[0].key, "connect"] >= 3)
            await server.start()
            await eventually(lambda: down(bench) == [False, False])
    assert [entry["event"] for entry in logs] == ["endpoint cannot be scraped", "endpoint is scraped again"]
    assert logs[0]["cause"] == "connect"


async def test_a_timeout_counts_when_it_happens_twice(bench: Bench, server: ModelServer, eventually: Eventually) -> None:
    """One slow answer changes nothing; the second in a row makes the endpoint unreachable."""
    bench.options = replace(bench.options, timeout=0.2)
    bench.pool.update([at(server)])
    key = bench.pool.endpoints[0].key
    async with bench.scraping():
        await eventually(lambda: bench.reports.good[key])
        server.delay = 5.0
        await eventually(lambda: bench.reports.failed[key, "timeout"] == 1)
        assert down(bench) == [False]
        await eventually(lambda: bench.reports.failed[key, "timeout"] == 2)
        await eventually(lambda: down(bench) == [True])
        server.delay = 0.0
        await eventually(lambda: down(bench) == [False])


@pytest.mark.parametrize(
    ("broken", "cause"),
    [
        ({"status": 503}, "status"),
        ({"status": 404, "page": b"no such page"}, "status"),
        ({"page": b"<html>welcome</html>"}, "parse"),
        ({"page": b""}, "parse"),
        ({"page": PAGE % 9 + b"#" * 2000}, "parse"),
        ({"raw": b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\nvllm:num_requests_waiting 9\n"}, "parse"),
        ({"raw": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"}, "parse"),
        ({"raw": b"\x00\x01\xff nonsense\r\n\r\n"}, "parse"),
        ({"raw": b"HTTP/1.1 302 Found\r\nlocation: /metrics\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"}, "status"),
    ],
)
async def test_who_answers_nonsense_is_reachable_but_unknown(
    bench: Bench, server: ModelServer, eventually: Eventually, broken: dict[str, object], cause: str
) -> None:
    """An error status or an unreadable page leaves the last values with their age, and the endpoint in the running."""
    bench.options = replace(bench.options, max_bytes=1000)
    bench.pool.update([at(server)])
    key = bench.pool.endpoints[0].key
    async with bench.scraping():
        await eventually(lambda: bench.reports.good[key])
        for name, value in broken.items():
            setattr(server, name, value)
        await eventually(lambda: bench.reports.failed[key, cause] >= 1)
        scraped_at = bench.pool.columns["scraped_at"][0]
        await eventually(lambda: bench.reports.failed[key, cause] >= 3)
    assert bench.pool.columns["waiting"][0] == 1
    assert bench.pool.columns["scraped_at"][0] == scraped_at
    assert down(bench) == [False]
    assert {found for _, found in bench.reports.failed} == {cause}


async def test_an_endpoint_that_never_gave_a_page_stays_unknown(
    bench: Bench, server: ModelServer, eventually: Eventually
) -> None:
    """Unknown is not idle: without a page all signals are NaN, though somebody answers."""
    server.status = 500
    bench.pool.update([at(server)])
    async with bench.scraping():
        await eventually(lambda: len(server.requests) >= 2)
    assert np.isnan([bench.pool.columns[name][0] for name in ("waiting", "running", "kv_usage", "scraped_at")]).all()
    assert down(bench) == [False]


async def test_a_server_that_closes_idle_connections_is_well(bench: Bench, server: ModelServer, eventually: Eventually) -> None:
    """A kept connection that the server has closed is replaced without a word."""
    server.keep_alive = False
    bench.pool.update([at(server)])
    async with bench.scraping():
        await eventually(lambda: bench.reports.good[bench.pool.endpoints[0].key] >= 4)
    assert server.connections >= 4
    assert not bench.reports.failed
    assert down(bench) == [False]


async def test_idle_endpoints_are_asked_rarely_and_come_back_with_a_lease(
    bench: Bench, server: ModelServer, eventually: Eventually
) -> None:
    """Without requests and changes the delay doubles; a lease brings the short interval back long before it is over."""
    bench.options = replace(bench.options, pace=Pace(interval=0.02, max_interval=60.0))
    bench.pool.update([at(server)])
    endpoint = bench.pool.endpoints[0]
    async with bench.scraping() as scraper:
        await eventually(lambda: endpoint in scraper._targets and scraper._targets[endpoint].delay > 0.5)
        count = len(server.requests)
        assert count <= 12
        with bench.pool.reserve(endpoint):
            await eventually(lambda: len(server.requests) >= count + 5)
        await eventually(lambda: scraper._targets[endpoint].delay > 0.1)


async def test_values_that_change_keep_the_interval_short(bench: Bench, server: ModelServer, eventually: Eventually) -> None:
    """Somebody else's traffic counts too: as long as the page changes it is asked for at the interval."""
    bench.options = replace(bench.options, pace=Pace(interval=0.02, max_interval=60.0))
    bench.pool.update([at(server)])
    endpoint = bench.pool.endpoints[0]
    async with bench.scraping() as scraper:
        for number in range(30):
            server.page = PAGE % number
            await eventually(lambda number=number: bench.pool.columns["waiting"][0] == number)  # type: ignore[misc]
            assert scraper._targets[endpoint].delay <= 0.16


async def test_labels_and_metrics_addresses_are_followed(
    bench: Bench, server: ModelServer, other: ModelServer, eventually: Eventually
) -> None:
    """The engine label decides how a page is read, and facts that change take effect at the next scrape."""
    server.page = b"vllm:num_requests_waiting 1\nsglang:num_queue_reqs 2\n"
    other.page = b"vllm:num_requests_waiting 3\n"
    bench.pool.update([at(server, labels={"llm-d.ai/engine-type": "sglang"})])
    waiting = bench.pool.columns["waiting"]
    with capture_logs() as logs:
        async with bench.scraping():
            await eventually(lambda: waiting[0] == 2)
            bench.pool.update([at(server, labels={"inference.networking.k8s.io/engine-type": "what"})])
            await eventually(lambda: bench.pool.columns["waiting"][0] == 1)
            bench.pool.update([at(server, metrics_url=f"http://localhost:{other.port}")])
            await eventually(lambda: bench.pool.columns["waiting"][0] == 3)
            assert b"GET /metrics " in other.requests[0]
            bench.pool.update([at(server, metrics_url=f"http://127.0.0.1:{other.port}/own/page?x=1")])
            await eventually(lambda: b"GET /own/page?x=1 " in other.requests[-1])
    assert [entry["engine"] for entry in logs if "unknown engine" in entry["event"]] == ["what"]


async def test_pages_served_elsewhere_do_not_condemn_the_endpoint(
    bench: Bench, server: ModelServer, other: ModelServer, eventually: Eventually
) -> None:
    """With a metrics port of its own, a refused page leaves the endpoint alone until it refuses connections itself."""
    bench.options = replace(bench.options, port=other.port, path="metrics")
    bench.pool.update([at(server)])
    key = bench.pool.endpoints[0].key
    async with bench.scraping():
        await eventually(lambda: bench.reports.good[key])
        assert not server.requests
        await other.kill()
        await eventually(lambda: bench.reports.failed[key, "connect"] >= 2)
        assert down(bench) == [False]
        await server.kill()
        await eventually(lambda: down(bench) == [True])


async def test_an_unresolvable_metrics_host_is_only_a_failure(bench: Bench, server: ModelServer, eventually: Eventually) -> None:
    """A metrics address that DNS does not know leaves the endpoint reachable."""
    bench.pool.update([at(server, metrics_url="http://no-such-host.invalid:1")])
    key = bench.pool.endpoints[0].key
    async with bench.scraping():
        await eventually(lambda: sum(bench.reports.failed.values()) >= 2)
    assert down(bench) == [False]
    assert {endpoint for endpoint, _ in bench.reports.failed} == {key}


async def test_many_endpoints_share_the_budget(bench: Bench, server: ModelServer, eventually: Eventually) -> None:
    """Sixty busy endpoints do not get sixty times the interval's rate, and each is scraped all the same."""
    bench.options = replace(bench.options, pace=Pace(interval=0.01, max_interval=1.0, max_rate=100.0))
    page = f"http://127.0.0.1:{server.port}"
    bench.pool.update(EndpointSpec("127.0.0.1", 1 + n, metrics_url=page) for n in range(60))
    leases = [bench.pool.reserve(endpoint) for endpoint in bench.pool.endpoints]
    async with bench.scraping() as scraper:
        await eventually(lambda: not np.isnan(bench.pool.columns["waiting"]).any())
        assert scraper._floor == pytest.approx(0.6)
        assert all(target.delay == pytest.approx(0.6) for target in scraper._targets.values())
    assert len(leases) == 60
