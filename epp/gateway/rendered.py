"""The configurations kept in `envoy/`: which there are, and whether they are what this version makes.

`python -m epp.gateway.rendered` writes them, `--check` only compares. They fit the names of docker-compose.yml.
"""

from __future__ import annotations

import sys
from pathlib import Path

from epp.gateway.config import render
from epp.gateway.wiring import Failure, HostPort, Mode, Wiring

DIRECTORY = Path("envoy")
MODES = (Mode.HELD, Mode.RELEASED, Mode.DUPLEX)


def wirings() -> dict[str, Wiring]:
    """Give each file's name and what it is made from."""
    picker = HostPort("epp", 9002)
    return {
        f"{mode}-{failure}.yaml": Wiring(mode=mode, failure=failure, picker=picker, picker_tls=None)
        for mode in MODES
        for failure in Failure
    }


def outdated(directory: Path) -> list[str]:
    """Name the files in `directory` that are missing or not what would be made."""
    return [name for name, wiring in wirings().items() if not _is(directory / name, render(wiring))]


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` report what differs; give the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m epp.gateway.rendered [--check]", file=sys.stderr)  # noqa: T201 - a command
        return 2
    if arguments:
        stale = outdated(DIRECTORY)
        for name in stale:
            print(f"{DIRECTORY / name} is out of date: run scripts/generate", file=sys.stderr)  # noqa: T201 - a command
        return 1 if stale else 0
    DIRECTORY.mkdir(exist_ok=True)
    for name, wiring in wirings().items():
        (DIRECTORY / name).write_text(render(wiring))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
