"""The Envoy configurations that are compared: with the picker as `epp envoy` writes it, without one, and with another EPP.

All come from the same rendered configuration; what is taken out of it is said here and nothing else differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import yaml

from bench.processes import LOOPBACK
from epp.gateway.config import render
from epp.gateway.wiring import Failure, HostPort, Mode, PickerTls, Wiring

_EXT_PROC = "envoy.filters.http.ext_proc"


def with_picker(mode: str, port: int) -> str:
    """Give the configuration for our picker. FailClose, so that a request the picker did not decide is an error."""
    return render(_wiring(mode, HostPort(LOOPBACK, port), None))


def with_peer(mode: str, peer: str, urls: Sequence[str], *, tls: bool) -> str:
    """Give the configuration for an EPP at `peer` that need not be ours: no EDS, access log or health check.

    Nothing tells it to wait for an access-log entry either, so our own picker may stand there too, for a fair comparison.
    """
    tree = yaml.safe_load(render(_wiring(mode, HostPort.parse(peer), PickerTls() if tls else None)))
    manager = _manager(tree)
    del manager["access_log"]
    ext_proc = next(one for one in manager["http_filters"] if one["name"] == _EXT_PROC)
    del ext_proc["typed_config"]["grpc_service"]["initial_metadata"]
    cluster = _cluster(tree, "picker")
    for key in ("health_checks", "outlier_detection"):
        cluster.pop(key, None)
    _make_static(_cluster(tree, "pool"), urls)
    return yaml.safe_dump(tree)


def without_picker(urls: Sequence[str]) -> str:
    """Give the same configuration without ext_proc and access log: Envoy itself goes round the endpoints."""
    tree = yaml.safe_load(render(_wiring(Mode.HELD, HostPort(LOOPBACK, 9), None)))
    manager = _manager(tree)
    del manager["access_log"]
    manager["http_filters"] = [one for one in manager["http_filters"] if one["name"] != _EXT_PROC]
    resources = tree["static_resources"]
    resources["clusters"] = [one for one in resources["clusters"] if one["name"] != "picker"]
    pool = _cluster(tree, "pool")
    _make_static(pool, urls)
    override = pool["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"]
    pool["load_balancing_policy"] = override["fallback_policy"]
    return yaml.safe_dump(tree)


def _wiring(mode: str, picker: HostPort, tls: PickerTls | None) -> Wiring:
    anywhere = HostPort(LOOPBACK, 0)
    return Wiring(
        mode=Mode(mode),
        failure=Failure.CLOSE,
        listen=anywhere,
        admin=anywhere,
        picker=picker,
        picker_tls=tls,
        node=f"bench-{mode}",
    )


def _manager(tree: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def _cluster(tree: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in tree["static_resources"]["clusters"] if one["name"] == name)


def _make_static(cluster: dict[str, Any], urls: Sequence[str]) -> None:
    """Name the endpoints in the configuration, in place of EDS."""
    del cluster["eds_cluster_config"]
    cluster["type"] = "STATIC"
    hosts = []
    for url in urls:
        parts = urlsplit(url)
        place = {"address": parts.hostname, "port_value": parts.port}
        hosts.append({"endpoint": {"address": {"socket_address": place}}})
    cluster["load_assignment"] = {"cluster_name": cluster["name"], "endpoints": [{"lb_endpoints": hosts}]}
