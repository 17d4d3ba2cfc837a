"""The contract of transports: topics that keep events, and groups that work them off.

Laws (`tests/contract/test_transport_laws.py` holds every backend to them):

- What `publish` returned from is stored. A topic keeps its events in the order of storing.
- Every group gets every event from its start on; within a group one consumer holds an event.
- The first group of a topic starts at its oldest event. A group that joins others starts at the
  oldest event that some group has not settled. `start="oldest"` or `"new"` says otherwise. A
  group that exists goes on where it was, whatever `start` says.
- A delivery is leased: unless renewed within the group's lease it goes to another consumer, with
  `crashes` one higher. The group's lease is the largest of its live consumers'. It is to be renewed
  thrice in that time; where nobody could for half of it, the living are given one more.
- Renewing and settling are fenced by the delivery's token: one who lost it changes nothing.
- A settlement happens whole or not at all. (In a Redis cluster what lies in another slot is there
  a moment before, under a name by which a repetition is recognised.)
- A retry comes back after its delay with `attempt` one higher, or the same if it is not charged; a
  release at once, uncharged.
- A dead letter concerns its group alone; replayed, it goes to that group alone, with `attempt` 1,
  `crashes` 0 and `replays` one higher.
- An event is removed only when every group has settled it, and then the newest are kept up to the
  retention. With no group at all nothing is removed.
- A paused or deleted group hands out nothing, also to consumers that run. Deleting leaves a
  mark: consumers that run do not make the group again, a new `subscribe` does.

Everything works from any event loop of the process, also from several at once and one after another
with no `close` between; only a Subscription stays in the loop that entered it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal, Protocol, Self

from msgspec import Struct

from omnidaemon.messages import (
    Consumer,
    DeadLetter,
    Delivery,
    Event,
    GroupInfo,
    Message,
    Place,
    Settlement,
    Start,
    TopicInfo,
    Verdict,
)


class Limits(Struct, frozen=True):
    """How much a transport keeps and takes.

    Attributes:
        retention: Settled events kept for inspection, per topic.
        retention_bytes: The same in bytes; whichever is less holds.
        max_backlog: Unsettled events per topic beyond which `publish` raises BacklogFull; None
            for no bound. Groups unseen for a day do not count. What a settlement publishes is
            always taken.
        dead_letters: Dead letters kept per group; the oldest go first.
        dead_letter_age: Seconds for which a dead letter is kept.
    """

    retention: int = 10_000
    retention_bytes: int = 100_000_000
    max_backlog: int | None = None
    dead_letters: int = 10_000
    dead_letter_age: float = 30 * 86_400.0


class Subscription(Protocol):
    """One consumer's place in a group."""

    @property
    def consumer(self) -> Consumer:
        """Who this is, for `Transport.renew`."""

    @property
    def backlog(self) -> int:
        """Events that waited for the group when this subscription was made."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Leases up to `limit` deliveries: those due again first, then new ones in order.

        Returns as soon as there is at least one, and [] after `wait` seconds. Safe to cancel:
        what was leased is returned, or was never leased.
        """

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Verdict]:
        """Applies each settlement whole or not at all; one verdict each, in order.

        Raises TransportError if that could not be done; the same call may then be repeated, and
        answers "repeated" for what had been applied.
        """


class Watch(Protocol):
    """Word of a task's settlements."""

    async def wait(self, seconds: float) -> bytes | None:
        """Returns after the next settlement with the task's notice, or after `seconds`.

        May return early for no reason; a notice between two waits is not missed. The answer is the
        news of the latest settlement, where it came with the notice and nobody else has taken it;
        None says nothing.
        """


class Transport(Protocol):
    """Where events wait for agents.

    Attributes:
        backend: Names what is behind it (never a password); a store with the same value shares it,
            and then a settlement's changes are applied by `settle`.
        renewal: "thread" if leases can be taken over by other processes, so that they are renewed
            from a thread with an event loop of its own; "loop" if all consumers share one process.
        limits: How much it keeps and takes.
    """

    backend: str
    limits: Limits
    renewal: Literal["thread", "loop"]

    async def open(self) -> None:
        """Connects; every other call does so by itself when needed."""

    async def close(self) -> None:
        """Lets go of what it holds open; a later call connects again."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def publish(self, *messages: Message) -> None:
        """Returns when all are stored; all are, or (with an error) none is.

        In a Redis cluster that holds for each topic by itself: after an error some topics may have
        theirs, and the same call made again stores the rest.
        """

    def subscribe(
        self, topic: str, group: str, *, lease: float, start: Start = "auto"
    ) -> AbstractAsyncContextManager[Subscription]:
        """Joins the group as a new consumer, and makes the group on entry if it is not there.

        Leaving hands back nothing: release what you hold before.
        """

    async def renew(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Says that the consumer lives and renews these of its leases; returns those it lost."""

    def watch(self, task_id: str) -> AbstractAsyncContextManager[Watch]:
        """Watches for settlements with that notice, from entry on."""

    # Inspection: what people and tools ask; apart from the path of a message.

    async def check(self) -> None:
        """Raises TransportError if the backend does not answer."""

    async def topics(self) -> list[TopicInfo]:
        """All topics, by name."""

    async def groups(self, topic: str) -> list[GroupInfo]:
        """The topic's groups, by name; [] for an unknown topic."""

    async def browse(self, topic: str, limit: int = 10) -> list[Event]:
        """The newest events of the topic, newest first; without those that are delayed still."""

    async def delayed(self, topic: str, limit: int = 10) -> list[Event]:
        """The events of the topic whose delay is not over, in the order in which they come due."""

    async def locate(self, event_id: str, topic: str | None = None) -> list[Place]:
        """Where the event stands, per group; [] if no topic holds it.

        Args:
            event_id: The event.
            topic: The only topic to look in; None looks in all.
        """

    async def find(self, topic: str, event_id: str) -> Event | None:
        """The newest event of the topic with this id, also one that is delayed still.

        None if the topic holds it no more, as a dead letter perhaps.
        """

    async def dead_letters(
        self,
        topic: str,
        group: str | None = None,
        *,
        limit: int = 10,
        before: str | None = None,
        event_id: str | None = None,
    ) -> list[DeadLetter]:
        """Dead letters of one group or of all, newest first.

        Args:
            topic: Where they came from.
            group: Who gave them up.
            limit: At most so many.
            before: Only those older than the one at this position was; for one group alone.
            event_id: Only this event's.
        """

    async def replay(
        self,
        topic: str,
        group: str | None = None,
        positions: Collection[str] | None = None,
        *,
        body: bytes | None = None,
    ) -> int:
        """Hands dead letters back to the groups that gave them up; returns how many.

        Args:
            topic: Where they came from.
            group: Who gave them up.
            positions: Which; None hands back all.
            body: What they come back with instead of their own, in the same step: a mended event.
                The topic keeps the event as it was published.
        """

    async def discard(
        self, topic: str, group: str | None = None, positions: Collection[str] | None = None
    ) -> int:
        """Removes dead letters; returns how many."""

    async def pause(self, topic: str, group: str) -> bool:
        """The group hands out nothing from now on; False if there is no such group."""

    async def resume(self, topic: str, group: str) -> bool:
        """Undoes `pause`; False if there is no such group."""

    async def remove_group(self, topic: str, group: str, *, dead_letters: bool = False) -> bool:
        """Removes the group and what waits in it; its dead letters only if told."""

    async def remove_topic(self, topic: str) -> bool:
        """Removes the topic with its events, groups and dead letters."""
