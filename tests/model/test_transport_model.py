"""A state machine of publishing, consuming, crashing and replaying, against a plain model.

The model keeps, for each event in each group, where it is and how often it ran. After every step
the backend must say the same of each group; at the end every event is worked off, once each.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from omnidaemon import transports
from omnidaemon.messages import (
    Ack,
    Action,
    Bury,
    Delivery,
    Message,
    Release,
    RetryAfter,
    Settlement,
)
from omnidaemon.transports.base import Limits, Subscription

# No sum of the steps in which time goes equals the lease or the delay, so that nothing hangs on
# whether a moment belongs to what it ends.
LEASE, DELAY, STEPS = 10.0, 4.0, (3.0, 6.0, 11.0)
ACTIONS: dict[str, Action] = {
    "ack": Ack(),
    "retry": RetryAfter(DELAY),
    "bury": Bury(b"no"),
    "release": Release(),
}
# Seconds of work on a quiet machine; one that is busy with others may need many times that.
pytestmark = pytest.mark.timeout(300)

GROUPS = ("mail", "bill", "ship")
boards = count()


@dataclass
class Run:
    """An event in a group, as it should be."""

    state: str = "new"  # new, held, waiting, done, dead
    attempt: int = 1
    crashes: int = 0
    replays: int = 0
    since: float = 0.0  # held: leased or renewed; waiting: due
    token: Any = None
    ended: int = 0  # how often an ack or a burial was applied and not taken back by a replay


@dataclass
class Queue:
    """A group, as it should be."""

    runs: dict[str, Run] = field(default_factory=dict)
    paused: bool = False

    def unsettled(self) -> list[str]:
        return [event for event, run in self.runs.items() if run.state not in ("done", "dead")]

    def starts_late_groups(self) -> list[str]:
        """What a group that joins gets too: not what was replayed, which is this group's alone."""
        return [event for event in self.unsettled() if not self.runs[event].replays]

    def number(self, state: str) -> int:
        return sum(run.state == state for run in self.runs.values())


class TransportMachine(RuleBasedStateMachine):
    """Does to a backend and to the model the same."""

    scheme: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.now = 1_000.0
        self.folder = tempfile.TemporaryDirectory()
        name = f"//model{next(boards)}" if self.scheme == "memory" else self._file()
        self.transport = transports.connect(
            f"{self.scheme}:{name}", limits=Limits(retention=2), clock=lambda: self.now
        )
        self.events: list[str] = []
        self.queues: dict[str, Queue] = {}
        self.consumers: list[Subscription] = []
        self.places: list[AbstractAsyncContextManager[Subscription]] = []
        self.handed: list[tuple[Subscription, Delivery]] = []
        self.living: list[Subscription] = []

    def _file(self) -> str:
        return str(Path(self.folder.name, "model.db"))

    def run_(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return self.loop.run(wait())

    # Steps

    @rule(number=st.integers(1, 4))
    def publish(self, number: int) -> None:
        new = [f"e{len(self.events) + n}" for n in range(number)]
        self.run_(self.transport.publish(*(Message("t", e, e.encode()) for e in new)))
        self.events += new
        for queue in self.queues.values():
            queue.runs |= {event: Run() for event in new}

    @precondition(lambda self: len(self.consumers) < 5)
    @rule(group=st.sampled_from(GROUPS))
    def subscribe(self, group: str) -> None:
        place = self.transport.subscribe("t", group, lease=LEASE)
        consumer = self.run_(place.__aenter__())
        self.places.append(place)
        self.consumers.append(consumer)
        if group not in self.queues:
            waiting = [e for q in self.queues.values() for e in q.starts_late_groups()]
            start = min(
                map(self.events.index, waiting), default=len(self.events) if self.queues else 0
            )
            self.queues[group] = Queue({event: Run() for event in self.events[start:]})
            assert consumer.backlog == len(self.events) - start
            living = self.transport.subscribe("t", group, lease=LEASE)
            self.living.append(self.run_(living.__aenter__()))
            self.places.append(living)

    @precondition(lambda self: self.consumers)
    @rule(data=st.data(), limit=st.integers(1, 5))
    def receive(self, data: st.DataObject, limit: int) -> None:
        self._receive(data.draw(st.sampled_from(self.consumers)), limit)

    def _receive(self, consumer: Subscription, limit: int) -> list[Delivery]:
        queue = self.queues[consumer.consumer.group]
        again = {e for e, run in queue.runs.items() if self._is_due_again(run)}
        new = [e for e, run in queue.runs.items() if run.state == "new"]
        got: list[Delivery] = list(self.run_(consumer.receive(limit, 0)))
        if queue.paused:
            assert got == []
            return got
        assert len(got) == min(limit, len(again) + len(new))
        first = min(limit, len(again))
        assert {d.id for d in got[:first]} <= again, "what is due again comes first"
        assert len({d.id for d in got[:first]}) == first, "each once"
        assert [d.id for d in got[first:]] == new[: len(got) - first], "new ones in order"
        for delivery in got:
            run = queue.runs[delivery.id]
            run.crashes += run.state == "held"
            assert delivery.body == delivery.id.encode()
            assert (delivery.attempt, delivery.crashes, delivery.replays) == (
                run.attempt,
                run.crashes,
                run.replays,
            )
            assert delivery.token != run.token
            run.state, run.since, run.token = "held", self.now, delivery.token
            self.handed.append((consumer, delivery))
        return got

    def _is_due_again(self, run: Run) -> bool:
        if run.state == "held":
            return run.since + LEASE < self.now
        return run.state == "waiting" and run.since <= self.now

    @precondition(lambda self: self.consumers)
    @rule(data=st.data(), limit=st.integers(1, 5), action=st.sampled_from(sorted(ACTIONS)))
    def work(self, data: st.DataObject, limit: int, action: str) -> None:
        """Receives and settles at once: `settle` alone mostly meets what was settled before."""
        consumer = data.draw(st.sampled_from(self.consumers))
        got = self._receive(consumer, limit)
        self._settle(consumer, got, [action] * len(got))

    @precondition(lambda self: self.handed)
    @rule(data=st.data(), number=st.integers(1, 4))
    def settle(self, data: st.DataObject, number: int) -> None:
        consumer, _ = data.draw(st.sampled_from(self.handed))
        deliveries = [delivery for one, delivery in self.handed if one is consumer][-number:]
        actions = [data.draw(st.sampled_from(sorted(ACTIONS))) for _ in deliveries]
        self._settle(consumer, deliveries, actions)

    def _settle(
        self, consumer: Subscription, deliveries: list[Delivery], actions: list[str]
    ) -> None:
        settlements = [
            Settlement(delivery, ACTIONS[action])
            for delivery, action in zip(deliveries, actions, strict=True)
        ]
        verdicts = self.run_(consumer.settle(settlements))
        assert len(verdicts) == len(deliveries)
        for delivery, action, verdict in zip(deliveries, actions, verdicts, strict=True):
            run = self.queues[delivery.group].runs[delivery.id]
            if not self._is_held(delivery):
                assert verdict in ("lost", "repeated")
                continue
            assert verdict == "applied"
            if action in ("ack", "bury"):
                run.state = "done" if action == "ack" else "dead"
                run.ended += 1
            else:
                run.state = "waiting"
                run.since = self.now + (DELAY if action == "retry" else 0.0)
                run.attempt += action == "retry"

    def _is_held(self, delivery: Delivery) -> bool:
        run = self.queues[delivery.group].runs[delivery.id]
        return run.state == "held" and run.token == delivery.token

    @precondition(lambda self: self.handed)
    @rule(data=st.data(), pause=st.sampled_from([0.0, 6.0]))
    def renew(self, data: st.DataObject, pause: float) -> None:
        consumer, _ = data.draw(st.sampled_from(self.handed))
        self.elapse(pause)
        self._renew(consumer)
        self.elapse(pause)  # two pauses are longer than a lease

    def _renew(self, consumer: Subscription) -> None:
        deliveries = [delivery for one, delivery in self.handed if one is consumer]
        lost = self.run_(self.transport.renew(consumer.consumer, deliveries))
        assert lost == [d for d in deliveries if not self._is_held(d)]
        for delivery in deliveries:
            if self._is_held(delivery):
                self.queues[delivery.group].runs[delivery.id].since = self.now

    @rule(seconds=st.sampled_from(STEPS))
    def elapse(self, seconds: float) -> None:
        """One in each group lives on: with nobody heard of, leases might be given once more."""
        while seconds > 0:
            self.now += min(seconds, LEASE / 3)
            seconds -= LEASE / 3
            for consumer in self.living:
                assert self.run_(self.transport.renew(consumer.consumer, [])) == []

    @precondition(lambda self: any(queue.number("dead") for queue in self.queues.values()))
    @rule(data=st.data(), one=st.booleans())
    def replay(self, data: st.DataObject, one: bool) -> None:
        group = data.draw(st.sampled_from([g for g, q in self.queues.items() if q.number("dead")]))
        dead = self.run_(self.transport.dead_letters("t", group, limit=1_000))
        chosen = [data.draw(st.sampled_from(dead))] if one else dead
        positions = [letter.position for letter in chosen] if one else None
        assert self.run_(self.transport.replay("t", group, positions)) == len(chosen)
        for letter in chosen:
            run = self.queues[group].runs[letter.id]
            assert run.state == "dead"
            run.state, run.since, run.ended = "waiting", self.now, run.ended - 1
            run.attempt, run.crashes, run.replays = 1, 0, run.replays + 1

    @precondition(lambda self: self.queues)
    @rule(data=st.data())
    def pause_or_resume(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(sorted(self.queues)))
        queue = self.queues[group]
        change = self.transport.resume if queue.paused else self.transport.pause
        assert self.run_(change("t", group))
        queue.paused = not queue.paused

    # What must hold

    @invariant()
    def every_group_is_where_it_should_be(self) -> None:
        infos = {info.name: info for info in self.run_(self.transport.groups("t"))}
        assert infos.keys() == self.queues.keys()
        for name, queue in self.queues.items():
            info = infos[name]
            states = [queue.number(state) for state in ("new", "held", "waiting", "dead")]
            assert [info.lag, info.leased, info.waiting, info.dead] == states
            assert info.paused == queue.paused

    def teardown(self) -> None:
        try:
            self._work_off()
        finally:
            for place in self.places:
                self.run_(place.__aexit__(None, None, None))
            self.run_(self.transport.close())
            self.loop.close()
            self.folder.cleanup()

    def _work_off(self) -> None:
        """Every consumer left crashes; others take over, until all has ended exactly once."""
        for group, queue in self.queues.items():
            if queue.paused:
                self.run_(self.transport.resume("t", group))
                queue.paused = False
        self.elapse(2 * LEASE + 1)
        for consumer in self.consumers:
            while got := self._receive(consumer, 3):
                self._settle(consumer, got, ["ack"] * len(got))
        for queue in self.queues.values():
            assert queue.unsettled() == []
            assert {run.ended for run in queue.runs.values()} <= {1}


class MemoryMachine(TransportMachine):
    scheme = "memory"


class SQLiteMachine(TransportMachine):
    scheme = "sqlite+fast"


class TestMemory(MemoryMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(max_examples=300, stateful_step_count=40)


class TestSQLite(SQLiteMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(max_examples=100, stateful_step_count=40)
