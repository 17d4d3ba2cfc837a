"""`/agents`: what listens to which topic, told to pause, to go on, or deleted."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from omnidaemon.admin.answers import (
    AgentAnswer,
    AgentChange,
    AgentDeleted,
    CleanupAnswer,
    TopicDeleted,
)
from omnidaemon.admin.endpoints import Ask, Name, OptionalName, Section, TopicName
from omnidaemon.views import Cleanup

agents = Section("agents")


class AgentsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which agents."""

    topic: OptionalName | None = None


class DeleteAgentQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """What goes with an agent."""

    delete_group: bool = True
    delete_dlq: bool = False


@agents("GET", "/agents", scope="read")
async def list_agents(ask: Ask, query: AgentsQuery) -> list[AgentAnswer]:
    """All agents, by topic and name, wherever they run."""
    found = await ask.fleet.agents(query.topic or None)
    return [msgspec.convert(agent.public(), AgentAnswer) for agent in found]


@agents("GET", "/agents/{topic}/{name}", scope="read", errors=(404,))
async def get_agent(ask: Ask, topic: TopicName, name: Name) -> AgentAnswer:
    """One agent."""
    return msgspec.convert((await ask.fleet.agent(topic, name)).public(), AgentAnswer)


@agents("POST", "/agents/{topic}/{name}/unsubscribe", scope="admin", errors=(404,))
async def unsubscribe_agent(ask: Ask, topic: TopicName, name: Name) -> AgentChange:
    """Pauses an agent everywhere; its events queue."""
    await ask.fleet.pause(topic, name)
    return AgentChange("unsubscribed", topic, name, "it gets nothing more; its events queue")


@agents("POST", "/agents/{topic}/{name}/resume", scope="admin", errors=(404,))
async def resume_agent(ask: Ask, topic: TopicName, name: Name) -> AgentChange:
    """Lets a paused agent go on."""
    await ask.fleet.resume(topic, name)
    return AgentChange("resumed", topic, name, "it gets what has queued, and what comes")


@agents("DELETE", "/agents/topic/{topic}", scope="admin", errors=(404,))
async def delete_topic(ask: Ask, topic: TopicName) -> TopicDeleted:
    """Deletes a topic with its events, agents and dead letters."""
    found = await ask.fleet.delete_topic(topic)
    return TopicDeleted("deleted", topic, [_deleted(cleanup) for cleanup in found])


@agents("DELETE", "/agents/{topic}/{name}", scope="admin", errors=(404,))
async def delete_agent(
    ask: Ask, topic: TopicName, name: Name, query: DeleteAgentQuery
) -> AgentDeleted:
    """Deletes an agent: its record, its group unless told otherwise, its dead letters if told."""
    cleanup = await ask.fleet.delete_agent(
        topic, name, group=query.delete_group, dead_letters=query.delete_dlq
    )
    return _deleted(cleanup)


def _deleted(cleanup: Cleanup) -> AgentDeleted:
    removed = CleanupAnswer(cleanup.storage_deleted, cleanup.group_deleted, cleanup.dlq_deleted)
    return AgentDeleted("deleted", cleanup.topic, cleanup.agent, removed)
