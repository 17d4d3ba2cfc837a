"""A load of events on real workers of `chaos_app`, and the proof that none was lost or doubled."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio

from omnidaemon import App
from omnidaemon.envelope import Envelope, decode, load
from omnidaemon.errors import OmniDaemonError
from omnidaemon.messages import GroupInfo
from omnidaemon.records import RESULTS, Metrics

ROOT = Path(__file__).parent.parent.parent
AGENTS = ("work", "compute")
TOPIC = "chaos.work"
REPLIES = "chaos.replies"
SETTLED_SECONDS = 120.0
RESUME_SECONDS = 2.0
"""Within which workers work again once the broker is back."""
NOISE_SECONDS = 0.0 if os.environ.get("QUIET_MACHINE") else 30.0
"""What a machine that several people use may add to that; QUIET_MACHINE=1 says that none do."""

Worker = subprocess.Popen[bytes]


class Workers:
    """Worker processes of the chaos app; each logs into a file of its own."""

    def __init__(self, folder: Path, url: str, **environment: str) -> None:
        self.running: list[Worker] = []
        self._started: list[Worker] = []
        self._folder = folder
        self._environment = {"CHAOS_URL": url, **environment}

    def start(self, count: int = 1) -> None:
        """Starts some more."""
        for _ in range(count):
            self.running.append(self._start())

    def replace(self, place: int) -> None:
        """Starts another in the place of one that has ended."""
        self.running[place] = self._start()

    def _start(self) -> Worker:
        command = [sys.executable, "-m", "omnidaemon", "worker", "tests.process.chaos_app:app"]
        env = {**os.environ, **self._environment}
        with self._log(len(self._started)).open("wb") as log:
            worker = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
        self._started.append(worker)
        return worker

    def _log(self, number: int) -> Path:
        return self._folder / f"worker-{number}.log"

    @property
    def logs(self) -> str:
        """What all of them have logged, but for the failures that the app plans."""
        logs = [self._log(n).read_text("utf-8") for n in range(len(self._started))]
        lines = "".join(logs).splitlines(keepends=True)
        return "".join(line for line in lines if "ValueError: fails once" not in line)

    @property
    def _end_of_logs(self) -> str:
        return self.logs[-4_000:]

    async def said(self, words: str, times: int = 1) -> None:
        """Waits until the workers have logged these words so often in all."""
        deadline = time.monotonic() + SETTLED_SECONDS
        while self.logs.count(words) < times:
            self.check()
            assert time.monotonic() < deadline, f"no {words!r} in time:\n{self._end_of_logs}"
            await anyio.sleep(0.02)

    async def ready(self) -> None:
        """Waits until each that was started has said that it is ready."""
        await self.said(" is ready", len(self._started))

    def check(self) -> None:
        """Fails if one has ended by itself."""
        ended = [worker.poll() for worker in self.running]
        assert ended == [None] * len(ended), f"a worker ended by itself:\n{self._end_of_logs}"

    def drain(self) -> None:
        """Ends them as a deployment does; all end well."""
        for worker in self.running:
            worker.terminate()
        ended = [worker.wait(60) for worker in self.running]
        assert ended == [0] * len(ended), self._end_of_logs
        odd = [line for line in self.logs.splitlines() if "Warning:" in line or "Traceback" in line]
        assert not odd, f"{odd}\n{self._around(odd[0])}"

    def _around(self, line: str) -> str:
        before, _, after = self.logs.partition(line)
        return f"{before[-500:]}{line}{after[:3_000]}"

    def clean_up(self) -> None:
        """Leaves no process behind."""
        for worker in self._started:
            worker.kill()
            worker.wait()


class Load:
    """Events on their way through the workers.

    Args:
        app: Publishes and looks, by a way to the broker that no test cuts.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.expected: set[str] = set()
        self.replying: set[str] = set()

    async def publish(self, events: int, *others: int) -> None:
        """Publishes these others, then so many, and a fifth more that ask for a reply."""
        silent = await self._app.send_many([(TOPIC, n) for n in (*others, *range(events))])
        asking = [Envelope(TOPIC, n, reply_to=REPLIES) for n in range(events // 5)]
        asked = {task.id for task in await self._app.send_many(asking)}
        self.replying |= asked
        self.expected |= asked | {task.id for task in silent}

    async def settled(self, workers: Workers) -> None:
        """Waits until both agents have settled everything."""
        await wait_until_settled(self._app, workers)

    async def progress(self, least: int, workers: Workers) -> None:
        """Waits until the agent `work` has settled at least so many runs."""
        deadline = time.monotonic() + SETTLED_SECONDS
        while await self._settled_by_work() < least:
            workers.check()
            assert time.monotonic() < deadline, f"no progress:\n{workers.logs[-4_000:]}"
            await anyio.sleep(0.02)

    async def moves(self, workers: Workers) -> float:
        """Waits until something more is settled; the seconds that it took."""
        began = time.monotonic()
        await self.progress(await self._settled_by_work() + 1, workers)
        return time.monotonic() - began

    async def _settled_by_work(self) -> int:
        while True:
            try:
                totals = await Metrics(self._app.store).totals(TOPIC)
                break
            except OmniDaemonError:  # the observer's own connection may be cut as well
                await anyio.sleep(0.02)
        return totals[TOPIC]["work"].processed if "work" in totals.get(TOPIC, {}) else 0

    async def check(self) -> None:
        """Every event is settled once per agent, and has one result and one reply of each."""
        app, most = self._app, 10 * len(self.expected)
        stored = await app.transport.browse(TOPIC, limit=most)
        events = Counter(event.id for event in stored)
        assert set(events) == self.expected
        twice = [(event.id, event.position) for event in stored if events[event.id] > 1]
        assert not twice, f"stored more than once: {twice}"
        dead: set[str] = set()
        for agent in AGENTS:
            letters = await app.transport.dead_letters(TOPIC, agent, limit=most)
            totals = (await Metrics(app.store).totals(TOPIC))[TOPIC][agent]
            # A counter moves inside its settlement: twice settled would be counted twice.
            assert totals.processed + totals.dead == len(self.expected)
            assert len(letters) == totals.dead
            dead |= {letter.id for letter in letters}
        records = await app.store.browse(RESULTS, limit=most)
        counts = Counter(record.key for record in records)
        assert set(counts.values()) == {1}
        assert {key.split("/")[0] for key in counts} == self.expected
        assert len(counts) == len(AGENTS) * len(self.expected)
        await self._check_replies(dead, most)

    async def _check_replies(self, dead: set[str], most: int) -> None:
        replies: Counter[tuple[Any, Any]] = Counter()
        for event in await self._app.transport.browse(REPLIES, limit=most):
            envelope = decode(event.body)
            replies[envelope.causation_id, load(envelope.content)["agent"]] += 1
        assert set(replies.values()) == {1}
        assert {(task, agent) for task in self.replying - dead for agent in AGENTS} <= set(replies)


async def wait_until_settled(app: App, workers: Workers, topic: str = TOPIC) -> None:
    """Waits until no group of the topic has anything to do; the broker may be away meanwhile."""
    deadline = time.monotonic() + SETTLED_SECONDS
    groups: Sequence[GroupInfo] = ()
    while time.monotonic() < deadline:
        try:
            groups = await app.transport.groups(topic)
        except OmniDaemonError:
            groups = ()
        if groups and not any(g.lag or g.leased or g.waiting for g in groups):
            return
        workers.check()
        await anyio.sleep(0.05)
    raise AssertionError(f"not settled in time: {groups}\n{workers.logs[-4_000:]}")


async def resumed(app: App, workers: Workers) -> float:
    """Sends an event and waits until both agents have handled it; the seconds that it took."""
    began = time.monotonic()
    task = await app.send(TOPIC, 1, timeout=SETTLED_SECONDS)
    while True:
        with suppress(OmniDaemonError):
            # By looking: a wait for the notice would measure the observer's own way back as well.
            if len(await app.store.browse(RESULTS, prefix=f"{task.id}/")) == len(AGENTS):
                return time.monotonic() - began
        workers.check()
        assert time.monotonic() - began < SETTLED_SECONDS, f"not resumed:\n{workers.logs[-4_000:]}"
        await anyio.sleep(0.01)
