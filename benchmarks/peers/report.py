"""What was found, as tables for people and as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.peers.catalogue import ENTRIES
from benchmarks.peers.figures import Figures, best, medians, ratio

KINDS = {entry.name: entry.kind for entry in ENTRIES}

# The figure by which each measure ranks, and whether more is better.
RANKS = {
    "drain": ("per_second", True),
    "enqueue": ("per_second", True),
    "latency": ("result_p50_ms", False),
    "naps": ("share_of_ideal", True),
    "start": ("first_result_ms", False),
}

Runs = Mapping[str, Mapping[str, list[Figures]]]  # by measure and peer
Errors = Mapping[str, Mapping[str, str]]


def machine(redis_version: str) -> dict[str, Any]:
    """What it was measured on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "python": platform.python_version(),
        "redis": redis_version,
        "redis_persistence": "none",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "processor": models[0] if models else "unknown",
        "load_before": os.getloadavg()[0],
    }


def rows(runs: Runs, measure: str) -> list[dict[str, Any]]:
    """Medians and ratios of one measure, the best first."""
    figure, high = RANKS[measure.split()[0].rstrip(",")]
    found = {name: medians(list(figures)) for name, figures in runs[measure].items() if figures}
    ranked = {name: figures[figure] for name, figures in found.items()}
    top = best(ranked, [name for name in ranked if KINDS[name] == "peer"], high=high)
    raw = best(ranked, [name for name in ranked if KINDS[name] == "raw"], high=high)
    if raw is None and measure.startswith("drain"):  # by hand there is one way, 100 at a time
        others = runs.get("drain, 100 at once", {}).get("raw")
        raw = medians(others)[figure] if others else None
    return [
        {
            "measure": measure,
            "peer": name,
            **found[name],
            "of_best_peer": ratio(ranked[name], top),
            "of_raw": ratio(ranked[name], raw),
        }
        for name in sorted(ranked, key=lambda name: ranked[name], reverse=high)
    ]


def show(
    console: Console, runs: Runs, errors: Errors, about: Mapping[str, Any], rounds: int
) -> None:
    """Prints a table for each measure, then what failed."""
    for measure in runs:
        table = Table(title=f"{measure}: medians of {rounds} rounds", title_justify="left")
        table.add_column("peer")
        lines = rows(runs, measure)
        for column in lines[0] if lines else ():
            if column not in ("measure", "peer"):
                table.add_column(column.replace("_", " "), justify="right")
        for line in lines:
            style = "bold" if KINDS[line["peer"]] == "ours" else None
            cells = [_text(value) for key, value in line.items() if key not in ("measure", "peer")]
            table.add_row(line["peer"], *cells, style=style)
        for name, error in errors.get(measure, {}).items():
            table.add_row(f"{name}: failed", style="red")
            console.print(f"{measure}, {name}: {error}", style="red", markup=False)
        console.print(table)
    for name, error in errors.get("installation", {}).items():
        console.print(f"{name} was not installed: {error}", style="red", markup=False)
    console.print(f"Machine: {about['machine']}", markup=False)
    for name, found in about["versions"].items():
        console.print(f"{name}: {found}", markup=False)


def _text(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def write(path: Path, runs: Runs, errors: Errors, about: Mapping[str, Any]) -> None:
    """Everything: the medians, every run, what failed, versions, settings, the machine."""
    settings = {entry.name: entry.settings for entry in ENTRIES}
    found = {
        **about,
        "settings": settings,
        "rows": [row for measure in runs for row in rows(runs, measure)],
        "runs": runs,
        "errors": errors,
    }
    path.write_text(json.dumps(found, indent=2) + "\n")
