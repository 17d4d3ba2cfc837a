"""Installs the peers, measures them in interleaved rounds on one Redis, prints tables."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from redis import Redis
from rich.console import Console

from benchmarks.peers.catalogue import ENTRIES, ROOT, Entry
from benchmarks.peers.environments import InstallationError, environment, versions
from benchmarks.peers.figures import Figures
from benchmarks.peers.processes import redis_server
from benchmarks.peers.report import machine, show, write
from benchmarks.peers.runner import QUICK, RunError, Runner, Scale

ENVIRONMENTS = ROOT / "benchmarks" / ".venvs"

# As the tables call it, as `Entry.takes_part` does, how many at once (0: not said), how it is run.
Plan = tuple[str, str, int, Callable[[Runner], Figures]]
PLAN: tuple[Plan, ...] = (
    ("drain, 100 at once", "drain", 100, lambda runner: runner.drain(100)),
    ("drain, 3 at once", "drain", 3, lambda runner: runner.drain(3)),
    ("drain, 1 at once", "drain", 1, lambda runner: runner.drain(1)),
    ("enqueue one by one", "enqueue single", 0, lambda runner: runner.enqueue("single")),
    ("enqueue, 100 senders", "enqueue 100", 0, lambda runner: runner.enqueue("concurrent")),
    ("enqueue, batches of 500", "enqueue batch", 0, lambda runner: runner.enqueue("batch")),
    ("latency", "latency", 0, Runner.latency),
    ("naps of 50 ms, 100 at once", "naps", 100, Runner.naps),
    ("start of a worker", "start", 0, Runner.start),
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    found.add_argument("--rounds", type=_positive, default=3, help="interleaved (default 3)")
    found.add_argument("--quick", action="store_true", help="one small round, to see that it runs")
    names = [entry.name for entry in ENTRIES]
    found.add_argument("--only", action="append", choices=names, help="this peer; may be repeated")
    found.add_argument("--measure", default="", help="only measures whose name contains this")
    found.add_argument("--seconds", type=float, default=6.0, help="of a drain (default 6)")
    found.add_argument("--fresh", action="store_true", help="make the environments anew")
    found.add_argument("--json", type=Path, help="write all figures to this file")
    return found


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def chosen(only: Sequence[str] | None) -> list[Entry]:
    """The entries that were asked for, all by default."""
    return [entry for entry in ENTRIES if not only or entry.name in only]


def main() -> int:
    """Measures; the exit status says whether every peer could be."""
    options = parser().parse_args()
    # Ended from outside it must leave no server and no worker behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console, errors = Console(stderr=True, width=160), defaultdict[str, dict[str, str]](dict)
    found_versions, pythons = {}, {}
    for entry in chosen(options.only):
        try:
            pythons[entry.name] = environment(entry, ENVIRONMENTS, fresh=options.fresh)
            found_versions[entry.name] = versions(entry, pythons[entry.name])
            console.print(f"{entry.name}: {found_versions[entry.name]}", markup=False)
        except InstallationError as error:
            errors["installation"][entry.name] = str(error)
    plan = [step for step in PLAN if options.measure in step[0]]
    runs: dict[str, dict[str, list[Figures]]] = {name: defaultdict(list) for name, *_ in plan}
    scale = QUICK if options.quick else Scale(drain_seconds=options.seconds)
    rounds = 1 if options.quick else options.rounds
    with redis_server() as url:
        with Redis.from_url(url) as client:
            version = client.info("server")["redis_version"]
        if int(version.partition(".")[0]) < 7:
            raise SystemExit(f"redis-server on PATH is {version}; the benchmark needs 7 or newer")
        about = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(version)}
        runners = [
            (entry, Runner(entry, pythons[entry.name], url, scale))
            for entry in chosen(options.only)
            if entry.name in pythons
        ]
        for number in range(rounds):
            for step in plan:
                for entry, runner in runners:
                    _one(step, entry, runner, runs, errors, console, number)
    everything = {**about, "versions": found_versions, "rounds": rounds}
    show(Console(width=None if sys.stdout.isatty() else 160), runs, errors, everything, rounds)
    if options.json:
        write(options.json, runs, errors, everything)
    return 1 if any(errors.values()) else 0


def _one(
    step: Plan,
    entry: Entry,
    runner: Runner,
    runs: dict[str, dict[str, list[Figures]]],
    errors: dict[str, dict[str, str]],
    console: Console,
    number: int,
) -> None:
    """Runs one measure on one peer once; what goes wrong is kept, and ends its turns in it."""
    name, measure, level, run = step
    if not entry.takes_part(measure, level) or entry.name in errors[name]:
        return
    try:
        figures = run(runner)
    except (RunError, subprocess.TimeoutExpired) as error:
        errors[name][entry.name] = str(error)
        console.print(f"{name}, {entry.name}: FAILED {error}", style="red", markup=False)
        return
    runs[name][entry.name].append(figures)
    text = "  ".join(f"{field} {value:,.2f}" for field, value in figures.items())
    console.print(f"round {number + 1}, {name}, {entry.name}: {text}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
