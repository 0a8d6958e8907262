from __future__ import annotations

import ipaddress
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.gateway.wiring import HOSTNAME, Failure, HostPort, Mode, PickerTls, Wiring, command_of

PORTS = st.integers(0, 65535)
HOSTS = st.one_of(st.ip_addresses().map(str), st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{2,5})?", fullmatch=True))


@given(HOSTS, PORTS)
def test_a_place_is_read_as_it_is_written(host: str, port: int) -> None:
    """Writing a place and reading it gives the same place, IPv6 included."""
    place = HostPort(host, port)
    assert HostPort.parse(str(place)) == place


@given(st.text(max_size=30))
def test_any_text_is_a_place_or_a_value_error(text: str) -> None:
    """Nothing that can be typed makes the parser fail otherwise than by saying so."""
    try:
        place = HostPort.parse(text)
    except ValueError:
        return
    assert place.host
    assert 0 <= place.port < 65536


@pytest.mark.parametrize(
    "text", ["", "9002", "epp", "epp:", ":9002", "::1:9002", "[::1]", "[epp]:9002", "epp:65536", "epp:-1", "a:b:1"]
)
def test_what_is_not_a_place_is_refused(text: str) -> None:
    """Each wrong form is refused."""
    with pytest.raises(ValueError, match=r"HOST:PORT|address|IPv6|octet"):
        HostPort.parse(text)


@given(st.ip_addresses())
def test_addresses_are_told_from_names(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Every IP literal is an address, so that Envoy is not told to resolve it."""
    assert HostPort(str(address), 1).is_address


def test_names_are_not_addresses() -> None:
    """A host name needs resolving, also when it looks like a number."""
    assert not HostPort("epp", 1).is_address
    assert not HostPort("10.0.0", 1).is_address


def test_the_forms_of_tls() -> None:
    """`off`, `unverified` and a CA file are told apart."""
    assert PickerTls.parse("off") is None
    assert PickerTls.parse("unverified") == PickerTls()
    assert PickerTls.parse("/etc/ca.pem", "epp.example") == PickerTls("/etc/ca.pem", "epp.example")


@pytest.mark.parametrize("text", ["off", "unverified"])
def test_a_name_that_nobody_would_check_is_refused(text: str) -> None:
    """A certificate's name without a CA would look like a check and be none."""
    with pytest.raises(ValueError, match="CA file"):
        PickerTls.parse(text, "epp.example")


@pytest.mark.parametrize(
    "settings",
    [
        {"picker": HostPort("epp", 0)},
        {"pool": ""},
        {"node": ""},
        {"node": "edge-%REQ(x)%"},
        {"health_interval": 0},
        {"message_timeout": -1.0},
        {"body_limit": 0},
    ],
)
def test_nonsense_is_refused(settings: dict[str, object]) -> None:
    """A wiring that Envoy would misread cannot be made."""
    with pytest.raises(ValueError, match=r"port|name|greater"):
        Wiring(**settings)  # type: ignore[arg-type]


def test_the_command_names_what_is_not_the_default() -> None:
    """The command that stands at the top of a file is enough to make it again, and no longer than needed."""
    plain = Wiring(picker_tls=PickerTls())
    assert command_of(plain) == "epp envoy --mode held --failure open"
    other = Wiring(
        mode=Mode.DUPLEX,
        failure=Failure.CLOSE,
        picker=HostPort("::1", 1),
        picker_tls=PickerTls("/my ca.pem", "epp"),
        node=HOSTNAME,
        usage=False,
        reveal_served=True,
    )
    assert shlex.split(command_of(other)) == [
        *("epp", "envoy", "--mode", "duplex", "--failure", "close", "--picker", "[::1]:1", "--picker-tls", "/my ca.pem"),
        *("--picker-name", "epp", "--node", "%HOSTNAME%", "--no-usage", "--reveal-served"),
    ]
