"""The memory backend's groups: what each consumer holds, and what waits to be handed out again.

Nothing here locks, waits or reads a clock: the caller holds the board's lock and says how late it
is. No step looks through what is leased or waits: each costs what it hands out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from heapq import heappop, heappush
from typing import Literal

from msgspec import Struct

from omnidaemon.messages import DeadLetter, Event


class Item(Struct, eq=False, gc=False):
    """A delivery as its group remembers it, from its first hand-out until it is settled.

    Attributes:
        event: What is delivered.
        seq: Its place in the topic; 0 for what came back from the dead letters, which does not
            hold up the topic (its event may be trimmed already).
        token: The last hand-out; nothing that an earlier holder says applies.
        holder: Who has it, or had it last.
        renewed: When it was handed out or its lease renewed.
        retrying: True while it waits for a retry; False if it was handed back.
    """

    event: Event
    seq: int
    attempt: int = 1
    crashes: int = 0
    replays: int = 0
    token: int = 0
    holder: str = ""
    renewed: float = 0.0
    retrying: bool = False


class Presence(Struct):
    """A consumer, and when it was last heard of."""

    lease: float
    seen: float


class Dead(Struct, frozen=True):
    """A dead letter and what it takes to hand it back."""

    letter: DeadLetter
    event: Event
    replays: int
    at: float


class Group:
    """A group's place in a topic.

    Attributes:
        cursor: The next event that none of its consumers was ever given.
        floor: The oldest event that it has not settled.
        open: What was handed out and is not settled, by place in the topic.
        replayed: The same, for what came back from the dead letters.
        leased: What consumers hold, by token, the longest unrenewed first.
        waiting: A heap by due time: retries, and what was handed back.
        receipts: Each consumer's last settled tokens, by which a resend is recognised.
        alive, seen: When a consumer was last heard of, by the board's clock and in Unix time.
        pardoned: When leases were last given once more; None while nobody has renewed one.
    """

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self.floor = cursor
        self.open: dict[int, Item] = {}
        self.replayed: set[Item] = set()
        self.leased: OrderedDict[Hashable, Item] = OrderedDict()
        self.waiting: list[tuple[float, int, int, Item]] = []
        self.consumers: dict[str, Presence] = {}
        self.receipts: dict[str, set[Hashable]] = {}
        self.lease = 0.0
        self.paused = False
        self.alive = 0.0
        self.seen: float | None = None
        self.pardoned: float | None = None

    def pardon(self, name: str, now: float) -> None:
        """Gives one more lease for what is held if nobody was heard of for half a lease until now.

        One who lives is heard of thrice in a lease, and this one has not just joined: the process
        stood still. What nobody has renewed since the last time is a dead consumer's.
        """
        if self.alive + self.lease / 2 >= now or self.pardoned is None:
            return
        if name in self.consumers:
            for item in self.leased.values():
                if item.renewed > self.pardoned:
                    item.renewed = now
            for presence in self.consumers.values():
                presence.seen = now
            self.pardoned = now

    def hear_of(self, name: str, lease: float, now: float, unix: float) -> None:
        """Notes that a consumer lives."""
        self.pardon(name, now)
        self.consumers[name] = Presence(lease, now)
        self.alive = now
        self.seen = unix

    def leave(self, name: str) -> None:
        """Forgets a consumer; what it holds stays its own until the lease is over."""
        self.consumers.pop(name, None)
        self.receipts.pop(name, None)

    def live(self, now: float) -> float:
        """Sets the lease to the largest of the live consumers'; returns when that may change.

        One that was not heard of for its own lease is dead; its receipt stays for a second lease.
        With none alive the lease stays what it was.
        """
        largest, until = 0.0, float("inf")
        for name, presence in list(self.consumers.items()):
            end = presence.seen + presence.lease
            if end > now:
                largest, until = max(largest, presence.lease), min(until, end)
            elif end + presence.lease <= now:
                self.leave(name)
        self.lease = largest or self.lease
        return until

    def present(self, now: float) -> int:
        """How many live consumers there are."""
        return sum(one.seen + one.lease > now for one in self.consumers.values())

    def replay(self, dead: Dead, now: float, number: int) -> None:
        """Takes a dead letter back, as new."""
        item = Item(dead.event, 0, replays=dead.replays + 1)
        self.replayed.add(item)
        self.put_back(item, now, number)

    def held(self, name: str, token: Hashable) -> Item | None:
        """What a consumer holds by a token, which is never given out twice; None if it lost it."""
        item = self.leased.get(token)
        return item if item is not None and item.holder == name else None

    def put_back(self, item: Item, due: float, number: int) -> None:
        """Lets an item wait until it is due."""
        heappush(self.waiting, (due, item.seq, number, item))

    def due_again(self, limit: int, now: float) -> list[Item]:
        """Takes what consumers that vanished held, then what waits and is due."""
        items: list[Item] = []
        while self.leased and len(items) < limit:
            item = next(iter(self.leased.values()))
            if item.renewed + self.lease > now:
                break
            del self.leased[item.token]
            item.crashes += 1
            items.append(item)
        while self.waiting and len(items) < limit and self.waiting[0][0] <= now:
            items.append(heappop(self.waiting)[3])
        return items

    def next_due(self) -> float:
        """When something is due again, if nobody does anything until then."""
        waiting = self.waiting[0][0] if self.waiting else float("inf")
        if not self.leased:
            return waiting
        return min(waiting, next(iter(self.leased.values())).renewed + self.lease)

    def end(self, item: Item) -> None:
        """The group is done with an item."""
        if item.seq == 0:
            self.replayed.discard(item)
            return
        del self.open[item.seq]
        while self.floor < self.cursor and self.floor not in self.open:
            self.floor += 1

    def stage(self, item: Item) -> Literal["running", "waiting", "pending"]:
        """Where an item stands that is not settled."""
        if self.leased.get(item.token) is item:
            return "running"
        return "waiting" if item.retrying else "pending"
