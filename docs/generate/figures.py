"""Tables of what `python -m benchmarks.peers` has measured, from `docs/benchmarks.json`."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.generate.regions import ROOT

FILE = ROOT / "docs" / "benchmarks.json"

# What the columns of a measure are called, and how many digits they have.
COLUMNS = {
    "per_second": ("per second", 0),
    "cpu_us_per_message": ("CPU, µs each", 0),
    "rss_mb": ("memory, MB", 0),
    "start_p50_ms": ("start p50, ms", 2),
    "start_p99_ms": ("start p99, ms", 2),
    "result_p50_ms": ("result p50, ms", 2),
    "result_p99_ms": ("result p99, ms", 2),
    "share_of_ideal": ("share of the ideal", 2),
    "first_result_ms": ("first result, ms", 0),
    "of_best_peer": ("of the best peer", 2),
    "of_raw": ("of by hand", 2),
}
NAMES = {
    "raw": "by hand (redis-py)",
    "raw_read": "read and acknowledge only",
    "omnidaemon_0_1": "omnidaemon on PyPI (another project)",
}
README_MEASURES = (
    ("drain, 100 at once", "per_second", "run, 100 at once", "/s"),
    ("drain, 1 at once", "per_second", "run, 1 at once", "/s"),
    ("enqueue one by one", "per_second", "publish, one by one", "/s"),
    ("enqueue, 100 senders", "per_second", "publish, 100 senders", "/s"),
    ("latency", "result_p50_ms", "until the result, median", "ms"),
)


@functools.cache
def measured(file: Path = FILE) -> dict[str, Any]:
    """Everything that was measured; {} while there is no such file."""
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return found


def machine_text() -> str:
    """One line: what it was measured on, and when."""
    found = measured()
    if not found:
        return "Nothing has been measured yet.\n"
    machine = found["machine"]
    cores = f"{machine['cores']} cores ({machine['processor']})"
    return (
        f"Measured on {found['date']}: {cores}, {machine['system']}, Python "
        f"{machine['python']}, Redis {machine['redis']} on loopback without persistence; medians "
        f"of {found['rounds']} interleaved rounds.\n"
    )


def versions_table() -> str:
    """Who took part, in which version, set up how."""
    found = measured()
    rows = ["| | version | set up with |", "| --- | --- | --- |"]
    for peer, packages in found.get("versions", {}).items():
        listed = ", ".join(f"{name} {version}" for name, version in packages.items())
        rows.append(f"| {_name(peer)} | {listed} | {found['settings'].get(peer, '')} |")
    return "\n".join(rows) + "\n"


def measure_tables() -> str:
    """A table for each measure, the best first."""
    by_measure: dict[str, list[dict[str, Any]]] = {}
    for row in measured().get("rows", []):
        by_measure.setdefault(row["measure"], []).append(row)
    return "\n".join(_measure(name, rows) for name, rows in by_measure.items())


def readme_table() -> str:
    """A few figures of each peer: one row per peer, in the order of the first column."""
    found = measured()
    figures: dict[str, dict[str, float]] = {}
    for row in found.get("rows", []):
        for measure, figure, title, _ in README_MEASURES:
            if row["measure"] == measure and figure in row:
                figures.setdefault(row["peer"], {})[title] = row[figure]
    first = README_MEASURES[0][2]
    ranked = sorted(figures, key=lambda peer: -figures[peer].get(first, 0.0))
    heads = [f"{title} ({unit})" for _, _, title, unit in README_MEASURES]
    lines = [f"| | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    for peer in ranked:
        if peer == "raw_read":
            continue
        version = next(iter(found["versions"].get(peer, {}).values()), "")
        name = _name(peer) if peer == "raw" else f"{_name(peer)} {version}".strip()
        cells = [_text(figures[peer].get(title), None) for _, _, title, _ in README_MEASURES]
        name = f"**{name}**" if peer == "omnidaemon" else name
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", machine_text()])


def _measure(name: str, rows: list[dict[str, Any]]) -> str:
    columns = [key for key in rows[0] if key in COLUMNS]
    lines = [f"### {name[0].upper()}{name[1:]}", ""]
    lines.append(f"| | {' | '.join(COLUMNS[column][0] for column in columns)} |")
    lines.append("| --- |" + " ---: |" * len(columns))
    lines += _lines(rows, columns)
    return "\n".join(lines) + "\n"


def _lines(rows: list[dict[str, Any]], columns: list[str]) -> Iterator[str]:
    for row in rows:
        name = f"**{_name(row['peer'])}**" if row["peer"] == "omnidaemon" else _name(row["peer"])
        cells = [_text(row[column], COLUMNS[column][1]) for column in columns]
        yield f"| {name} | {' | '.join(cells)} |"


def _name(peer: str) -> str:
    return NAMES.get(peer, peer)


def _text(value: float | None, digits: int | None) -> str:
    if value is None:
        return "–"
    if digits is None:
        digits = 0 if abs(value) >= 100 else 2
    return f"{value:,.{digits}f}"
