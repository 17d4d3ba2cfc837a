"""The Fleet: what people ask of all workers, agents, topics and records, from any process."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection
from typing import Any, Literal

from omnidaemon.app import App
from omnidaemon.envelope import INTERNAL, check_name, dump, load
from omnidaemon.errors import AgentNotFound, InvalidSettings, TaskNotFound
from omnidaemon.exposition import FleetNumbers
from omnidaemon.health import Health, examine, groups_of
from omnidaemon.messages import GroupInfo, TopicInfo, Write
from omnidaemon.records import (
    AGENTS,
    CONFIG,
    METRICS,
    RESULTS,
    TENANT_METRICS,
    TENANT_RESULTS,
    AgentMetrics,
    Metrics,
    Roster,
    checked_limit,
)
from omnidaemon.run_index import CAUSES, CORRELATIONS, FAILURES
from omnidaemon.views import (
    AgentState,
    BusStats,
    Cleanup,
    Letter,
    StoredEvent,
    TopicStats,
    read_event,
    read_letter,
)

MOST = 10_000
"""Dead letters and records looked through at most; the transports keep no more letters."""

Clearable = Literal["agents", "results", "metrics", "all"]
_COLLECTIONS = {"agents": AGENTS, "results": RESULTS, "metrics": METRICS}
# What finds and counts them per tenant goes with them.
_SHARES = {
    "results": (TENANT_RESULTS, CAUSES, CORRELATIONS, FAILURES),
    "metrics": (TENANT_METRICS,),
}


class Fleet:
    """All that an app's backends know, and what may be done about it.

    Args:
        app: Whose backends; its own agents do not matter.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def health(self) -> Health:
        """Which workers live, and whether the backends answer; raises nothing of theirs."""
        return await examine(self._app)

    # Agents

    async def agents(self, topic: str | None = None) -> list[AgentState]:
        """Agents that are registered or have a group, by topic and name; not internal ones."""
        records = {(a.topic, a.name): a for a in await Roster(self._app.store).agents()}
        groups = {(g.topic, g.name): g for g in await self._groups(topic)}
        return [
            AgentState(*key, records.get(key), groups.get(key))
            for key in sorted(records.keys() | groups.keys())
            if (topic is None and not key[0].startswith(INTERNAL)) or key[0] == topic
        ]

    async def agent(self, topic: str, name: str) -> AgentState:
        """One agent.

        Raises:
            AgentNotFound: It is not registered and has no group.
        """
        agents = await self.agents(topic)
        for agent in agents:
            if agent.name == name:
                return agent
        raise AgentNotFound(_unknown_agent(topic, name, [agent.name for agent in agents]))

    async def pause(self, topic: str, name: str) -> None:
        """The agent gets nothing more, wherever it runs; its events queue.

        Raises:
            AgentNotFound: It has no group.
        """
        if not await self._app.transport.pause(topic, name):
            await self._raise_unknown(topic, name)

    async def resume(self, topic: str, name: str) -> None:
        """Undoes `pause`.

        Raises:
            AgentNotFound: It has no group.
        """
        if not await self._app.transport.resume(topic, name):
            await self._raise_unknown(topic, name)

    async def delete_agent(
        self, topic: str, name: str, *, group: bool = True, dead_letters: bool = False
    ) -> Cleanup:
        """Removes an agent; a worker that runs it goes on with its other agents.

        Args:
            topic: What it listens to.
            name: Its name.
            group: True removes its group with what waits in it; with False a worker that runs it
                writes it down again.
            dead_letters: True removes its dead letters too.

        Raises:
            AgentNotFound: There was nothing to remove.
        """
        transport = self._app.transport
        discarded = await transport.discard(topic, name) if dead_letters else 0
        removed = group and await transport.remove_group(topic, name, dead_letters=dead_letters)
        forgotten = await Roster(self._app.store).forget(topic, name)
        if not (discarded or removed or forgotten):
            await self.agent(topic, name)
        return Cleanup(topic, name, bool(forgotten), bool(removed), bool(discarded))

    async def delete_topic(self, topic: str) -> list[Cleanup]:
        """Removes a topic with its events, agents and dead letters; one answer per agent.

        Raises:
            AgentNotFound: There is no such topic.
        """
        agents = await self.agents(topic)
        if not await self._app.transport.remove_topic(topic) and not agents:
            await self._raise_unknown(topic)
        await Roster(self._app.store).forget(topic, *(agent.name for agent in agents))
        return [
            Cleanup(
                topic,
                agent.name,
                agent.record is not None,
                agent.group is not None,
                agent.group is not None and agent.group.dead > 0,
            )
            for agent in agents
        ]

    # Topics and dead letters

    async def topics(self) -> list[TopicInfo]:
        """All topics, by name; internal ones only once something has been in them."""
        topics = await self._app.transport.topics()
        return [t for t in topics if t.events or t.dead or not t.name.startswith(INTERNAL)]

    async def groups(self, topic: str) -> list[GroupInfo]:
        """The topic's groups, by name.

        Raises:
            AgentNotFound: There is no such topic.
        """
        found = await self._app.transport.groups(topic)
        if not found:
            await self._check_known(topic)
        return found

    async def events(
        self, topic: str, *, limit: int = 10, delayed: bool = False
    ) -> list[StoredEvent]:
        """The newest events of a topic, newest first; or the delayed ones, by when they are due.

        Raises:
            AgentNotFound: There is no such topic.
        """
        transport = self._app.transport
        look = transport.delayed if delayed else transport.browse
        found = await look(topic, checked_limit(limit))
        if not found:
            await self._check_known(topic)
        return [read_event(event) for event in found]

    async def dead_letters(
        self, topic: str, agent: str | None = None, *, limit: int = 10
    ) -> list[Letter]:
        """What agents of the topic gave up, newest first.

        Raises:
            AgentNotFound: There is no such topic, or no such agent.
        """
        letters = await self._app.transport.dead_letters(topic, agent, limit=checked_limit(limit))
        if not letters:
            await self._check_known(topic, agent)
        return [read_letter(letter) for letter in letters]

    async def replay(
        self, topic: str, ids: Collection[str] | None = None, agent: str | None = None
    ) -> int:
        """Hands dead letters back to the agents that gave them up; returns how many.

        Args:
            topic: Where they came from.
            ids: Task ids or positions; None takes all.
            agent: Only what this agent gave up.

        Raises:
            TaskNotFound: One of the ids names no dead letter; nothing was done.
            AgentNotFound: There is no such topic, or no such agent.
        """
        transport = self._app.transport
        chosen = await self._chosen(topic, ids, agent)
        return sum([await transport.replay(topic, who, at) for who, at in chosen])

    async def discard(
        self, topic: str, ids: Collection[str] | None = None, agent: str | None = None
    ) -> int:
        """Removes dead letters for good; otherwise as `replay`."""
        transport = self._app.transport
        chosen = await self._chosen(topic, ids, agent)
        return sum([await transport.discard(topic, who, at) for who, at in chosen])

    async def stats(self) -> BusStats:
        """Lengths, groups, lag, what is pending and dead letters, of each topic and of all."""
        found = await self.topics()
        asked = await groups_of(self._app.transport, [info.name for info in found])
        topics = [TopicStats(*pair) for pair in zip(found, asked, strict=True)]
        groups = [group for topic in topics for group in topic.groups]
        return BusStats(
            topics,
            events=sum(topic.info.events for topic in topics),
            size=sum(topic.info.size for topic in topics),
            delayed=sum(topic.info.delayed for topic in topics),
            lag=sum(group.lag for group in groups),
            pending=sum(group.leased + group.waiting for group in groups),
            dead=sum(topic.info.dead for topic in topics),
            memory=sum(topic.info.memory for topic in topics),
        )

    # Records

    async def metrics(
        self,
        topic: str | None = None,
        *,
        limit: int | None = None,
        tenant_id: str | None = None,
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Tasks received, processed and failed, and their mean time, by topic and agent.

        Args:
            topic: Only this topic's agents.
            limit: At most so many agents; None for all.
            tenant_id: Only this tenant's tasks, and only what has ended: what runs now is known
                per agent alone.
        """
        if limit is not None:
            checked_limit(limit)
        by_topic = await Metrics(self._app.store).totals(topic, tenant_id=tenant_id)
        running: dict[tuple[str, str], int] = {}
        if tenant_id is None:
            running = {(g.topic, g.name): g.leased for g in await self._groups(topic)}
        totals = {(t, name): m for t, agents in by_topic.items() for name, m in agents.items()}
        found: defaultdict[str, dict[str, dict[str, float]]] = defaultdict(dict)
        for name, agent in sorted(totals.keys() | running.keys())[:limit]:
            counted = totals.get((name, agent), AgentMetrics())
            ended = counted.processed + counted.failed
            found[name][agent] = {
                "tasks_received": ended + running.get((name, agent), 0),
                "tasks_processed": counted.processed,
                "tasks_failed": counted.failed,
                "avg_processing_time_sec": counted.average,
            }
        return dict(found)

    async def numbers(
        self, topic: str | None = None, *, tenant_id: str | None = None
    ) -> FleetNumbers:
        """What all agents have done, how far they are, and the workers; for Prometheus.

        Args:
            topic: Only this topic's agents.
            tenant_id: Only what this tenant's tasks counted: the rest is known of all alone.
        """
        found = await Metrics(self._app.store).totals(topic, tenant_id=tenant_id)
        totals = {(t, name): m for t, agents in found.items() for name, m in agents.items()}
        if tenant_id is not None:
            return FleetNumbers(totals, None, None, time.time())
        groups = await self._groups(topic)
        workers = await Roster(self._app.store).workers()
        return FleetNumbers(totals, groups, workers, time.time())

    async def clear(self, what: Clearable) -> dict[str, int]:
        """Removes records; what runs goes on, and its agents are soon written down again.

        Args:
            what: agents, results, metrics, or all of these and the configuration.

        Returns:
            How many records were removed, by their kind.

        Raises:
            InvalidSettings: `what` is none of these.
        """
        if what != "all" and what not in _COLLECTIONS:
            raise InvalidSettings(f"{what!r} cannot be cleared: agents, results, metrics or all")
        chosen = {**_COLLECTIONS, "config": CONFIG} if what == "all" else {what: _COLLECTIONS[what]}
        for name in _SHARES.keys() & chosen.keys():
            for share in _SHARES[name]:
                await self._app.store.clear(share)
        return {name: await self._app.store.clear(where) for name, where in chosen.items()}

    async def set_config(self, key: str, value: Any) -> None:
        """Keeps a value for other processes to read.

        Raises:
            InvalidSettings: The key is not usable.
            PayloadError: The value cannot travel.
        """
        name = check_name(key, "config key", InvalidSettings)
        await self._app.store.write(Write(CONFIG, name, dump(value, what="config value")))

    async def get_config(self, key: str, default: Any = None) -> Any:
        """The value kept under the key, or `default`."""
        [record] = await self._app.store.read(
            CONFIG, check_name(key, "config key", InvalidSettings)
        )
        return default if record is None else load(record.value)

    async def list_config(self) -> dict[str, Any]:
        """All values by key."""
        found = await self._app.store.browse(CONFIG, limit=MOST)
        return {record.key: load(record.value) for record in sorted(found, key=lambda r: r.key)}

    # Beneath

    async def _groups(self, topic: str | None) -> list[GroupInfo]:
        transport = self._app.transport
        if topic is not None:
            return await transport.groups(topic)
        names = [info.name for info in await self.topics()]
        return [group for found in await groups_of(transport, names) for group in found]

    async def _chosen(
        self, topic: str, ids: Collection[str] | None, agent: str | None
    ) -> list[tuple[str | None, list[str] | None]]:
        """The letters by group: a position is known within a group, and need not be so beyond."""
        if ids is None:
            if not await self._app.transport.dead_letters(topic, agent, limit=1):
                await self._check_known(topic, agent)
            return [(agent, None)]
        letters = await self._app.transport.dead_letters(topic, agent, limit=MOST)
        if not letters:
            await self._check_known(topic, agent)
        named = {name for letter in letters for name in (letter.id, letter.position)}
        if missing := sorted(set(ids) - named):
            raise TaskNotFound(
                f"no dead letter {', '.join(map(repr, missing))} of topic {topic!r}; nothing was "
                f"done. See: omnidaemon bus dlq --topic {topic}"
            )
        chosen: defaultdict[str | None, list[str]] = defaultdict(list)
        for letter in letters:
            if letter.id in ids or letter.position in ids:
                chosen[letter.group].append(letter.position)
        return list(chosen.items())

    async def _check_known(self, topic: str, agent: str | None = None) -> None:
        """Raises if the name is misspelt: nothing found is another answer than nothing there."""
        topics = [info.name for info in await self._app.transport.topics()]
        if topic not in topics:
            known = ", ".join(topics[:10]) or "none yet"
            raise AgentNotFound(f"there is no topic {topic!r}; known are: {known}")
        groups = [group.name for group in await self._app.transport.groups(topic)]
        if agent is not None and agent not in groups:
            raise AgentNotFound(_unknown_agent(topic, agent, groups))

    async def _raise_unknown(self, topic: str, agent: str | None = None) -> None:
        await self._check_known(topic, agent)
        raise AgentNotFound(f"topic {topic!r} was changed meanwhile: try again")


def _unknown_agent(topic: str, name: str, known: list[str]) -> str:
    return (
        f"topic {topic!r} has no agent {name!r}; known are: {', '.join(known[:10]) or 'none yet'}"
    )
