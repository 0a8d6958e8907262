"""What the benches can be told. Plain values; `bench.__main__` reads them from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MODES = ("released", "held", "duplex")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of all benches; each reads its own."""

    # through_envoy
    modes: Sequence[str] = MODES
    seconds: float = 4.0  # of load, each turn
    rounds: int = 3
    connections: int = 64
    prompt_bytes: int = 2048
    peer: str = ""  # the gRPC address of another EPP that is measured the same way
    peer_pid: int | None = None
    peer_tls: bool = False
    first_port: int = 0  # of the model servers; a peer must know it

    # decision
    sizes: Sequence[int] = (2_048, 32_768, 225_280)
    pools: Sequence[int] = (8, 64, 256, 1000)
    decisions: int = 150

    # idle
    idle_pools: Sequence[int] = (8, 256)
    idle_seconds: float = 8.0

    # memory
    blocks: int = 100_000
