"""The memory backend's topics: their events, their groups, and what those gave up.

Nothing here locks, waits or reads a clock: the caller holds the board's lock and says how late it
is. No step on the path of a message looks through the backlog: each costs what it hands out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from heapq import heappop, heappush, nsmallest
from itertools import count
from typing import Protocol

from omnidaemon.drivers.memory_groups import Dead, Group, Item
from omnidaemon.messages import DeadLetter, Event, GroupInfo, Message, Place, Start, TopicInfo

UNSEEN = 86_400.0
"""Seconds after which a group without a live consumer no longer counts for the backlog."""

_TRIMMED = Event("", "", b"", 0.0)


def _later(due: float, number: int, message: Message, since: float) -> Event:
    return Event(f"delayed-{number}", message.id, message.body, 0.0, due + since)


class Bounds(Protocol):
    """How much is kept: what `Limits` of the transports' contract has, which stands above this."""

    @property
    def retention(self) -> int:
        """Settled events kept."""

    @property
    def retention_bytes(self) -> int:
        """The same in bytes."""

    @property
    def dead_letters(self) -> int:
        """Dead letters kept per group."""

    @property
    def dead_letter_age(self) -> float:
        """Seconds for which one is kept."""


class Topic:
    """A topic's events from `head` to `end`, its groups, and their dead letters.

    Attributes:
        floor: The oldest event that some group has not settled; what is below may be trimmed,
            and is not repeated to a group that joins. It stays when the last group is removed.
        dead: Dead letters by group and position, the oldest first; they outlive their group.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.head = 1
        self.floor = 1
        self.size = 0
        self.groups: dict[str, Group] = {}
        self.dead: dict[str, OrderedDict[str, Dead]] = {}
        self.delayed: list[tuple[float, int, Message]] = []
        self._base = 1  # the place of _events[0]; from there to head they are trimmed
        self._events: list[Event] = []
        self._ids: dict[str, int] = {}
        self._delayed_ids: set[str] = set()
        self._settled_size = 0
        self._positions = count(1)

    @property
    def end(self) -> int:
        """The place of the next event."""
        return self._base + len(self._events)

    def add(self, message: Message, now: float, unix: float, number: int) -> None:
        """Stores a message, as the newest event or, with a delay, until that is over."""
        if message.delay > 0:
            heappush(self.delayed, (now + message.delay, number, message))
            self._delayed_ids.add(message.id)
        else:
            self._append(message, unix)

    def ripen(self, now: float, unix: float) -> None:
        """Makes events of the delayed messages that are due."""
        while self.delayed and self.delayed[0][0] <= now:
            message = heappop(self.delayed)[2]
            self._delayed_ids.discard(message.id)
            self._append(message, unix)

    def _append(self, message: Message, unix: float) -> None:
        seq = self.end
        self._events.append(Event(str(seq), message.id, message.body, unix))
        self._ids[message.id] = seq
        self.size += len(message.body)

    def slice(self, start: int, end: int) -> list[Event]:
        """The events from one place up to another."""
        return self._events[start - self._base : end - self._base]

    def newest(self, limit: int) -> list[Event]:
        """The newest events, newest first."""
        return self.slice(max(self.head, self.end - limit), self.end)[::-1]

    def soonest(self, limit: int, since: float) -> list[Event]:
        """The delayed events that come due first; `since` is Unix time when the clock was 0."""
        return [_later(*one, since) for one in nsmallest(limit, self.delayed)]

    def find(self, event_id: str, since: float) -> Event | None:
        """The newest event with this id, or the delayed one; `since` as in `soonest`."""
        seq = self._ids.get(event_id)
        if seq is not None and seq >= self.head:
            return self.slice(seq, seq + 1)[0]
        return next((_later(*one, since) for one in self.delayed if one[2].id == event_id), None)

    def join(self, name: str, start: Start) -> Group:
        """Makes a group; `floor` is the oldest event as long as no group was ever there."""
        cursor = {"auto": self.floor, "oldest": self.head, "new": self.end}[start]
        group = self.groups[name] = Group(cursor)
        return group

    def take(self, group: Group, limit: int, now: float) -> list[Item]:
        """Takes for one consumer what is due again, then new events."""
        items = group.due_again(limit, now)
        first = group.cursor
        group.cursor = min(self.end, first + limit - len(items))
        for seq, event in enumerate(self.slice(first, group.cursor), first):
            item = group.open[seq] = Item(event, seq)
            items.append(item)
        return items

    def unsettled(self, now: float) -> int:
        """Events that wait for the group furthest behind; groups unseen for a day do not count."""
        behind = [
            self.end - group.cursor + len(group.open) + len(group.replayed)
            for group in self.groups.values()
            if now - group.alive < UNSEEN
        ]
        if not self.groups:
            behind = [self.end - self.floor]
        return max(behind, default=0) + len(self.delayed)

    def trim(self, limits: Bounds) -> None:
        """Moves the floor to where all groups are, and trims what is settled to the limits."""
        floor = min((group.floor for group in self.groups.values()), default=self.floor)
        if floor > self.floor:
            self._settled_size += sum(len(e.body) for e in self.slice(self.floor, floor))
        elif floor < self.floor:  # a group was made that starts at the oldest
            self._settled_size -= sum(len(e.body) for e in self.slice(floor, self.floor))
        self.floor = floor
        while self.head < floor and (
            floor - self.head > limits.retention or self._settled_size > limits.retention_bytes
        ):
            self._drop_oldest()
        trimmed = self.head - self._base
        if trimmed > 1000 and 2 * trimmed > len(self._events):  # so each is moved once at most
            del self._events[:trimmed]
            self._base = self.head

    def _drop_oldest(self) -> None:
        event = self._events[self.head - self._base]
        self._events[self.head - self._base] = _TRIMMED
        if self._ids.get(event.id) == self.head:
            del self._ids[event.id]
        self.size -= len(event.body)
        self._settled_size -= len(event.body)
        self.head += 1

    # Dead letters

    def bury(
        self, name: str, item: Item, reason: bytes, limits: Bounds, *, now: float, unix: float
    ) -> None:
        """Makes a dead letter of an item."""
        event = item.event
        position = str(next(self._positions))
        letter = DeadLetter(self.name, name, position, event.id, event.body, reason, unix)
        self.dead.setdefault(name, OrderedDict())[position] = Dead(letter, event, item.replays, now)
        self.expire(name, limits, now)

    def expire(self, name: str, limits: Bounds, now: float) -> None:
        """Drops a group's dead letters that are too many or too old."""
        dead = self.dead.get(name)
        while dead:
            oldest = next(iter(dead.values()))
            if len(dead) <= limits.dead_letters and now - oldest.at < limits.dead_letter_age:
                return
            dead.popitem(last=False)
        self.dead.pop(name, None)

    def letters(self, group: str | None, limits: Bounds, now: float) -> list[Dead]:
        """Dead letters of one group or of all, the oldest first."""
        names = list(self.dead) if group is None else [group]
        for name in names:
            self.expire(name, limits, now)
        found = [dead for name in names for dead in self.dead.get(name, {}).values()]
        return sorted(found, key=lambda dead: int(dead.letter.position))

    def exhume(self, dead: Collection[Dead]) -> None:
        """Removes dead letters."""
        for one in dead:
            letters = self.dead[one.letter.group]
            del letters[one.letter.position]
            if not letters:
                del self.dead[one.letter.group]

    # What people and tools ask

    def info(self, limits: Bounds, now: float) -> TopicInfo:
        """What it holds."""
        return TopicInfo(
            name=self.name,
            events=self.end - self.head,
            size=self.size,
            groups=len(self.groups),
            delayed=len(self.delayed),
            dead=len(self.letters(None, limits, now)),
            memory=self.size,
        )

    def group_info(self, name: str, limits: Bounds, now: float) -> GroupInfo:
        """How far a group is."""
        group = self.groups[name]
        group.live(now)
        return GroupInfo(
            topic=self.name,
            name=name,
            lag=self.end - group.cursor,
            leased=len(group.leased),
            waiting=len(group.waiting),
            dead=len(self.letters(name, limits, now)),
            consumers=group.present(now),
            lease=group.lease,
            paused=group.paused,
            seen=group.seen,
            oldest=next((event.stored for event in self.slice(group.floor, group.floor + 1)), None),
        )

    def places(self, event_id: str) -> list[Place]:
        """Where an event stands in each group."""
        seq = self._ids.get(event_id)
        places = [
            place
            for name, group in self.groups.items()
            if (place := self._place(name, group, event_id, seq)) is not None
        ]
        places += [
            Place(self.name, name, "dead")
            for name, dead in self.dead.items()
            if name not in self.groups and any(d.letter.id == event_id for d in dead.values())
        ]
        if not places and (seq is not None or event_id in self._delayed_ids):
            return [Place(self.name, None, "pending")]
        return places

    def _place(self, name: str, group: Group, event_id: str, seq: int | None) -> Place | None:
        item = None if seq is None else group.open.get(seq)
        for replayed in group.replayed:
            if replayed.event.id == event_id:
                item = replayed
        if item is not None:
            return Place(self.name, name, group.stage(item), item.attempt)
        if any(dead.letter.id == event_id for dead in self.dead.get(name, {}).values()):
            return Place(self.name, name, "dead")
        if seq is None:
            return None
        return Place(self.name, name, "pending" if seq >= group.cursor else "settled")
