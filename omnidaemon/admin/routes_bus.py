"""`/bus`: topics, groups, events and dead letters."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from omnidaemon.admin.answers import (
    Discarded,
    EventAnswer,
    GroupAnswer,
    LetterAnswer,
    Refused,
    Replayed,
    StatsAnswer,
    TopicAnswer,
)
from omnidaemon.admin.endpoints import Ask, Name, OptionalName, Section
from omnidaemon.letters import Letters
from omnidaemon.views import group_public

bus = Section("bus")

# Bodies may have a megabyte each.
Few = Annotated[int, Meta(ge=1, le=1000)]


class EventsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """How many events, and if only those whose delay is not over."""

    limit: Few = 10
    delayed: bool = False


class LettersQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead letters."""

    agent: OptionalName | None = None
    limit: Few = 10


class DiscardQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead letters; without an id all of them."""

    id: Annotated[list[Name], Meta(max_length=1000)] = []
    agent: OptionalName | None = None


class ReplayBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead letters: task ids or positions; without any all of them.

    With `content` the one of the task that `ids` names, its content replaced.
    """

    ids: Annotated[list[Name], Meta(max_length=10_000)] | None = None
    agent: Name | None = None
    content: Raw | UnsetType = UNSET


@bus("GET", "/bus/streams", scope="read")
async def list_streams(ask: Ask) -> list[TopicAnswer]:
    """All topics with their groups."""
    return (await get_stats(ask)).topics


@bus("GET", "/bus/inspect/{stream}", scope="read", errors=(404,))
async def inspect_stream(ask: Ask, stream: Name, query: EventsQuery) -> list[EventAnswer]:
    """The newest events of a topic, newest first; or the delayed ones, by when they are due."""
    found = await ask.fleet.events(stream, limit=query.limit, delayed=query.delayed)
    return [msgspec.convert(event.public(), EventAnswer) for event in found]


@bus("GET", "/bus/groups/{stream}", scope="read", errors=(404,))
async def list_groups(ask: Ask, stream: Name) -> list[GroupAnswer]:
    """The groups of a topic, one per agent."""
    found = await ask.fleet.groups(stream)
    return [msgspec.convert(group_public(group), GroupAnswer) for group in found]


@bus("GET", "/bus/dlq/{topic}", scope="read", errors=(404,))
async def inspect_dlq(ask: Ask, topic: Name, query: LettersQuery) -> list[LetterAnswer]:
    """Dead letters of a topic, newest first: what agents gave up, and why."""
    found = await ask.fleet.dead_letters(topic, query.agent or None, limit=query.limit)
    return [msgspec.convert(letter.public(), LetterAnswer) for letter in found]


@bus("POST", "/bus/dlq/{topic}/replay", scope="admin", errors=(404,))
async def replay_dlq(ask: Ask, topic: Name, body: ReplayBody) -> Replayed:
    """Hands dead letters back to the agents that gave them up; one of them mended, if asked."""
    if isinstance(body.content, UnsetType):
        return Replayed(topic, await ask.fleet.replay(topic, body.ids, body.agent))
    if body.ids is None or len(body.ids) != 1:
        raise Refused(422, "content mends one dead letter: name its task in ids")
    await Letters(ask.app).replay_one(topic, body.agent, body.ids[0], bytes(body.content))
    return Replayed(topic, 1)


@bus("DELETE", "/bus/dlq/{topic}", scope="admin", errors=(404,))
async def delete_dlq(ask: Ask, topic: Name, query: DiscardQuery) -> Discarded:
    """Removes dead letters for good."""
    ids = query.id or None
    return Discarded(topic, await ask.fleet.discard(topic, ids, query.agent or None))


@bus("GET", "/bus/stats", scope="read")
async def get_stats(ask: Ask) -> StatsAnswer:
    """Lengths, lag, what is pending and dead letters: of each topic, and summed."""
    return msgspec.convert((await ask.fleet.stats()).public(), StatsAnswer)
