"""`--endpoints` and DNS: lists of servers, names among them, and resolvers that fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from epp.api import EndpointSpec
from epp.discovery.dns import DnsDiscovery, DnsParameters
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


async def test_a_failing_resolver_keeps_the_last_good_answer(updates: Updates, eventually: Eventually) -> None:
    """When DNS fails the endpoints stay, and both the failure and its end are logged once."""
    zone = Zone(h1=["10.0.0.1"])
    discovery = DnsDiscovery(DnsParameters.model_validate({"host": "h1", "port": 8000, "interval": "100ms"}))
    with capture_logs() as logs:
        async with running(discovery.run(updates, resolve=zone)):
            await eventually(lambda: updates.keys == ["10.0.0.1:8000"])
            del zone.hosts["h1"]
            asked = len(zone.asked)
            await eventually(lambda: len(zone.asked) >= asked + 3)
            zone.hosts["h1"] = ["10.0.0.1", "10.0.0.2"]
            await eventually(lambda: updates.keys == ["10.0.0.1:8000", "10.0.0.2:8000"])
    assert len(updates.all) == 2
    assert [entry["event"] for entry in logs] == ["host name cannot be resolved", "host name is resolved again"]


async def test_nothing_is_told_before_an_address_is_known(updates: Updates, eventually: Eventually) -> None:
    """A name that was never resolved is not an empty pool; of two names the one that is known comes first."""
    zone = Zone()
    discovery = DnsDiscovery(DnsParameters(hosts=("h1", "h2"), port=8000, interval=0.1, labels={"tier": "a"}))
    async with running(discovery.run(updates, resolve=zone)):
        await eventually(lambda: len(zone.asked) >= 4)
        assert updates.all == []
        zone.hosts["h2"] = ["10.0.0.2"]
        await eventually(lambda: updates.all == [[EndpointSpec("10.0.0.2", 8000, name="h2", labels={"tier": "a"})]])
        zone.hosts["h1"] = ["10.0.0.1"]
        await eventually(lambda: updates.keys == ["10.0.0.1:8000", "10.0.0.2:8000"])


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


@pytest.mark.parametrize(
    "parameters",
    [
        {"port": 8000},
        {"host": "h"},
        {"host": "h:8000", "port": 8000},
        {"host": "h", "port": 0},
        {"hosts": ["ok", "not a name"], "port": 1},
        {"host": "h", "port": 1, "interval": 0},
        {"host": "h", "port": 1, "interval": "5"},
        {"host": "h", "port": 1, "srv": True},
    ],
)
def test_nonsense_in_dns_discovery_is_refused(parameters: dict[str, Any]) -> None:
    """Missing names or port, names that are none, and unknown keys stop the start."""
    with pytest.raises(ValidationError):
        DnsParameters.model_validate(parameters)
