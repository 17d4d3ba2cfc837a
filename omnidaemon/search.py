"""Looking for tasks: what has run, a page at a time, and what is open and has no record yet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import msgspec
from msgspec import Struct

from omnidaemon.app import App
from omnidaemon.envelope import INTERNAL, Envelope, check_id, decode
from omnidaemon.errors import DecodeError, PayloadError, TaskNotFound
from omnidaemon.health import groups_of
from omnidaemon.messages import Event, GroupInfo, TopicInfo
from omnidaemon.records import Roster, RunRecord, checked_limit
from omnidaemon.run_index import Slice
from omnidaemon.tasks import TaskStatus
from omnidaemon.together import together

LOOKED_MOST = 2_000
"""Records looked through for one page; where to go on stands on it."""
STEP = 250
OPEN_EVENTS = 100
"""The newest events of a topic among which open ones are looked for; bodies may be large."""
OPEN_DELAYED = 20
"""Delayed events of a topic, those that are due first."""
OPEN_TOPICS = 50
LOCATED_MOST = 50
"""Events whose place is asked for one by one, because no count tells it."""


class Wanted(Struct, frozen=True):
    """Which tasks; None takes any.

    Attributes:
        topic: Where they were published.
        agent: Who runs them.
        status: Where they stand.
        tenant_id: Whose they are.
        correlation_id: What they belong to.
    """

    topic: str | None = None
    agent: str | None = None
    status: TaskStatus | None = None
    tenant_id: str | None = None
    correlation_id: str | None = None


class RunPage(Struct, frozen=True):
    """Runs as recorded, newest first.

    Attributes:
        runs: What was looked for.
        looked: How many records were looked at for it.
        place: Where older ones begin; None if there are none.
    """

    runs: list[RunRecord]
    looked: int
    place: str | None


class OpenRun(Struct, frozen=True):
    """An event that an agent has not dealt with yet.

    Attributes:
        task_id: The event's id.
        topic: Its topic.
        agent: Who is to run it; None if nobody listens, or while it is delayed.
        status: pending or running.
        stored_at: Unix time, in seconds; 0 while it is delayed.
        tenant_id: As in the envelope.
        correlation_id: As in the envelope.
        due: While it is delayed, when that is over, in Unix time.
    """

    task_id: str
    topic: str
    agent: str | None
    status: Literal["pending", "running"]
    stored_at: float
    tenant_id: str | None = None
    correlation_id: str | None = None
    due: float | None = None


class OpenPage(Struct, frozen=True):
    """What is open, as far as it was looked for.

    Attributes:
        runs: Newest first, then those that are delayed, by when they are due.
        beyond: Events that wait or run and were not looked at; about so many.
        delayed: Events that are delayed and were not looked at.
    """

    runs: list[OpenRun]
    beyond: int
    delayed: int


class Search:
    """Finds tasks.

    Args:
        app: Whose backends are asked.
    """

    def __init__(self, app: App) -> None:
        self._transport = app.transport
        self._tasks = app.tasks
        self._roster = Roster(app.store)

    async def exact(self, text: str) -> str | None:
        """The text itself, if it is the id of a task that is known here."""
        try:
            check_id(text)
            await self._tasks.get(text)
        except (PayloadError, TaskNotFound):
            return None
        return text

    # What has run

    async def runs(self, wanted: Wanted, *, limit: int = 50, before: str | None = None) -> RunPage:
        """Recorded runs; where no index tells, a bounded number of records is looked through.

        Args:
            wanted: Which.
            limit: At most so many.
            before: The `place` of an earlier page of the same search.

        Raises:
            InvalidSettings: `before` is no such place, or the limit is none.
        """
        checked_limit(limit)
        if wanted.status in ("pending", "running", "cancelled"):
            return RunPage([], 0, None)  # no record says that
        if wanted.agent is not None and wanted.topic is None:
            wanted = await self._narrowed(wanted)
        found: list[RunRecord] = []
        looked, step = 0, limit
        while True:
            slice_ = await self._slice(wanted, step, before)
            kept = slice_.only(lambda run: _fits(run, wanted))
            missing = limit - len(found)
            found += kept.runs[:missing]
            if len(kept.runs) > missing or (len(kept.runs) == missing and slice_.place):
                return RunPage(found, looked + slice_.looked, kept.places[missing - 1])
            looked += slice_.looked
            before, step = slice_.place, STEP
            if before is None or looked >= LOOKED_MOST:
                return RunPage(found, looked, before)

    async def _narrowed(self, wanted: Wanted) -> Wanted:
        """With the agent's topic, if it has one alone: an index leads to that."""
        registered = await self._roster.agents()
        topics = {agent.topic for agent in registered if agent.name == wanted.agent}
        [topic] = topics if len(topics) == 1 else [None]
        return msgspec.structs.replace(wanted, topic=topic)

    async def _slice(self, wanted: Wanted, limit: int, before: str | None) -> Slice:
        """From the index that leaves the least to look through."""
        index = self._tasks.index
        if wanted.correlation_id is not None:
            return await index.correlated(wanted.correlation_id, limit=limit, before=before)
        if wanted.tenant_id is not None:
            # Before failures: where a page ends, and how far it looked, tells of what it passed.
            tenant, topic = wanted.tenant_id, wanted.topic
            return await index.of_tenant(tenant, topic, limit=limit, before=before)
        if wanted.status in ("failed", "dead"):
            return await index.failed(wanted.status, limit=limit, before=before)
        return await index.newest(wanted.topic, limit=limit, before=before)

    # What is open

    async def open(self, wanted: Wanted) -> OpenPage:
        """Events among the newest of their topics that some agent has yet to run, or runs now."""
        if wanted.status not in (None, "pending", "running"):
            return OpenPage([], 0, 0)
        topics = [
            topic
            for topic in await self._transport.topics()
            if topic.name == wanted.topic
            or (wanted.topic is None and not topic.name.startswith(INTERNAL))
        ]
        groups = await groups_of(self._transport, [topic.name for topic in topics])
        busy = [
            pair
            for pair in zip(topics, groups, strict=True)
            if _count_open(pair[0], pair[1], wanted.agent)
        ]
        browsed = busy[:OPEN_TOPICS]
        browse = self._transport.browse
        newest = await together(partial(browse, topic.name, OPEN_EVENTS) for topic, _ in browsed)
        found: list[OpenRun] = []
        budget = [LOCATED_MOST]
        for (topic, its_groups), events in zip(browsed, newest, strict=True):
            found += await self._open_in(topic.name, events, its_groups, budget)
        seen = len({(run.task_id, run.topic, run.agent) for run in found})
        total = sum(_count_open(*pair, wanted.agent) for pair in busy)
        found = [run for run in found if _suits(run, wanted)]
        found.sort(key=lambda run: run.stored_at, reverse=True)
        names = {
            topic.name: topic.delayed
            for topic, its_groups in zip(topics, groups, strict=True)
            if topic.delayed and wanted.agent in (None, *(group.name for group in its_groups))
        }
        delayed = await self._delayed(list(names), wanted)
        later = sum(names.values()) - len(delayed)
        found += [run for run in delayed if _suits(run, wanted)]
        return OpenPage(found, max(0, total - seen), max(0, later))

    async def _delayed(self, names: Sequence[str], wanted: Wanted) -> list[OpenRun]:
        """Those that are due first of each topic; for the agent that is wanted, as it gets them."""
        look = self._transport.delayed
        found = await together(partial(look, name, OPEN_DELAYED) for name in names[:OPEN_TOPICS])
        runs = [
            _opened(event, _head(event), name, wanted.agent, "pending")
            for name, events in zip(names, found, strict=False)
            for event in events
        ]
        return sorted(runs, key=lambda run: run.due or 0.0)

    async def _open_in(
        self,
        topic: str,
        events: Sequence[Event],
        groups: Sequence[GroupInfo],
        budget: list[int],
    ) -> list[OpenRun]:
        """The open ones of these events, newest first.

        Those that no consumer was ever given are told by the groups' counts; of the rest, where
        some may still be held, each is asked for while the budget lasts.
        """
        found: list[OpenRun] = []
        asked: list[tuple[Event, Envelope | None]] = []
        for number, event in enumerate(events):
            head = _head(event)
            if not groups:
                found.append(_opened(event, head, topic, None, "pending"))
                continue
            waiting = [group for group in groups if number < group.lag]
            found += [_opened(event, head, topic, group.name, "pending") for group in waiting]
            held = any(g.leased + g.waiting for g in groups if g not in waiting)
            if held and budget[0] > 0:
                budget[0] -= 1
                asked.append((event, head))
        known = {(run.task_id, run.agent) for run in found}
        locate = self._transport.locate
        places = await together(partial(locate, event.id, topic) for event, _ in asked)
        for (event, head), its_places in zip(asked, places, strict=True):
            for place in its_places:
                if (event.id, place.group) in known:
                    continue
                if place.state == "running" or place.state == "pending":
                    found.append(_opened(event, head, topic, place.group, place.state))
        return found


def _count_open(topic: TopicInfo, groups: Sequence[GroupInfo], agent: str | None) -> int:
    """About how many deliveries of the topic are open."""
    if not groups:
        return topic.events if agent is None else 0
    return sum(g.lag + g.leased + g.waiting for g in groups if agent in (None, g.name))


def _opened(
    event: Event,
    head: Envelope | None,
    topic: str,
    agent: str | None,
    status: Literal["pending", "running"],
) -> OpenRun:
    tenant_id = head.tenant_id if head else None
    correlation_id = head.correlation_id if head else None
    return OpenRun(
        event.id, topic, agent, status, event.stored, tenant_id, correlation_id, event.due
    )


def _head(event: Event) -> Envelope | None:
    try:
        return decode(event.body)
    except DecodeError:
        return None  # it is open all the same, until a worker has found that out


def _fits(run: RunRecord, wanted: Wanted) -> bool:
    return (
        wanted.topic in (None, run.topic)
        and wanted.agent in (None, run.agent)
        and wanted.status in (None, run.status)
        and wanted.tenant_id in (None, run.tenant_id)
        and wanted.correlation_id in (None, run.correlation_id)
    )


def _suits(run: OpenRun, wanted: Wanted) -> bool:
    return (
        wanted.agent in (None, run.agent)
        and wanted.status in (None, run.status)
        and wanted.tenant_id in (None, run.tenant_id)
        and wanted.correlation_id in (None, run.correlation_id)
    )
