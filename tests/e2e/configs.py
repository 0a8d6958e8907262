"""Configurations that the end-to-end tests hand to the picker, and the changes they make to Envoy's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from epp.gateway.config import render
from epp.gateway.wiring import Wiring

Plugin = Mapping[str, Any]


def configuration(plugins: Sequence[Plugin], profile: Sequence[Plugin], **sections: Any) -> str:
    """Give an EndpointPickerConfig with one profile; `sections` are further keys of it."""
    document = {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": list(plugins),
        "schedulingProfiles": [{"name": "default", "plugins": list(profile)}],
        **sections,
    }
    return yaml.safe_dump(document, sort_keys=False)


def using(*types: str | Plugin, **sections: Any) -> str:
    """Give a configuration whose profile uses each of `types`: a type, or a plugin with its parameters."""
    plugins = [{"type": one} if isinstance(one, str) else one for one in types]
    return configuration(plugins, [{"pluginRef": plugin.get("name", plugin["type"])} for plugin in plugins], **sections)


def endpoints_file(ports: Sequence[int], *labels: Mapping[str, str]) -> str:
    """Give the text of an endpoints file: loopback's `ports`, with `labels` each."""
    entries = [
        {"name": f"server-{number}", "address": "127.0.0.1", "port": port, "labels": dict(labels[number]) if labels else {}}
        for number, port in enumerate(ports)
    ]
    return yaml.safe_dump({"endpoints": entries})


def changed(change: Callable[[dict[str, Any]], None]) -> Callable[[Wiring], str]:
    """Give a renderer of Envoy configurations that lets `change` at the connection manager's tree."""

    def rendered(wiring: Wiring) -> str:
        tree = yaml.safe_load(render(wiring))
        (listener,) = tree["static_resources"]["listeners"]
        change(listener["filter_chains"][0]["filters"][0]["typed_config"])
        return yaml.safe_dump(tree)

    return rendered


def shown(**headers: str) -> Callable[[dict[str, Any]], None]:
    """Give a change that adds response headers made by Envoy's formatters."""

    def change(manager: dict[str, Any]) -> None:
        (host,) = manager["route_config"]["virtual_hosts"]
        host.setdefault("response_headers_to_add", []).extend(
            {"header": {"key": name.replace("_", "-"), "value": value}} for name, value in headers.items()
        )

    return change
