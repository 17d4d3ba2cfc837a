"""Health: whether workers live and the backends answer, found out from any process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import anyio
from msgspec import Struct

from omnidaemon.app import App
from omnidaemon.errors import OmniDaemonError
from omnidaemon.messages import GroupInfo
from omnidaemon.records import Roster, WorkerRecord
from omnidaemon.stores.base import Store
from omnidaemon.together import together
from omnidaemon.transports.base import Transport

FORGOTTEN_SECONDS = 86_400.0
"""A group without a worker for a day is worth a word."""


class Health(Struct, frozen=True):
    """What could be found out.

    Attributes:
        event_bus_type: Where events wait, as EVENT_BUS_TYPE calls it.
        workers: Those whose heartbeat is fresh, the oldest first.
        agents: What they listen to, as "topic/name".
        forgotten: Groups that no worker has served for a day.
        bus: What fails about the transport; None if it answers.
        storage: The same of the store.
        at: Unix time of the look, in seconds.
    """

    event_bus_type: str
    workers: list[WorkerRecord]
    agents: list[str]
    forgotten: list[GroupInfo]
    bus: str | None
    storage: str | None
    at: float

    @property
    def status(self) -> Literal["running", "degraded", "stopped"]:
        """Running while any worker lives, degraded while something fails."""
        if self.bus or self.storage or any(w.state == "degraded" for w in self.workers):
            return "degraded"
        return "running" if self.workers else "stopped"

    @property
    def errors(self) -> list[str]:
        """What fails."""
        return [text for text in (self.bus, self.storage) if text]

    def public(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "runner_id": self.workers[0].id if self.workers else None,
            "status": self.status,
            "event_bus_type": self.event_bus_type,
            "event_bus_connected": self.bus is None,
            "storage_healthy": self.storage is None,
            "subscribed_topics": sorted({agent.partition("/")[0] for agent in self.agents}),
            "registered_agents_count": len(self.agents),
            "uptime_seconds": max((self.at - w.started_at for w in self.workers), default=0.0),
            "workers": [_worker_public(worker, self.at) for worker in self.workers],
            "groups_without_worker": [
                {"topic": g.topic, "agent": g.name, "waiting": g.lag + g.leased + g.waiting}
                for g in self.forgotten
            ],
            "errors": self.errors,
        }


def _worker_public(worker: WorkerRecord, now: float) -> dict[str, Any]:
    return {
        "id": worker.id,
        "app": worker.app,
        "host": worker.host,
        "pid": worker.pid,
        "state": worker.state,
        "detail": worker.detail,
        "agents": worker.agents,
        "running": worker.running,
        "uptime_seconds": now - worker.started_at,
        "last_beat_seconds": now - worker.beat_at,
    }


def is_forgotten(group: GroupInfo) -> bool:
    """True if no worker has served the group for a day."""
    idle = group.seen is not None and group.seen < time.time() - FORGOTTEN_SECONDS
    return idle and not group.consumers


async def groups_of(transport: Transport, topics: Sequence[str]) -> list[list[GroupInfo]]:
    """The groups of each topic."""
    return await together(partial(transport.groups, topic) for topic in topics)


@dataclass
class _Look:
    """What the backends answered; what fails, by the backend."""

    workers: list[WorkerRecord] = field(default_factory=list)
    groups: list[GroupInfo] | None = None
    bus: str | None = None
    storage: str | None = None

    async def at_bus(self, transport: Transport) -> None:
        try:
            names = [topic.name for topic in await transport.topics()]
            self.groups = [one for found in await groups_of(transport, names) for one in found]
        except OmniDaemonError as error:
            self.bus = str(error)

    async def at_store(self, store: Store) -> None:
        try:
            self.workers = await Roster(store).workers()
        except OmniDaemonError as error:
            self.storage = str(error)


async def examine(app: App) -> Health:
    """Asks the transport and the store; what fails is in the answer, not raised."""
    look = _Look()
    async with anyio.create_task_group() as both:  # one after the other takes twice as long
        both.start_soon(look.at_bus, app.transport)
        both.start_soon(look.at_store, app.store)
    now = time.time()
    agents = {agent for worker in look.workers for agent in worker.agents}
    if look.groups is not None:  # an agent that was deleted stays in its worker's list
        agents &= {f"{group.topic}/{group.name}" for group in look.groups}
    return Health(
        event_bus_type=app.event_bus,
        workers=look.workers,
        agents=sorted(agents),
        forgotten=[group for group in look.groups or () if is_forgotten(group)],
        bus=look.bus,
        storage=look.storage,
        at=now,
    )
