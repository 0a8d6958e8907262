"""`--endpoints` and `static-discovery`: lists of servers, and names among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from epp.api import EndpointSpec
from epp.discovery.membership import Entry
from epp.discovery.static import StaticDiscovery, StaticParameters, parse_endpoints
from epp.errors import ConfigError

from .conftest import Zone, running

if TYPE_CHECKING:
    from .conftest import Eventually, Updates


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.3:8000", Entry("10.0.0.3", 8000, "10.0.0.3:8000")),
        ("http://h1:8000", Entry("h1", 8000, "h1:8000")),
        ("HTTP://h1.example.com:8000/", Entry("h1.example.com", 8000, "h1.example.com:8000")),
        ("http://h1", Entry("h1", 80, "h1:80")),
        ("https://h1", Entry("h1", 443, "h1:443", scheme="https")),
        ("[::1]:8001", Entry("::1", 8001, "[::1]:8001")),
        ("http://[0:0::1]:8001", Entry("::1", 8001, "[::1]:8001")),
        ("my_model-1:8000", Entry("my_model-1", 8000, "my_model-1:8000")),
    ],
)
def test_one_endpoint(text: str, expected: Entry) -> None:
    """Addresses and names with a port, with or without http."""
    assert parse_endpoints(f" {text} ,") == (expected,)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no endpoint"),
        (" , ", "names no endpoint"),
        ("10.0.0.3", "the port is missing"),
        ("::1:8000", "brackets"),
        ("ftp://h:1", "unknown scheme 'ftp'"),
        ("http://h:8000/v1", "only scheme, host and port"),
        ("http://user@h:8000", "only scheme, host and port"),
        ("h:99999", "(?i)port"),
        ("h:0", "port 0"),
        ("h:port", "(?i)port"),
        ("http://:8000", "neither an IP address nor a host name"),
        ("10.0.0.300:8000", "neither an IP address nor a host name"),
        ("-h:8000", "neither an IP address nor a host name"),
        ("[::1:8000", "Invalid"),
        ("good:1,b@d:2", "only scheme, host and port"),
    ],
)
def test_a_bad_endpoint_is_refused_with_a_reason(text: str, why: str) -> None:
    """Each mistake is named, with the part it is in and the flag to change."""
    with pytest.raises(ConfigError, match=why) as refused:
        parse_endpoints(text)
    assert refused.value.key == "--endpoints"
    with pytest.raises(ValidationError, match=why):
        StaticParameters(endpoints=text)


async def test_addresses_are_used_as_they_are(updates: Updates, eventually: Eventually) -> None:
    """IP literals are told once, in their order, without asking DNS; https servers are scraped by https."""
    zone = Zone()
    discovery = StaticDiscovery(StaticParameters.model_validate({"endpoints": ["10.0.0.3:8000", "https://[::1]:8001"]}))
    async with running(discovery.run(updates, resolve=zone)):
        await eventually(lambda: updates.all)
    assert updates.all == [
        [
            EndpointSpec("10.0.0.3", 8000, name="10.0.0.3:8000"),
            EndpointSpec("::1", 8001, name="[::1]:8001", metrics_url="https://[::1]:8001"),
        ]
    ]
    assert not zone.asked


@pytest.mark.parametrize(
    ("endpoints", "warned"),
    [("https://h1:443,http://h2:8000,https://h3", [["h1:443", "h3:443"]]), ("http://h1:443,h2:8000", [])],
)
def test_https_is_said_to_be_for_scraping_only(endpoints: str, warned: list[list[str]]) -> None:
    """One warning when the discovery is made, naming the endpoints; none without https."""
    with capture_logs() as logs:
        StaticDiscovery(StaticParameters(endpoints=endpoints))
    assert [entry["endpoints"] for entry in logs] == warned
    assert all("scraping only" in entry["event"] and entry["log_level"] == "warning" for entry in logs)


async def test_names_are_resolved_again_and_again(updates: Updates, eventually: Eventually) -> None:
    """All addresses of a name are endpoints that keep its name; a change is told, another order is none."""
    zone = Zone(h1=["10.0.0.2", "10.0.0.10", "fd00::1"])
    discovery = StaticDiscovery(StaticParameters(endpoints="h1:8000,10.0.0.99:8000", interval=0.1))
    async with running(discovery.run(updates, resolve=zone)):
        await eventually(lambda: updates.keys == ["10.0.0.2:8000", "10.0.0.10:8000", "[fd00::1]:8000", "10.0.0.99:8000"])
        assert {spec.name for spec in updates.all[0]} == {"h1:8000", "10.0.0.99:8000"}
        zone.hosts["h1"] = ["fd00::1", "10.0.0.10", "10.0.0.2", "fe80::1%eth0"]
        asked = len(zone.asked)
        await eventually(lambda: len(zone.asked) >= asked + 3)
        assert len(updates.all) == 1
        zone.hosts["h1"] = ["10.0.0.10"]
        await eventually(lambda: updates.keys == ["10.0.0.10:8000", "10.0.0.99:8000"])


async def test_the_first_of_equal_endpoints_counts(updates: Updates, eventually: Eventually) -> None:
    """An address named twice is one endpoint, and it is said."""
    zone = Zone(h1=["10.0.0.1"])
    discovery = StaticDiscovery(StaticParameters(endpoints="h1:8000,10.0.0.1:8000,10.0.0.1:8001"))
    with capture_logs() as logs:
        async with running(discovery.run(updates, resolve=zone)):
            await eventually(lambda: updates.keys == ["10.0.0.1:8000", "10.0.0.1:8001"])
    assert updates.all[0][0].name == "h1:8000"
    assert [entry["endpoints"] for entry in logs] == [["10.0.0.1:8000"]]


async def test_the_system_s_resolver(updates: Updates, eventually: Eventually) -> None:
    """Without a resolver of the test's, `localhost` is found; a name that cannot exist is not."""
    discovery = StaticDiscovery(StaticParameters(endpoints="localhost:8000,no-such-host.invalid:8000"))
    async with running(discovery.run(updates)):
        await eventually(lambda: updates.all)
    assert set(updates.keys) <= {"127.0.0.1:8000", "[::1]:8000"}
    assert updates.keys
