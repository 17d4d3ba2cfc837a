"""Dead letters of all topics: grouped by what went wrong, mended, handed back, removed."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable

import msgspec
from msgspec import Struct

from omnidaemon.app import App
from omnidaemon.envelope import Envelope, decode, encode, wire_of
from omnidaemon.errors import DecodeError, PayloadError, TaskNotFound
from omnidaemon.messages import DeadLetter, GroupInfo
from omnidaemon.tasks import Task
from omnidaemon.views import Letter, read_letter, read_reason

LOOKED_MOST = 10_000
"""Letters looked at for a grouping, the newest of each agent first."""
STEP = 200
"""Letters read at a time: bodies may have a megabyte each, and only their heads are kept."""
SHOWN = 5
"""Letters of a group that are shown with it among the others."""
LISTED = 200
"""The same where it is shown alone."""

_FOLDED = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # UUIDs
    r"|0x[0-9a-f]+"
    r"|\b(?=[0-9a-f]*[0-9])[0-9a-f]{8,}\b"  # hashes, keys: eight hexadecimal digits and more
    r"|[0-9]+(?:[.,:][0-9]+)*",
    re.IGNORECASE,
)


def folded(message: str) -> str:
    """The first line of an error's text, with ids, numbers and hexadecimal digits as one sign."""
    line = next((text.strip() for text in message.splitlines() if text.strip()), "")
    return _FOLDED.sub("#", line)[:300]


class Head(Struct, frozen=True):
    """A dead letter without its body.

    Attributes:
        topic: Where it came from.
        agent: Who gave it up.
        position: Its place among the agent's dead letters.
        task_id: The event's id.
        type: The error's class.
        message: Its text.
        attempts: Runs charged.
        replays: How often it had come back.
        buried: Unix time, in seconds.
    """

    topic: str
    agent: str
    position: str
    task_id: str
    type: str
    message: str
    attempts: int
    replays: int
    buried: float

    @property
    def group(self) -> str:
        """The key of its group: what has the same error has the same key, in every process."""
        text = f"{self.type}\0{folded(self.message)}".encode()
        return hashlib.sha256(text).hexdigest()[:16]


class LetterGroup(Struct, frozen=True):
    """Dead letters with one error.

    Attributes:
        key: Names it.
        type: The error's class.
        message: The newest one's text.
        count: How many there are.
        agents: How many each agent gave up, by topic and name.
        newest: Unix time of the last one, in seconds.
        oldest: Unix time of the first one.
        heads: The newest.
    """

    key: str
    type: str
    message: str
    count: int
    agents: dict[tuple[str, str], int]
    newest: float
    oldest: float
    heads: list[Head]


class Grouping(Struct, frozen=True):
    """All dead letters by their errors.

    Attributes:
        groups: The most recent first.
        looked: How many letters were looked at.
        total: How many there are, those of agents that were deleted included.
    """

    groups: list[LetterGroup]
    looked: int
    total: int


class Letters:
    """The dead letters of all topics.

    Args:
        app: Whose backends are asked.
    """

    def __init__(self, app: App) -> None:
        self._transport = app.transport
        self._most = app.settings.max_message

    async def grouped(self) -> Grouping:
        """The letters by their errors."""
        graves = await self._graves()
        total = sum(info.dead for info in await self._transport.topics())
        found: defaultdict[str, list[Head]] = defaultdict(list)
        looked = 0
        async for letter in self._newest(graves):
            head = _head(letter)
            found[head.group].append(head)
            looked += 1
        groups = [_group(key, heads) for key, heads in found.items()]
        groups.sort(key=lambda group: group.newest, reverse=True)
        return Grouping(groups, looked, max(looked, total))

    async def group(self, key: str) -> LetterGroup:
        """One group, with more of its letters.

        Raises:
            TaskNotFound: There is no such group (any more).
        """
        heads: list[Head] = []
        async for letter in self._newest(await self._graves()):
            head = _head(letter)
            if head.group == key:
                heads.append(head)
        if not heads:
            raise TaskNotFound("no dead letters with this error are left")
        return _group(key, heads, LISTED)

    async def replay(self, key: str | None) -> int:
        """Hands back the letters of a group, or with None of all; returns how many.

        Raises:
            TaskNotFound: There is no such group (any more).
        """
        chosen = await self._chosen(key)
        replay = self._transport.replay
        return sum([await replay(topic, agent, at) for (topic, agent), at in chosen])

    async def discard(self, key: str) -> int:
        """Removes the letters of a group for good; otherwise as `replay`."""
        chosen = await self._chosen(key)
        discard = self._transport.discard
        return sum([await discard(topic, agent, at) for (topic, agent), at in chosen])

    async def _chosen(self, key: str | None) -> list[tuple[tuple[str, str], list[str] | None]]:
        graves = await self._graves()
        if key is None:
            return [((grave.topic, grave.name), None) for grave in graves]
        chosen: defaultdict[tuple[str, str], list[str] | None] = defaultdict(list)
        async for letter in self._newest(graves):
            head = _head(letter)
            if head.group == key:
                positions = chosen[head.topic, head.agent]
                assert positions is not None
                positions.append(head.position)
        if not chosen:
            raise TaskNotFound("no dead letters with this error are left: nothing was done")
        return list(chosen.items())

    # Of one task

    async def of_task(self, task: Task) -> list[Letter]:
        """The task's dead letters, one per agent that gave it up."""
        agents = sorted({p.group for p in task.places if p.state == "dead" and p.group})
        found = [await self.find(task.topic, agent, task.id) for agent in agents]
        return [letter for letter in found if letter is not None]

    async def find(self, topic: str, agent: str, task_id: str) -> Letter | None:
        """The agent's newest dead letter of this event."""
        found = await self._find(topic, agent, task_id)
        return None if found is None else read_letter(found)

    async def _find(self, topic: str, agent: str, task_id: str) -> DeadLetter | None:
        found = await self._transport.dead_letters(topic, agent, limit=1, event_id=task_id)
        return found[0] if found else None

    async def replay_one(
        self, topic: str, agent: str | None, task_id: str, content: str | bytes | None = None
    ) -> None:
        """Hands one letter back, with other content if some is given.

        The mended event keeps its id and all else, and goes to the agent that gave it up alone; the
        letter is gone in the same step.

        Args:
            topic: Where it came from.
            agent: Who gave it up; None if it is the only one.
            task_id: The event's id.
            content: The new content, as JSON.

        Raises:
            TaskNotFound: There is no such letter (any more).
            PayloadError: The content is no JSON or cannot travel, or the letter is no envelope; or
                several agents gave the event up, and which one is meant is not said.
        """
        if agent is None:
            agent = await self._only_agent(topic, task_id)
        letter = await self._find(topic, agent, task_id)
        body = None if letter is None or content is None else self._mended(letter, content)
        positions = [] if letter is None else [letter.position]
        if not await self._transport.replay(topic, agent, positions, body=body):
            raise TaskNotFound(
                f"agent {agent!r} of topic {topic!r} has no dead letter of task {task_id!r} (any "
                "more), or was removed: nothing was done"
            )

    async def discard_one(self, topic: str, agent: str, task_id: str) -> None:
        """Removes one letter for good.

        Raises:
            TaskNotFound: There is no such letter (any more).
        """
        letter = await self._find(topic, agent, task_id)
        positions = [] if letter is None else [letter.position]
        if not await self._transport.discard(topic, agent, positions):
            raise TaskNotFound(
                f"agent {agent!r} of topic {topic!r} has no dead letter of task {task_id!r} (any "
                "more): nothing was done"
            )

    async def _only_agent(self, topic: str, task_id: str) -> str:
        groups = [group.name for group in await self._transport.groups(topic) if group.dead]
        agents = [name for name in groups if await self._find(topic, name, task_id)]
        if len(agents) > 1:
            raise PayloadError(
                f"agents {', '.join(agents)} gave up task {task_id!r}: say whose letter is mended"
            )
        if not agents:
            raise TaskNotFound(f"topic {topic!r} has no dead letter of task {task_id!r}")
        return agents[0]

    def _mended(self, letter: DeadLetter, content: str | bytes) -> bytes:
        try:
            value = msgspec.json.decode(content)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise PayloadError(f"the new content is not JSON: {error}") from error
        try:
            envelope = decode(letter.body)
        except DecodeError as error:
            raise PayloadError(
                f"the dead letter of {letter.id!r} is no event that can be mended: {error}"
            ) from error
        fields = {name: getattr(envelope, name) for name in Envelope.__struct_fields__}
        body = encode(Envelope(**{**fields, "content": value}), wire_of(letter.body))
        if len(body) > self._most:
            raise PayloadError(
                f"the mended event has {len(body):,} bytes, and {self._most:,} are allowed"
            )
        return body

    # Beneath

    async def _graves(self) -> list[GroupInfo]:
        """Who has dead letters; those of a group that was removed cannot be handed back."""
        topics = [info.name for info in await self._transport.topics() if info.dead]
        found = [group for name in topics for group in await self._transport.groups(name)]
        return [group for group in found if group.dead]

    async def _newest(self, graves: Iterable[GroupInfo]) -> AsyncGenerator[DeadLetter, None]:
        left = LOOKED_MOST
        for grave in graves:
            async for letter in self._of_agent(grave.topic, grave.name, left):
                left -= 1
                yield letter

    async def _of_agent(
        self, topic: str, agent: str, most: int
    ) -> AsyncGenerator[DeadLetter, None]:
        before: str | None = None
        while most > 0:
            limit = min(STEP, most)
            page = await self._transport.dead_letters(topic, agent, limit=limit, before=before)
            for letter in page:
                yield letter
            if len(page) < limit:
                return
            most -= limit
            before = page[-1].position


def _head(letter: DeadLetter) -> Head:
    cause = read_reason(letter.reason)
    return Head(
        letter.topic,
        letter.group,
        letter.position,
        letter.id,
        cause.type,
        cause.message[:1_000],
        cause.attempts,
        cause.replays,
        letter.buried,
    )


def _group(key: str, heads: list[Head], shown: int = SHOWN) -> LetterGroup:
    heads.sort(key=lambda head: head.buried, reverse=True)
    agents: dict[tuple[str, str], int] = {}
    for head in heads:
        agents[head.topic, head.agent] = agents.get((head.topic, head.agent), 0) + 1
    newest = heads[0]
    return LetterGroup(
        key,
        newest.type,
        newest.message,
        len(heads),
        agents,
        newest.buried,
        heads[-1].buried,
        heads[:shown],
    )
