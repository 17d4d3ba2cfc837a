"""The measurements; each runs in a process of its own, started by `__main__`."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from omnidaemon import App
from omnidaemon.fleet import Fleet
from omnidaemon.records import Metrics
from omnidaemon.worker.worker import Worker

Figures = dict[str, float]
BATCH = 500


async def enqueue_single(url: str, count: int) -> Figures:
    """One event after another, each stored before the next is sent."""
    app = App("bench", transport=url)
    async with app:
        await app.send("noop", {"n": 0})
        began = time.perf_counter()
        for n in range(count):
            await app.send("noop", {"n": n})
        return {"per_second": count / (time.perf_counter() - began)}


async def enqueue_concurrent(url: str, count: int) -> Figures:
    """A hundred senders at once, each one event after another."""
    app = App("bench", transport=url)

    async def sender(share: int) -> None:
        for n in range(share):
            await app.send("noop", {"n": n})

    async with app:
        await app.send("noop", {"n": 0})
        began = time.perf_counter()
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(sender, count // 100)
        return {"per_second": count / (time.perf_counter() - began)}


async def enqueue_batch(url: str, count: int) -> Figures:
    """`send_many` of 500 events at a time."""
    app = App("bench", transport=url)
    async with app:
        await app.send("noop", {"n": 0})
        began = time.perf_counter()
        for start in range(0, count, BATCH):
            await app.send_many([("noop", {"n": n}) for n in range(start, start + BATCH)])
        return {"per_second": count / (time.perf_counter() - began)}


async def drain(url: str, count: int, consumers: int, agents: int = 1) -> Figures:
    """From a worker's start to the last settlement: no-op runs, results and counters stored.

    Several agents have a topic each, and an equal share of the events.
    """
    sys.setswitchinterval(0.0005)  # as the worker command does
    app = App("bench", transport=url)

    async def noop(content: Any) -> dict[str, bool]:
        return {"ok": True}

    topics = [f"noop.{number}" for number in range(agents)]
    for topic in topics:
        app.agent(topic, name="noop", consumers=consumers)(noop)
    async with app:
        for start in range(0, count, BATCH):
            numbers = range(start, start + BATCH)
            await app.send_many([(topics[n % agents], {"n": n}) for n in numbers])
        worker = Worker(app)
        cpu = time.process_time()
        began = time.perf_counter()
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            while await _processed(app) < count:
                await anyio.sleep(0.01)
            took = time.perf_counter() - began
            worker.stop()
    used = time.process_time() - cpu
    return {
        "per_second": count / took,
        "cpu_us_per_message": used / count * 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


async def drain_processes(url: str, count: int, processes: int) -> Figures:
    """The same by `omnidaemon worker --processes N`, from all being ready to the last settlement.

    The agent is paused until then, so that no process begins before the others.
    """
    app = App("bench", transport=url)
    async with app:
        with worker_process("benchmarks.apps:app", url, "--processes", str(processes)) as process:
            fleet = Fleet(app)
            await fleet.pause("noop", "noop")
            for start in range(0, count, BATCH):
                await app.send_many([("noop", {"n": n}) for n in range(start, start + BATCH)])
            while len((await fleet.health()).workers) < processes:
                await anyio.sleep(0.05)
            pids = [worker.pid for worker in (await fleet.health()).workers]
            before = {pid: _cpu_seconds(pid) for pid in pids}
            began = time.perf_counter()
            await fleet.resume("noop", "noop")
            while await _processed(app) < count:
                await anyio.sleep(0.02)
            took = time.perf_counter() - began
            used = sum(_cpu_seconds(pid) - before[pid] for pid in pids)
            assert process.poll() is None
    return {
        "per_second": count / took,
        "cpu_us_per_message": used / count * 1e6,
        "cores_per_process": used / took / processes,
    }


async def _processed(app: App) -> int:
    totals = await Metrics(app.store).totals()
    return sum(agent.processed for agents in totals.values() for agent in agents.values())


async def latency(url: str, count: int) -> Figures:
    """At low load, worker and sender in two processes: until the handler starts, and back."""
    starts, ends = [], []
    with worker_process("benchmarks.apps:app", url):
        app = App("bench", transport=url)
        async with app:
            for _ in range(20):
                await app.request("clock", None, timeout=30)
            for _ in range(count):
                await anyio.sleep(0.02)
                sent = time.time()
                started = await app.request("clock", None, timeout=30)
                ends.append(time.time() - sent)
                starts.append(started - sent)
    return {
        "start_p50_ms": statistics.median(starts) * 1000,
        "start_p99_ms": statistics.quantiles(starts, n=100)[98] * 1000,
        "result_p50_ms": statistics.median(ends) * 1000,
        "result_p99_ms": statistics.quantiles(ends, n=100)[98] * 1000,
    }


async def latency_within(url: str, count: int) -> Figures:
    """The same with worker and sender in one process and event loop."""
    app = App("bench", transport=url)
    starts, ends = [], []

    @app.agent("clock", consumers=10)
    async def clock(content: Any) -> float:
        return time.time()

    async with app:
        worker = Worker(app)
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            await worker.ready.wait()
            for _ in range(count):
                await anyio.sleep(0.005)
                sent = time.time()
                started = await app.request("clock", None, timeout=30)
                ends.append(time.time() - sent)
                starts.append(started - sent)
            worker.stop()
    return {
        "start_p50_ms": statistics.median(starts) * 1000,
        "start_p99_ms": statistics.quantiles(starts, n=100)[98] * 1000,
        "result_p50_ms": statistics.median(ends) * 1000,
        "result_p99_ms": statistics.quantiles(ends, n=100)[98] * 1000,
    }


def idle(url: str, target: str, seconds: float) -> Figures:
    """CPU of a worker that has nothing to do, as a share of one core, and its memory."""
    with worker_process(target, url) as process:
        time.sleep(2)
        before = _cpu_seconds(process.pid)
        time.sleep(seconds)
        used = _cpu_seconds(process.pid) - before
        return {"percent": used / seconds * 100, "peak_mb": _peak_mb(process.pid)}


def start_up(url: str, rounds: int) -> Figures:
    """Seconds from starting a worker process to its readiness; from commands to their end."""
    python = sys.executable
    commands: dict[str, list[str]] = {
        "bare_python": [python, "-c", "pass"],
        "import": [python, "-c", "import omnidaemon"],
        "help": [python, "-m", "omnidaemon", "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in [*commands, "worker_ready"]}
    for _ in range(rounds):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - began)
        began = time.perf_counter()
        with worker_process("benchmarks.apps:app", url):
            times["worker_ready"].append(time.perf_counter() - began)
    figures = {f"{name}_ms": statistics.median(found) * 1000 for name, found in times.items()}
    figures["import_over_bare_ms"] = figures["import_ms"] - figures["bare_python_ms"]
    return figures


class worker_process:  # noqa: N801  used like a function
    """Runs `omnidaemon worker TARGET` while the block lasts; entered when it is ready."""

    def __init__(self, target: str, url: str, *options: str) -> None:
        self._command = [sys.executable, "-m", "omnidaemon", "worker", target, *options]
        self._env = {**os.environ, "BENCH_URL": url}

    def __enter__(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            self._command,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        assert self._process.stdout is not None
        seen = []
        for line in self._process.stdout:
            seen.append(line)
            if "is ready" in line:
                return self._process
        raise RuntimeError("the worker did not start:\n" + "".join(seen))

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=60)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


MEASURES: dict[str, Callable[..., Any]] = {
    measure.__name__: measure
    for measure in (
        enqueue_single,
        enqueue_concurrent,
        enqueue_batch,
        drain,
        drain_processes,
        latency,
        latency_within,
        idle,
        start_up,
    )
}
