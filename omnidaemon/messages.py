"""The values that cross the contracts of transports and stores: bytes and what happens to them.

A value here knows nothing of connections, apps or workers; what a backend needs to recognise
a delivery again stands in its opaque `token`. None can be part of a reference cycle, so the garbage
collector need not look at them (`gc=False`): millions may wait in memory.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal

from msgspec import Struct

Start = Literal["auto", "oldest", "new"]


class Message(Struct, frozen=True, gc=False):
    """Bytes on their way to a topic.

    Attributes:
        topic: Where to.
        id: The event's id, by which it is found again.
        body: The encoded envelope; opaque to transports.
        delay: Seconds from now until it may be delivered.
    """

    topic: str
    id: str
    body: bytes
    delay: float = 0.0


class Consumer(Struct, frozen=True, gc=False):
    """One subscription's place in a group: who holds what it receives.

    Attributes:
        topic: The topic read.
        group: The group, which is the agent's name.
        name: Unique in time and space; two subscriptions never share one.
        lease: Seconds after which what it holds goes to another unless renewed.
    """

    topic: str
    group: str
    name: str
    lease: float


class Delivery(Struct, frozen=True, gc=False):
    """Bytes leased to one consumer.

    Attributes:
        topic: The topic it came from.
        group: The group it is leased in.
        id: The event's id as published.
        position: Its place in the topic, as the backend writes it.
        body: The encoded envelope.
        token: What fences it: settling works only while the backend still knows this token.
        attempt: 1 on the first run; only failures that were charged raise it.
        crashes: How many times a consumer that held it vanished without handing it back.
        replays: How many times it came back from the dead letters.
    """

    topic: str
    group: str
    id: str
    position: str
    body: bytes
    token: Hashable
    attempt: int = 1
    crashes: int = 0
    replays: int = 0


class Write(Struct, frozen=True, gc=False):
    """One change of a keyed record.

    Attributes:
        collection: Which set of records.
        key: Which record in it; written again, it is replaced and counts as newest.
        value: Its bytes; None removes it.
        label: What it may be listed by (a topic, for results).
        ttl: Seconds until it is gone; None keeps it.
    """

    collection: str
    key: str
    value: bytes | None
    label: str | None = None
    ttl: float | None = None


class Count(Struct, frozen=True, gc=False):
    """An addition to a counter; counters exist from their first addition on.

    Attributes:
        collection: Which set of counters.
        key: Whose counter.
        field: Which of its counters.
        amount: What to add; may be negative or a fraction.
    """

    collection: str
    key: str
    field: str
    amount: float


class Ack(Struct, frozen=True, tag=True, gc=False):
    """The group is done with the delivery."""


class RetryAfter(Struct, frozen=True, tag=True, gc=False):
    """The group gets it again after `delay` seconds, with one more attempt charged.

    Attributes:
        delay: Seconds from now.
        charged: False if there was no attempt: it was not its turn yet.
    """

    delay: float
    charged: bool = True


class Bury(Struct, frozen=True, tag=True, gc=False):
    """It becomes a dead letter of the group, with `reason` (opaque bytes) beside its body."""

    reason: bytes


class Release(Struct, frozen=True, tag=True, gc=False):
    """It goes back to the group at once, uncharged: the consumer did not want or finish it."""


Action = Ack | RetryAfter | Bury | Release


class Settlement(Struct, frozen=True, gc=False):
    """All that must happen together when a delivery is over, or not at all.

    Attributes:
        delivery: What is settled.
        action: What becomes of it in its group.
        publish: Messages that exist once this is applied (a reply, a webhook to deliver).
        changes: Records and counters that change with it, in the store that shares the
            transport's backend.
        notice: A task id; those who watch it are told once this is applied.
        news: The run's record, which they want to read then; a transport that can spares them the
            way by handing it over with the notice.
    """

    delivery: Delivery
    action: Action
    publish: tuple[Message, ...] = ()
    changes: tuple[Write | Count, ...] = ()
    notice: str | None = None
    news: bytes | None = None


Verdict = Literal["applied", "repeated", "lost"]
"""applied: all of it happened. repeated: it had been applied before (a resend). lost: the
delivery is another consumer's or settled by another, and nothing of it happened."""


class Record(Struct, frozen=True, gc=False):
    """One stored record, as a store gives it back.

    Attributes:
        key: Its key in the collection.
        value: Its bytes.
        label: What it is listed by.
        written: Unix time of the last write, in seconds.
        place: Its place in the order of writing, for `browse` to go on from, which alone gives
            it; as the backend writes it.
    """

    key: str
    value: bytes
    label: str | None
    written: float
    place: str = ""


class TopicInfo(Struct, frozen=True, gc=False):
    """What a topic holds now.

    Attributes:
        name: The topic.
        events: Events kept, settled ones within the retention included.
        size: Their bodies' size, in bytes.
        groups: How many groups read it.
        delayed: Events published with a delay that is not over.
        dead: Dead letters of all its groups.
        memory: Bytes that the events take where they are kept, as far as the backend can tell; at
            least about their bodies' size.
    """

    name: str
    events: int
    size: int
    groups: int
    delayed: int
    dead: int
    memory: int


class GroupInfo(Struct, frozen=True, gc=False):
    """How far a group is.

    Attributes:
        topic: The topic read.
        name: The group, which is the agent's name.
        lag: Events never handed to any of its consumers.
        leased: Deliveries that a consumer holds now (an expired lease included, until taken over).
        waiting: Deliveries that wait for a retry, or were handed back.
        dead: Its dead letters.
        consumers: Live subscriptions.
        lease: Seconds; the largest of its live consumers'.
        paused: True if it hands out nothing until resumed.
        seen: Unix time at which a consumer of it was last alive; None if never.
        oldest: Unix time at which the oldest event that it has not settled was stored; None if it
            has settled all. What came back from the dead letters does not count.
    """

    topic: str
    name: str
    lag: int
    leased: int
    waiting: int
    dead: int
    consumers: int
    lease: float
    paused: bool
    seen: float | None
    oldest: float | None = None


class Event(Struct, frozen=True, gc=False):
    """A stored event.

    Attributes:
        position: Its place in the topic.
        id: The event's id.
        body: The encoded envelope.
        stored: Unix time, in seconds; 0 while it is delayed.
        due: While it is delayed, when that is over, in Unix time.
    """

    position: str
    id: str
    body: bytes
    stored: float
    due: float | None = None


class DeadLetter(Struct, frozen=True, gc=False):
    """A delivery that its group gave up.

    Attributes:
        topic: The topic it came from.
        group: The group that gave it up.
        position: Names it for replay and removal; stays the same while it is dead.
        id: The event's id.
        body: The encoded envelope, as published.
        reason: The bytes given with Bury.
        buried: Unix time, in seconds.
    """

    topic: str
    group: str
    position: str
    id: str
    body: bytes
    reason: bytes
    buried: float


class Place(Struct, frozen=True, gc=False):
    """Where an event stands in one group.

    Attributes:
        topic: Its topic.
        group: The group; None if the topic has none yet, or the event is still delayed.
        state: pending (never handed out, or handed back), running (leased), waiting (for a
            retry), settled (this group is done with it), dead (it is a dead letter).
        attempt: The run it is in or waits for, from 1.
    """

    topic: str
    group: str | None
    state: Literal["pending", "running", "waiting", "settled", "dead"]
    attempt: int = 1
