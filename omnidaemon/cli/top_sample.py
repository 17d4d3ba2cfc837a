"""What `omnidaemon top` shows: samples of the whole fleet, and rates between them."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Literal

import anyio
from msgspec import Struct

from omnidaemon.app import App
from omnidaemon.fleet import Fleet
from omnidaemon.records import AgentMetrics, Metrics, Roster, WorkerRecord, iso
from omnidaemon.views import AgentState

_WINDOW_SECONDS = 5.0
"""Rates are taken over so long: steadier than from one look to the next."""
_LETTERS = 100
_RUNS = 200

Counters = dict[tuple[str, str], AgentMetrics]


class Line(Struct, frozen=True):
    """One agent.

    Attributes:
        agent: As registered, with its group.
        counted: What it has done since its counters began.
        done_rate: Successes per second; None before the second look.
        failed_rate: Failed runs per second.
    """

    agent: AgentState
    counted: AgentMetrics
    done_rate: float | None
    failed_rate: float | None

    @property
    def lag(self) -> int:
        """Events never handed out."""
        return self.agent.group.lag if self.agent.group else 0

    @property
    def in_flight(self) -> int:
        """Deliveries that a worker holds."""
        return self.agent.group.leased if self.agent.group else 0

    @property
    def waiting(self) -> int:
        """Deliveries that wait for a retry."""
        return self.agent.group.waiting if self.agent.group else 0

    @property
    def dead(self) -> int:
        """Dead letters."""
        return self.agent.group.dead if self.agent.group else 0

    @property
    def workers(self) -> int:
        """Live subscriptions."""
        return self.agent.group.consumers if self.agent.group else 0

    @property
    def trouble(self) -> int:
        """2 if it fails or has failed for good, 1 if events wait and nobody takes them, else 0."""
        if self.dead or self.failed_rate or self.waiting:
            return 2
        return int(self.lag > 0 and self.agent.status != "running")

    def public(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "topic": self.agent.topic,
            "name": self.agent.name,
            "status": self.agent.status,
            "workers": self.workers,
            "lag": self.lag,
            "in_flight": self.in_flight,
            "waiting": self.waiting,
            "dead": self.dead,
            "processed": self.counted.processed,
            "failed": self.counted.failed,
            "processed_per_second": self.done_rate,
            "failed_per_second": self.failed_rate,
            "avg_processing_time_sec": self.counted.average,
        }


class Failure(Struct, frozen=True):
    """Failures of one agent with one kind of cause.

    Attributes:
        topic: The agent's topic.
        agent: Who failed.
        kind: dead (given up) or retrying.
        count: How many were seen.
        more: True if there may be more than were looked at: the newest 100 of a topic.
        type: The exception's class name.
        message: The newest one's text.
        task_id: The newest one's task.
        at: Unix time of the newest, in seconds.
    """

    topic: str
    agent: str
    kind: Literal["dead", "retrying"]
    count: int
    type: str
    message: str
    task_id: str
    at: float
    more: bool = False

    def public(self) -> dict[str, Any]:
        """As JSON shows it."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        return {**shown, "at": iso(self.at)}


class Sample(Struct, frozen=True):
    """One look at everything.

    Attributes:
        at: Unix time of the look, in seconds.
        workers: Those that live.
        lines: The agents; those in trouble first.
        failures: What failed: what was given up first, the newest first.
    """

    at: float
    workers: list[WorkerRecord]
    lines: list[Line]
    failures: list[Failure]

    @property
    def status(self) -> Literal["running", "degraded", "stopped"]:
        """Running while any worker lives, degraded while a worker says that something fails."""
        if any(worker.state == "degraded" for worker in self.workers):
            return "degraded"
        return "running" if self.workers else "stopped"

    def total(self, name: str) -> float:
        """The sum of all agents' numbers of this name."""
        return sum(getattr(line, name) or 0 for line in self.lines)

    def public(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "at": iso(self.at),
            "status": self.status,
            "workers": len(self.workers),
            "agents": [line.public() for line in self.lines],
            "failures": [failure.public() for failure in self.failures],
        }


class Sampler:
    """Looks again and again, and remembers enough for rates.

    Args:
        app: Whose backends.
        topic: Only this topic; None for all.
    """

    def __init__(self, app: App, topic: str | None) -> None:
        self._app = app
        self._topic = topic
        self._before: deque[tuple[float, Counters]] = deque()
        self._dead: dict[str, tuple[int, list[Failure]]] = {}

    async def look(self) -> Sample:
        """One sample."""
        now = anyio.current_time()
        totals = await Metrics(self._app.store).totals(self._topic)
        counters = {(t, name): m for t, agents in totals.items() for name, m in agents.items()}
        agents = await Fleet(self._app).agents(self._topic)
        workers = await Roster(self._app.store).workers()
        while len(self._before) > 1 and now - self._before[1][0] >= _WINDOW_SECONDS:
            self._before.popleft()
        lines = [self._line(agent, counters, now) for agent in agents]
        self._before.append((now, counters))
        lines.sort(key=lambda line: -line.trouble)
        failures = await self._given_up(agents) + await self._retrying(agents)
        failures.sort(key=lambda failure: (failure.kind, -failure.at))
        return Sample(time.time(), workers, lines, failures)

    def _line(self, agent: AgentState, counters: Counters, now: float) -> Line:
        key = agent.topic, agent.name
        counted = counters.get(key, AgentMetrics())
        if not self._before:
            return Line(agent, counted, None, None)
        then, earlier = self._before[0]
        before = earlier.get(key, AgentMetrics())
        seconds = max(now - then, 0.001)
        # Counters that were cleared in between begin at zero again.
        return Line(
            agent,
            counted,
            max(0, counted.processed - before.processed) / seconds,
            max(0, counted.failed - before.failed) / seconds,
        )

    async def _given_up(self, agents: list[AgentState]) -> list[Failure]:
        """Dead letters by agent and kind of error; read again only when their number changes."""
        dead: dict[str, int] = {}
        for agent in agents:
            if agent.group is not None and agent.group.dead:
                dead[agent.topic] = dead.get(agent.topic, 0) + agent.group.dead
        for topic, count in dead.items():
            if self._dead.get(topic, (0, []))[0] != count:
                self._dead[topic] = count, await self._letters(topic)
        return [one for topic in dead for one in self._dead[topic][1]]

    async def _letters(self, topic: str) -> list[Failure]:
        letters = await Fleet(self._app).dead_letters(topic, limit=_LETTERS)
        return _grouped(
            [
                Failure(
                    topic,
                    letter.agent,
                    "dead",
                    1,
                    letter.cause.type,
                    letter.cause.message,
                    letter.task_id,
                    letter.buried,
                    more=len(letters) == _LETTERS,
                )
                for letter in letters
            ]
        )

    async def _retrying(self, agents: list[AgentState]) -> list[Failure]:
        """What failed lately and will run again."""
        if not any(agent.group is not None and agent.group.waiting for agent in agents):
            return []
        runs = await self._app.tasks.newest(self._topic, _RUNS)
        return _grouped(
            [
                Failure(
                    run.topic,
                    run.agent,
                    "retrying",
                    1,
                    run.cause.type,
                    run.cause.message,
                    run.task_id,
                    run.finished_at,
                )
                for run in runs
                if run.status == "failed" and run.cause is not None
            ]
        )


def _grouped(failures: list[Failure]) -> list[Failure]:
    """One of each agent and kind of error: the newest, with their number."""
    found: dict[tuple[str, str, str], list[Failure]] = {}
    for failure in failures:
        found.setdefault((failure.topic, failure.agent, failure.type), []).append(failure)
    grouped = []
    for same in found.values():
        newest = max(same, key=lambda failure: failure.at)
        fields = {name: getattr(newest, name) for name in newest.__struct_fields__}
        grouped.append(Failure(**{**fields, "count": len(same)}))
    return grouped
