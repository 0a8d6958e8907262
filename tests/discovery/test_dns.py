"""`dns-discovery`: names, their addresses, how often they are asked for, and resolvers that fail."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from epp.api import EndpointSpec
from epp.discovery.dns import DnsDiscovery, DnsParameters

from .conftest import Zone, running

if TYPE_CHECKING:
    from .conftest import Eventually, Updates


class TimedZone(Zone):
    """A zone that notes when it was asked."""

    def __init__(self, **hosts: list[str]) -> None:
        """Know `hosts`."""
        super().__init__(**hosts)
        self.times: list[float] = []

    async def __call__(self, host: str) -> Any:
        """Look `host` up."""
        self.times.append(asyncio.get_running_loop().time())
        return await super().__call__(host)


async def test_each_address_of_each_host_is_an_endpoint(updates: Updates, eventually: Eventually) -> None:
    """`host` comes before `hosts`, the addresses of each are sorted, IPv4 first; an IP address is not asked for."""
    zone = Zone(h1=["fd00::1", "10.0.0.10", "10.0.0.2"], h2=["10.0.1.1", "10.0.0.2"])
    parameters = DnsParameters(host="h1", hosts=("h2", "10.0.2.1"), port=8000, labels={"tier": "a"})
    with capture_logs() as logs:
        async with running(DnsDiscovery(parameters).run(updates, resolve=zone)):
            await eventually(lambda: updates.all)
    assert updates.all == [
        [
            EndpointSpec(address, 8000, name=name, labels={"tier": "a"})
            for address, name in [
                ("10.0.0.2", "h1"), ("10.0.0.10", "h1"), ("fd00::1", "h1"), ("10.0.1.1", "h2"), ("10.0.2.1", "10.0.2.1"),
            ]
        ]
    ]  # fmt: skip
    assert set(zone.asked) == {"h1", "h2"}
    assert [entry["endpoints"] for entry in logs] == [["10.0.0.2:8000"]]


async def test_addresses_come_and_go(updates: Updates, eventually: Eventually) -> None:
    """Each change of any name's answer is told with the whole membership; an answer in another order is no change."""
    zone = Zone(h1=["10.0.0.1"], h2=["10.0.1.1"])
    async with running(DnsDiscovery(DnsParameters(hosts=("h1", "h2"), port=80, interval=0.1)).run(updates, resolve=zone)):
        await eventually(lambda: updates.keys == ["10.0.0.1:80", "10.0.1.1:80"])
        zone.hosts["h2"] = ["10.0.1.2", "10.0.1.1"]
        await eventually(lambda: updates.keys == ["10.0.0.1:80", "10.0.1.1:80", "10.0.1.2:80"])
        zone.hosts["h2"] = ["10.0.1.1", "10.0.1.2"]
        asked = len(zone.asked)
        await eventually(lambda: len(zone.asked) >= asked + 4)
        zone.hosts["h2"] = ["10.0.1.2"]
        await eventually(lambda: updates.keys == ["10.0.0.1:80", "10.0.1.2:80"])
    assert len(updates.all) == 3


async def test_names_are_asked_for_once_an_interval(updates: Updates, eventually: Eventually) -> None:
    """`interval` is the time between two look-ups, also where it is far from the default."""
    zone = TimedZone(h1=["10.0.0.1"])
    discovery = DnsDiscovery(DnsParameters.model_validate({"host": "h1", "port": 80, "interval": "200ms"}))
    async with running(discovery.run(updates, resolve=zone)):
        await eventually(lambda: len(zone.times) >= 4)
    assert min(later - earlier for earlier, later in zip(zone.times, zone.times[1:], strict=False)) > 0.19


async def test_a_name_without_any_address_is_asked_for_sooner(updates: Updates, eventually: Eventually) -> None:
    """However long the interval: until there is an address the endpoint serves nobody."""
    zone = Zone(h1=["10.0.0.1"])
    async with running(DnsDiscovery(DnsParameters(hosts=("h1", "h2"), port=80, interval=3600)).run(updates, resolve=zone)):
        await eventually(lambda: updates.keys == ["10.0.0.1:80"])
        zone.hosts["h2"] = ["10.0.1.1"]
        await eventually(lambda: updates.keys == ["10.0.0.1:80", "10.0.1.1:80"])


async def test_one_failing_name_does_not_hold_up_the_others(updates: Updates, eventually: Eventually) -> None:
    """The one that fails keeps its last good addresses, also when the answer is empty; the other's changes are told."""
    zone = Zone(h1=["10.0.0.1"], h2=["10.0.1.1"])
    async with running(DnsDiscovery(DnsParameters(hosts=("h1", "h2"), port=80, interval=0.1)).run(updates, resolve=zone)):
        await eventually(lambda: updates.keys == ["10.0.0.1:80", "10.0.1.1:80"])
        del zone.hosts["h1"]
        zone.hosts["h2"] = ["10.0.1.2"]
        await eventually(lambda: updates.keys == ["10.0.0.1:80", "10.0.1.2:80"])
        zone.hosts["h1"] = []
        zone.hosts["h2"] = ["10.0.1.3"]
        await eventually(lambda: updates.keys == ["10.0.0.1:80", "10.0.1.3:80"])


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


@pytest.mark.parametrize(("interval", "seconds"), [("1m30s", 90.0), ("250ms", 0.25), (2, 2.0)])
def test_the_interval_is_a_duration(interval: object, seconds: float) -> None:
    """With its unit, or as a number of seconds."""
    assert DnsParameters.model_validate({"host": "h", "port": 1, "interval": interval}).interval == seconds
