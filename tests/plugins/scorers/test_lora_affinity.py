from __future__ import annotations

from typing import Any

from epp_plugins.scorers.lora_affinity import LoraAffinityScorer

from epp.api import Signals


def lora(active: str, waiting: str = "", room: float = 2) -> Signals:
    """Make signals of a server with these adapters."""
    return Signals(lora_max=room, adapters=frozenset(active.split()), waiting_adapters=frozenset(waiting.split()))


def test_the_nearer_the_adapter_the_better(pool: Any, ask: Any) -> None:
    """Active beats room, room beats waiting where it is full, and that beats no room at all."""
    endpoints = pool(6)
    states = [lora("a b"), lora("b"), lora("b c"), lora("b", "a"), lora("b c", "a"), lora("", room=1)]
    for endpoint, signals in zip(endpoints.endpoints, states, strict=True):
        endpoints.record(endpoint, signals)
    scores = LoraAffinityScorer().score(ask(model="a"), endpoints.candidates())
    assert scores.tolist() == [1.0, 0.8, 0.0, 0.6, 0.6, 0.8]


def test_servers_without_lora_score_nothing(pool: Any, ask: Any) -> None:
    """Where nothing is reported about adapters there is no room for one, as the reference has it."""
    endpoints = pool(2)
    endpoints.record(endpoints.endpoints[0], Signals(waiting=0))
    assert LoraAffinityScorer().score(ask(model="a"), endpoints.candidates()).tolist() == [0.0, 0.0]


def test_the_target_model_is_the_adapter(pool: Any, ask: Any) -> None:
    """What the model server will read counts, not what the client wrote."""
    endpoints = pool(1)
    endpoints.record(endpoints.endpoints[0], lora("a", room=1))
    request = ask(model="alias")
    request.target_model = "a"
    assert LoraAffinityScorer().score(request, endpoints.candidates()).tolist() == [1.0]
