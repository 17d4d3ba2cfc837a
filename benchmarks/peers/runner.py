"""Runs one measure on one peer: a flushed server, a worker of its own, its driver as the sender."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.peers.catalogue import Entry
from benchmarks.peers.figures import Figures, messages, percentile
from benchmarks.peers.processes import Process

DRIVERS = Path(__file__).parent / "drivers"
NAP = 0.05  # seconds, as in the drivers
_PILOT = 1_000  # messages of the run that says how many the real one wants
_STILL = 15.0  # seconds without progress after which a run has failed


class RunError(Exception):
    """A measure did not come to its end; says why, with the worker's last words."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    drain_seconds: float = 6.0
    pilot: bool = True
    drain_messages: int = 0
    enqueue_seconds: float = 3.0
    questions: int = 300
    naps: int = 2_000


QUICK = Scale(pilot=False, drain_messages=300, enqueue_seconds=0.3, questions=20, naps=200)


class Runner:
    """The measures of one peer.

    Args:
        entry: The peer.
        python: Of its environment.
        url: Of the server; everything on it is deleted before each measure.
        scale: How much is measured.
    """

    def __init__(self, entry: Entry, python: Path, url: str, scale: Scale) -> None:
        self._entry = entry
        self._python = python
        self._url = url
        self._scale = scale
        self._client: Any = Redis.from_url(url)
        self._rates: dict[int, float] = {}

    def drain(self, level: int) -> Figures:
        """No-op tasks per second from the first to the last settlement, `level` at once."""
        scale, count = self._scale, self._scale.drain_messages or _PILOT
        if self._entry.kind != "peer":
            count *= 50  # else all would be settled at the first look
        if scale.pilot:
            if level not in self._rates:
                self._rates[level] = self._drained(level, count)["per_second"]
                if count / self._rates[level] < 0.5:  # too short to tell
                    self._rates[level] = self._drained(level, 10 * count)["per_second"]
            count = messages(self._rates[level], scale.drain_seconds, self._entry.most)
        return self._drained(level, count)

    def _drained(self, level: int, count: int) -> Figures:
        self._flush()
        self._driver("preload", "noop", str(min(count, self._entry.most or count)))
        with self._worker(level) as worker:
            self._until(worker, count, at_least=1, pause=0.002)
            first, began, cpu = self._settled(count), time.perf_counter(), worker.cpu_seconds()
            self._until(worker, count, at_least=count, pause=0.01)
            took = time.perf_counter() - began
            used, memory = worker.cpu_seconds() - cpu, worker.memory_mb()
        self._check_results(count)
        done = count - first
        if done < count / 2:
            raise RunError(f"{first} of {count} were settled at the first look: too few messages")
        return {
            "per_second": done / took,
            "cpu_us_per_message": used / done * 1e6,
            "rss_mb": memory,
            "messages": count,
        }

    def enqueue(self, mode: str) -> Figures:
        """Tasks stored per second: "single", "concurrent" or "batch"."""
        self._flush()
        found: Figures = self._driver("enqueue", mode, str(self._scale.enqueue_seconds))
        return found

    def latency(self) -> Figures:
        """Milliseconds from the sending to the handler, and to the result; two processes."""
        self._flush()
        with self._worker(10 if 100 in self._entry.levels else 1) as worker:
            try:
                found = self._driver("latency", str(self._scale.questions))
            except RunError as error:
                raise RunError(f"{error}\nworker: {worker.said()}") from error
        return {
            f"{name}_p{percent}_ms": percentile(found[field], percent) * 1000
            for name, field in (("start", "starts"), ("result", "ends"))
            for percent in (50, 99)
        }

    def naps(self) -> Figures:
        """Tasks that sleep 50 ms, 100 at once: the ideal time as a share of what they took."""
        self._flush()
        count = self._scale.naps
        self._driver("preload", "nap", str(count))
        with self._worker(100) as worker:
            self._until(worker, count, at_least=1, pause=0.002, task="nap")
            began = time.perf_counter() - NAP
            self._until(worker, count, at_least=count, pause=0.002, task="nap")
            took = time.perf_counter() - began
        return {"share_of_ideal": count / 100 * NAP / took}

    def start(self) -> Figures:
        """From the start of a worker until it has settled a message that waited; its memory."""
        self._flush()
        self._driver("preload", "noop", "1")
        began = time.perf_counter()
        with self._worker(100 if 100 in self._entry.levels else 1) as worker:
            self._until(worker, 1, at_least=1, pause=0.002)
            return {
                "first_result_ms": (time.perf_counter() - began) * 1000,
                "rss_mb": worker.memory_mb(),
            }

    def _flush(self) -> None:
        self._client.flushall()
        self._driver("prepare")

    def _settled(self, sent: int, task: str = "noop") -> int:
        return self._entry.settled(self._client, sent, task)

    def _until(
        self, worker: Process, sent: int, *, at_least: int, pause: float, task: str = "noop"
    ) -> None:
        """Returns when so many are settled."""
        before, since = -1, time.monotonic()
        while (settled := self._settled(sent, task)) < at_least:
            if settled != before:
                before, since = settled, time.monotonic()
            if worker.exited is not None:
                raise RunError(f"the worker ended with {worker.exited}:\n{worker.said()}")
            if time.monotonic() - since > _STILL:
                raise RunError(f"{settled} of {sent} settled, then nothing:\n{worker.said()}")
            time.sleep(pause)

    def _check_results(self, count: int) -> None:
        """Raises if not every task has a stored result: it would have been measured without."""
        if self._entry.results is None:
            return
        pattern = self._entry.results
        if set(pattern) & set("*?"):
            found = sum(1 for _ in self._client.scan_iter(match=pattern, count=10_000))
        else:
            found = self._client.hlen(pattern)
        if found < count:
            raise RunError(f"{found} results are stored of {count} ({pattern})")

    def _worker(self, level: int) -> Process:
        command = [str(self._python), str(DRIVERS / "run.py"), self._module, "worker"]
        return Process(command, DRIVERS, self._environment(level))

    def _driver(self, *arguments: str) -> Any:
        done = subprocess.run(
            [str(self._python), str(DRIVERS / "run.py"), self._module, *arguments],
            cwd=DRIVERS,
            env=self._environment(100),
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode:
            raise RunError(f"{' '.join(arguments)}:\n{(done.stdout + done.stderr)[-1500:].strip()}")
        return json.loads(done.stdout.splitlines()[-1])

    @property
    def _module(self) -> str:
        return f"on_{self._entry.name}"

    def _environment(self, level: int) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        return {
            **inherited,
            "PYTHONPATH": str(DRIVERS),
            "BENCH_URL": self._url,
            "BENCH_CONSUMERS": str(level),
            # What omnidaemon 0.1.1 reads.
            "REDIS_URL": self._url,
            "STORAGE_BACKEND": "redis",
        }
