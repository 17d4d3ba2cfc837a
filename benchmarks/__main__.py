"""Runs the measurements in rounds, backend by backend, and prints medians in a table."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import secrets
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.table import Table

from benchmarks.measures import MEASURES, Figures

# Name, measure, its arguments besides the URL, and the backends it is for.
# "redis" takes part if BENCH_REDIS_URL names a server; each measurement has a prefix of its own.
REDIS = ("redis",) if os.environ.get("BENCH_REDIS_URL") else ()
ALL = ("memory", "sqlite", "sqlite+fast", *REDIS)
FILES = ("sqlite", "sqlite+fast", *REDIS)
PLAN: list[tuple[str, str, dict[str, Any], tuple[str, ...]]] = [
    ("enqueue, one by one", "enqueue_single", {"count": 3_000}, ALL),
    ("enqueue, 100 senders", "enqueue_concurrent", {"count": 20_000}, ALL),
    ("enqueue, batches of 500", "enqueue_batch", {"count": 50_000}, ALL),
    ("drain, 100 consumers", "drain", {"count": 50_000, "consumers": 100}, ALL),
    ("drain, 3 consumers", "drain", {"count": 30_000, "consumers": 3}, ALL),
    ("drain, 1 consumer", "drain", {"count": 20_000, "consumers": 1}, ALL),
    ("drain, 200 agents", "drain", {"count": 50_000, "consumers": 3, "agents": 200}, ALL),
    ("drain, backlog of 500,000", "drain", {"count": 500_000, "consumers": 100}, REDIS),
    ("drain, one process", "drain_processes", {"count": 100_000, "processes": 1}, REDIS),
    ("drain, two processes", "drain_processes", {"count": 100_000, "processes": 2}, REDIS),
    ("latency, one process", "latency_within", {"count": 300}, ALL),
    ("latency, two processes", "latency", {"count": 300}, FILES),
    ("idle, 2 agents", "idle", {"target": "benchmarks.apps:app", "seconds": 10}, ("sqlite",)),
    ("idle, 200 agents", "idle", {"target": "benchmarks.apps:many", "seconds": 10}, ("sqlite",)),
    ("start-up", "start_up", {"rounds": 20}, ("sqlite",)),
]


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, interleaved (default 3)")
    parser.add_argument("--only", default="", help="only measurements whose name contains this")
    parser.add_argument("--backend", default="", help="only this backend")
    parser.add_argument("--uvloop", action="store_true", help="run asyncio on uvloop")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], json.loads(options.measure[1]))))
        return
    found: dict[tuple[str, str], list[Figures]] = defaultdict(list)
    for _ in range(options.rounds):
        for name, measured, arguments, backends in PLAN:
            for backend in backends:
                if options.only in name and options.backend in ("", backend):
                    figures = in_own_process(measured, backend, arguments, options.uvloop)
                    found[name, backend].append(figures)
    medians = {
        key: {field: statistics.median(f[field] for f in figures) for field in figures[0]}
        for key, figures in found.items()
    }
    show(medians, options.rounds)
    if options.json:
        rows = [{"name": n, "backend": b, **figures} for (n, b), figures in medians.items()]
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2))


def in_own_process(name: str, backend: str, arguments: dict[str, Any], uvloop: bool) -> Figures:
    """Runs one measurement in a process of its own, on data of its own."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"{backend}://{folder}/bench.db"
        if backend == "memory":
            url = "memory://bench"
        elif backend == "redis":
            url = f"{os.environ['BENCH_REDIS_URL']}?prefix=bench-{secrets.token_hex(4)}"
        given = json.dumps({"url": url, **arguments})
        # Installed packages have their bytecode; without it every start would compile ours anew.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "--measure", name, given],
            env={**environment, "BENCH_UVLOOP": "1" if uvloop else ""},
            cwd=Path(__file__).parent.parent,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    print(f"{name} {backend} {arguments}: {figures}", file=sys.stderr)
    return figures


def measure(name: str, arguments: dict[str, Any]) -> Figures:
    """Runs one measurement here."""
    func = MEASURES[name]
    if not inspect.iscoroutinefunction(func):
        figures: Figures = func(**arguments)
        return figures

    async def run() -> Figures:
        result: Figures = await func(**arguments)
        return result

    return anyio.run(run, backend_options={"use_uvloop": bool(os.environ.get("BENCH_UVLOOP"))})


def machine() -> str:
    """What it was measured on."""
    return (
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )


def show(medians: dict[tuple[str, str], Figures], rounds: int) -> None:
    """Prints the table."""
    table = Table(title=f"medians of {rounds} rounds; {machine()}")
    for column in ("measurement", "backend", "figures"):
        table.add_column(column)
    for (name, backend), figures in medians.items():
        text = "  ".join(f"{field} {value:,.2f}" for field, value in figures.items())
        table.add_row(name, backend, text)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
