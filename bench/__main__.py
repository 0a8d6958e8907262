"""`python -m bench [BENCH…]`: runs the named benches (all of them without a name), prints tables, writes JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from bench.decision import bench as decision
from bench.idle import bench as idle
from bench.memory import bench as memory
from bench.options import MODES, Options
from bench.report import Table, document, machine, show, show_machine
from bench.through_envoy import bench as through_envoy

BENCHES: Mapping[str, Callable[[Options], Coroutine[Any, Any, list[Table]]]] = {
    "decision": decision,
    "through_envoy": through_envoy,
    "idle": idle,
    "memory": memory,
}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _modes(text: str) -> tuple[str, ...]:
    modes = tuple(text.split(","))
    if unknown := set(modes) - set(MODES):
        message = f"unknown mode {', '.join(sorted(unknown))}; there are {', '.join(MODES)}"
        raise argparse.ArgumentTypeError(message)
    return modes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure the picker. See bench/README.md.")
    parser.add_argument("benches", nargs="*", metavar="BENCH", help=f"which: {', '.join(BENCHES)}; all without a name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    envoy = parser.add_argument_group("through_envoy")
    envoy.add_argument("--modes", type=_modes, help="comma-separated: released,held,duplex")
    envoy.add_argument("--seconds", type=float, help="of load, each turn")
    envoy.add_argument("--rounds", type=int, help="turns of each side")
    envoy.add_argument("--connections", type=int)
    envoy.add_argument("--prompt-bytes", type=int)
    envoy.add_argument("--peer", metavar="HOST:PORT", help="gRPC address of another EPP, measured the same way beside ours")
    envoy.add_argument("--peer-pid", type=int, help="its process, for its CPU time")
    envoy.add_argument("--peer-tls", action="store_true", default=None, help="it serves with TLS (not verified)")
    envoy.add_argument("--first-port", type=int, help="of the 8 model servers, on consecutive ports; the peer must know them")
    stages = parser.add_argument_group("decision")
    stages.add_argument("--pools", type=_numbers, help="numbers of endpoints, comma-separated")
    stages.add_argument("--sizes", type=_numbers, help="prompt sizes in bytes, comma-separated")
    stages.add_argument("--decisions", type=int, help="of which the median is taken")
    others = parser.add_argument_group("idle and memory")
    others.add_argument("--idle-pools", type=_numbers, help="numbers of endpoints, comma-separated")
    others.add_argument("--idle-seconds", type=float)
    others.add_argument("--blocks", type=int, help="cached prefix blocks")
    return parser


def main() -> None:
    """Run what was asked for."""
    parser = _parser()
    given = vars(parser.parse_args())
    names = given["benches"] or list(BENCHES)
    if unknown := [name for name in names if name not in BENCHES]:
        parser.error(f"no bench is called {unknown[0]!r}; there are {', '.join(BENCHES)}")
    if given["peer"] and not given["first_port"]:
        parser.error("--peer needs --first-port: the peer must be told where the model servers will be")
    known = {one.name for one in fields(Options)}
    options = replace(Options(), **{name: value for name, value in given.items() if name in known and value is not None})
    found, tables = machine(), {}
    show_machine(found)
    for name in names:
        tables[name] = asyncio.run(BENCHES[name](options))
        for table in tables[name]:
            show(table)
    if given["json"]:
        given["json"].write_text(json.dumps(document(found, tables), indent=1) + "\n")


if __name__ == "__main__":
    main()
