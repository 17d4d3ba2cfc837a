"""The overview: why tasks failed and what else needs somebody, then how much goes through."""

from __future__ import annotations

from typing import Any

import anyio
from msgspec import Struct
from starlette.responses import Response

from omnidaemon.admin.ui_drawing import alike
from omnidaemon.admin.ui_pages import Pages, Visit, once_for_all
from omnidaemon.admin.ui_rates import Counted, Rates, plotted
from omnidaemon.envelope import INTERNAL
from omnidaemon.errors import OmniDaemonError
from omnidaemon.health import Health
from omnidaemon.messages import GroupInfo, TopicInfo
from omnidaemon.records import RunRecord
from omnidaemon.views import BusStats, TopicStats
from omnidaemon.webhooks import TOPIC as WEBHOOKS

overview = Pages("Overview", "/", "overview")

_SHOWN = 5
_LOOKED = 60
"""Failed runs looked at, of which like ones are shown as one."""


class Failure(Struct):
    """Runs of one agent that failed alike.

    Attributes:
        run: The newest of them.
        count: How many, among those that were looked at.
        more: Whether there are older failures that were not looked at.
    """

    run: RunRecord
    count: int = 1
    more: bool = False


class Row(Struct, frozen=True):
    """A topic in the table, its groups taken together."""

    name: str
    agents: int
    rates: Counted
    lag: int
    leased: int
    waiting: int
    delayed: int
    dead: int
    oldest: float | None


class Glance(Struct, frozen=True):
    """All that the page shows, asked for once for all who look.

    Attributes:
        health: Which workers live, and what fails.
        stats: Topics and groups; None while the transport does not answer.
        failures: What went wrong last, the newest first.
        rates: Per second, of all agents.
    """

    health: Health
    stats: BusStats | None
    failures: list[Failure]
    rates: dict[tuple[str, str], Counted]

    @property
    def groups(self) -> list[GroupInfo]:
        """Of all topics."""
        return (
            [group for topic in self.stats.topics for group in topic.groups] if self.stats else []
        )

    @property
    def unserved(self) -> list[GroupInfo]:
        """Groups in which something waits, and no worker takes it."""
        return [
            group
            for group in self.groups
            if not group.consumers and group.lag + group.leased + group.waiting
        ]

    @property
    def paused(self) -> list[GroupInfo]:
        """Groups that hand out nothing because somebody said so."""
        return [group for group in self.groups if group.paused]

    @property
    def unheard(self) -> list[TopicInfo]:
        """Topics with events that no agent listens to."""
        topics = self.stats.topics if self.stats else []
        return [
            topic.info
            for topic in topics
            if topic.info.events and not topic.groups and not topic.info.name.startswith(INTERNAL)
        ]

    @property
    def undelivered(self) -> int:
        """Posts to webhooks that were given up."""
        return sum(group.dead for group in self.groups if group.topic == WEBHOOKS)

    @property
    def posts(self) -> int:
        """Posts to webhooks that have failed and will be tried again."""
        return sum(group.waiting for group in self.groups if group.topic == WEBHOOKS)

    @property
    def rows(self) -> list[Row]:
        """The table."""
        return [_row(topic, self.rates) for topic in self.stats.topics] if self.stats else []

    @property
    def total(self) -> Counted:
        """Per second, of all agents together."""
        found = Counted()
        for rates in self.rates.values():
            found = found.plus(rates)
        return found


@overview("GET", "/", scope="read")
async def show_overview(visit: Visit) -> Response:
    """The first page."""
    rates: Rates = visit.shared["rates"]
    glance: Glance = await once_for_all(visit, "glance", 1.0, lambda: _look(visit, rates))
    return visit.render(
        "overview.html", glance=glance, health=glance.health, plot=plotted(rates.bars())
    )


async def _look(visit: Visit, rates: Rates) -> Glance:
    found: dict[str, Any] = {}

    async def at_health() -> None:
        found["health"] = await visit.fleet.health()

    async def at_bus() -> None:
        try:
            found["stats"] = await visit.fleet.stats()
        except OmniDaemonError:
            found["stats"] = None  # why, health says

    async def at_store() -> None:
        try:
            await rates.sample()
            found["failures"] = await _failures(visit)
        except OmniDaemonError:
            found["failures"] = []

    async with anyio.create_task_group() as group:
        for look in (at_health, at_bus, at_store):
            group.start_soon(look)
    return Glance(found["health"], found["stats"], found["failures"], rates.per_second())


async def _failures(visit: Visit) -> list[Failure]:
    index = visit.app.tasks.index
    dead = await index.failed("dead", limit=_LOOKED)
    again = await index.failed("failed", limit=_LOOKED)
    kinds: dict[tuple[str, ...], Failure] = {}
    for run in sorted([*dead.runs, *again.runs], key=lambda run: -run.finished_at):
        cause = run.cause
        what = (cause.type, alike(cause.message)) if cause else ("", "")
        older = (dead if run.status == "dead" else again).place is not None
        found = kinds.setdefault((run.status, run.topic, run.agent, *what), Failure(run, 0, older))
        found.count += 1
    return list(kinds.values())[:_SHOWN]


def _row(topic: TopicStats, rates: dict[tuple[str, str], Counted]) -> Row:
    groups = topic.groups
    total = Counted()
    for group in groups:
        total = total.plus(rates.get((group.topic, group.name), Counted()))
    return Row(
        topic.info.name,
        len(groups),
        total,
        sum(group.lag for group in groups),
        sum(group.leased for group in groups),
        sum(group.waiting for group in groups),
        topic.info.delayed,
        topic.info.dead,
        min((group.oldest for group in groups if group.oldest is not None), default=None),
    )
