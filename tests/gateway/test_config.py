from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from epp.extproc.service import TRAILERS_KEY
from epp.gateway.config import render
from epp.gateway.filters import PICKER_HEADERS
from epp.gateway.process import EnvoyError, validate
from epp.gateway.wiring import HOSTNAME, Failure, HostPort, Mode, PickerTls, Wiring
from tests.gateway.fakes import certificate


def tree(wiring: Wiring) -> Any:
    """Give what is rendered, read back."""
    return yaml.safe_load(render(wiring))


def manager(wiring: Wiring) -> Any:
    """Give the HTTP connection manager."""
    return tree(wiring)["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def filters(wiring: Wiring) -> dict[str, Any]:
    """Give the HTTP filters by the last part of their name, in order."""
    return {each["name"].rpartition(".")[2]: each["typed_config"] for each in manager(wiring)["http_filters"]}


def clusters(wiring: Wiring) -> dict[str, Any]:
    """Give the clusters by name."""
    return {each["name"]: each for each in tree(wiring)["static_resources"]["clusters"]}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("failure", list(Failure))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"picker": HostPort("epp.example", 9002), "picker_tls": PickerTls("ca.pem", "epp.example")},
        {"picker": HostPort("::1", 9002), "picker_tls": PickerTls(), "usage": False, "reveal_served": True},
    ],
)
def test_envoy_accepts_every_form(mode: Mode, failure: Failure, settings: dict[str, Any], tmp_path: Path) -> None:
    """A real Envoy validates each mode with each failure mode, for addresses and names, with and without TLS."""
    if (tls := settings.get("picker_tls")) and tls.ca_file:
        authority = tmp_path / "ca.pem"
        authority.write_bytes(certificate(x509.DNSName("epp.example"))[1])
        settings = {**settings, "picker_tls": PickerTls(str(authority), tls.name)}
    path = tmp_path / "envoy.yaml"
    path.write_text(render(Wiring(mode=mode, failure=failure, **settings)))
    validate(path)


def test_envoy_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    """Validation fails with Envoy's reason; else the tests above would prove nothing."""
    path = tmp_path / "envoy.yaml"
    path.write_text(render(Wiring()).replace("failure_mode_allow", "failure_mode_allowed"))
    with pytest.raises(EnvoyError, match="failure_mode_allowed"):
        validate(path)


def test_rendering_is_stable() -> None:
    """The same wiring gives the same text, readable without anchors, headed by its command."""
    text = render(Wiring())
    assert text == render(Wiring())
    assert text.startswith("# epp envoy --mode held --failure open")
    assert "&id" not in text


@pytest.mark.parametrize("mode", list(Mode))
def test_client_headers_are_stripped_before_the_picker_is_asked(mode: Mode) -> None:
    """The filter that strips stands before ext_proc, and strips every header that only the picker may set."""
    found = filters(Wiring(mode=mode))
    assert list(found)[:2] == ["header_mutation", "ext_proc"]
    assert [each["remove"] for each in found["header_mutation"]["mutations"]["request_mutations"]] == list(PICKER_HEADERS)
    (source,) = clusters(Wiring(mode=mode))["pool"]["load_balancing_policy"]["policies"][0]["typed_extension_config"][
        "typed_config"
    ]["override_host_sources"]
    assert list(source) == ["metadata"]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (Mode.HELD, ("SEND", "FULL_DUPLEX_STREAMED", "SEND", "SEND", "NONE", "SEND")),
        (Mode.RELEASED, ("SEND", "FULL_DUPLEX_STREAMED", "SEND", "SKIP", "NONE", "SKIP")),
        (Mode.DUPLEX, ("SEND", "FULL_DUPLEX_STREAMED", "SEND", "SEND", "FULL_DUPLEX_STREAMED", "SEND")),
        (Mode.BUFFERED, ("SEND", "BUFFERED", "SEND", "SEND", "NONE", "SEND")),
    ],
)
def test_the_processing_modes(mode: Mode, expected: tuple[str, ...]) -> None:
    """Each mode is the row of the documentation's table."""
    found = filters(Wiring(mode=mode))["ext_proc"]["processing_mode"]
    names = [f"{phase}_{part}_mode" for phase in ("request", "response") for part in ("header", "body", "trailer")]
    assert tuple(found.get(name, "NONE" if "body" in name else "DEFAULT") for name in names) == expected


def test_a_request_ended_by_trailers_is_not_retried() -> None:
    """Envoy would send its body twice; the picker marks such a request in the metadata, where only the picker writes."""
    (host,) = manager(Wiring())["route_config"]["virtual_hosts"]
    once, usual = host["routes"]
    (marked,) = once["match"]["dynamic_metadata"]
    assert (marked["filter"], marked["path"]) == ("envoy.lb", [{"key": TRAILERS_KEY}])
    assert marked["value"] == {"string_match": {"exact": "true"}}
    assert "retry_policy" not in once["route"]
    assert {**usual["route"], "retry_policy": None} == {**once["route"], "retry_policy": None}
    assert usual["route"]["retry_policy"]["num_retries"] == 3


def test_failure_modes_differ_where_they_must() -> None:
    """FailOpen lets requests through and treats a picker that is not healthy as none; FailClose neither."""
    for failure, allowed, panic in ((Failure.OPEN, True, {}), (Failure.CLOSE, False, {"value": 1.0})):
        wiring = Wiring(failure=failure)
        assert filters(wiring)["ext_proc"].get("failure_mode_allow", False) is allowed
        assert filters(wiring)["ext_proc"]["status_on_error"] == {"code": "ServiceUnavailable"}
        picker = clusters(wiring)["picker"]
        assert picker["common_lb_config"]["healthy_panic_threshold"] == panic
        (check,) = picker["health_checks"]
        assert float(check["interval"].rstrip("s")) <= 1
        assert check["no_traffic_interval"] == check["interval"]


def test_usage_is_read_where_the_picker_does_not_see_the_answer() -> None:
    """Duplex streams show the picker every byte, so Envoy need not read them; it can be left out elsewhere too."""
    for mode, usage, expected in (
        (Mode.HELD, True, ["sse_to_metadata", "json_to_metadata"]),
        (Mode.RELEASED, True, ["sse_to_metadata", "json_to_metadata"]),
        (Mode.DUPLEX, True, []),
        (Mode.HELD, False, []),
    ):
        assert list(filters(Wiring(mode=mode, usage=usage))) == ["header_mutation", "ext_proc", *expected, "router"]


def test_a_name_is_resolved_and_an_address_is_not() -> None:
    """A host name is looked up again and again, an address is taken as it is."""
    assert clusters(Wiring(picker=HostPort("10.0.0.1", 1)))["picker"]["type"] == "STATIC"
    named = clusters(Wiring(picker=HostPort("epp", 1)))["picker"]
    assert named["cluster_type"]["name"] == "envoy.clusters.dns"
    assert "type" not in named


def test_a_certificate_is_checked_for_the_right_kind_of_name() -> None:
    """A host name is compared as DNS name and sent as SNI; an address as IP address, without SNI."""

    def context(host: str, name: str = "") -> Any:
        wiring = Wiring(picker=HostPort(host, 1), picker_tls=PickerTls("/ca.pem", name))
        return clusters(wiring)["picker"]["transport_socket"]["typed_config"]

    def names(found: Any) -> Any:
        return found["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]

    assert names(context("epp")) == [{"san_type": "DNS", "matcher": {"exact": "epp"}}]
    assert context("epp")["sni"] == "epp"
    assert names(context("10.0.0.1")) == [{"san_type": "IP_ADDRESS", "matcher": {"exact": "10.0.0.1"}}]
    assert "sni" not in context("10.0.0.1")
    assert names(context("10.0.0.1", "epp.example")) == [{"san_type": "DNS", "matcher": {"exact": "epp.example"}}]


def test_a_host_name_as_node_is_left_to_the_command_line() -> None:
    """With %HOSTNAME% the stream tells the host's name, and Envoy gets its node id from --service-node."""
    wiring = Wiring(node=HOSTNAME)
    assert "id" not in tree(wiring)["node"]
    metadata = filters(wiring)["ext_proc"]["grpc_service"]["initial_metadata"]
    assert {"key": "x-epp-node", "value": HOSTNAME} in metadata
