"""A batch of settlements as the script takes it: summed up, so that Redis has little to do each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from omnidaemon.drivers.redis_changes import Blobs, milliseconds, packed_changes
from omnidaemon.drivers.redis_client import pack
from omnidaemon.drivers.redis_keys import Keys
from omnidaemon.messages import (
    Ack,
    Bury,
    Consumer,
    Count,
    Delivery,
    Release,
    RetryAfter,
    Settlement,
    Write,
)
from omnidaemon.transports.base import Limits

Token = tuple[str, str, int, str, int]
"""Stream ("s" the topic's, "r" the group's retries), id, delivery count, generation, place."""

_NEWS_MOST = 4
"""Settlements of a batch whose news go along; in larger ones many share one message instead."""
_NEWS_BYTES = 4_096
_KEPT_LEASES = 2  # for so many leases a resend is recognised


class Batch:
    """Settlements of one consumer, of deliveries of one generation of the group, none twice.

    Attributes:
        keys: Of the topics that they publish to.
        blobs: The bytes that go along, the receipt first.
    """

    def __init__(
        self, keys: Keys, limits: Limits, consumer: Consumer, settlements: Sequence[Settlement]
    ) -> None:
        self.keys: list[str] = []
        self.blobs = Blobs([b""])
        self._names = keys
        self._limits = limits
        self._consumer = consumer
        self._settlements = settlements
        self._topics: dict[str, list[Any]] = {}
        self._ids: dict[str, list[str]] = {"s": [], "r": []}
        self._counts: dict[str, list[int]] = {"s": [], "r": []}
        self._ended: dict[str, list[str]] = {"s": [], "r": []}
        self._retries: list[tuple[str, str, int, str]] = []
        self._releases: list[tuple[str, str, int]] = []
        self._buried: list[tuple[Any, ...]] = []
        self._forgotten: list[str] = []
        notices: dict[str, list[str]] = {}
        tell = len(settlements) <= _NEWS_MOST
        told: list[tuple[str, str, int]] = []
        changes: list[Write | Count] = []
        receipt: list[str] = []
        generation = ""
        for settlement in settlements:
            delivery, notice = settlement.delivery, settlement.notice
            kind, id_, count, generation, _ = cast(Token, delivery.token)
            self._ids[kind].append(id_)
            self._counts[kind].append(count)
            receipt.append(f"|{kind}{id_} {count} {generation}|")
            if type(settlement.action) is Ack:
                self._end(kind, id_, delivery)
            else:
                self._act(settlement)
            for message in settlement.publish:
                self._publish(message.topic, message.id, message.body, message.delay)
            changes += settlement.changes
            if notice is not None:
                news = settlement.news
                if tell and news is not None and len(news) <= _NEWS_BYTES:
                    told.append((keys.done(notice), notice, self.blobs.place(news, notice)))
                else:
                    notices.setdefault(keys.done(notice), []).append(notice)
        self.generation = generation
        self._receipt = "".join(receipt)
        self._changes = packed_changes(changes, self.blobs)
        self._notices = [
            *told,
            *((channel, " ".join(tasks)) for channel, tasks in notices.items()),
        ]

    def packed(self, number: int, *, holds: int, sure: int | None, doubts: bool) -> bytes:
        """The script's argument.

        Args:
            number: Higher with each batch of this consumer.
            holds: More than the consumer has pending.
            sure: The consumer's mark, if all were given since it was set, on the connection that
                this goes to, and none was settled before.
            doubts: The reply to an earlier batch was lost: its receipt is still wanted.
        """
        consumer, names, limits = self._consumer, self._names, self._limits
        self.blobs[0] = f"#{number}{self._receipt}".encode()
        return pack(
            {
                "batch": number,
                "group": consumer.group,
                "consumer": consumer.name,
                "gen": self.generation,
                "channel": names.wake(consumer.topic),
                "prefix": names.prefix,
                "holds": holds,
                "sure": sure,
                "doubts": doubts,
                "keep": _KEPT_LEASES * milliseconds(consumer.lease),
                "dead_letters": limits.dead_letters,
                "dead_letter_age": milliseconds(limits.dead_letter_age),
                "topics": list(self._topics),
                "channels": [names.wake(topic) for topic in self._topics],
                "messages": list(self._topics.values()),
                "ids": self._ids,
                "counts": self._counts,
                "ended": self._ended,
                "retries": self._retries,
                "releases": self._releases,
                "buried": self._buried,
                "forgotten": self._forgotten,
                "notices": self._notices,
                "changes": self._changes,
            }
        )

    def in_order(self, letters: Sequence[bytes]) -> list[str]:
        """The script's letters, by kind of stream, in the order of the settlements."""
        of_kind = dict(zip("sr", map(iter, map(bytes.decode, letters)), strict=True))
        kinds = [cast(Token, settlement.delivery.token)[0] for settlement in self._settlements]
        return [next(of_kind[kind]) for kind in kinds]

    def _act(self, settlement: Settlement) -> None:
        delivery = settlement.delivery
        kind, id_, _, _, place = cast(Token, delivery.token)
        match settlement.action:
            case RetryAfter(delay, charged):
                runs = f"{delivery.attempt + charged} {delivery.crashes} {delivery.replays}"
                self._retries.append((kind, id_, milliseconds(delay), runs))
                return
            case Release():
                self._releases.append((kind, id_, place))
                return
            case Bury(reason):
                body = self.blobs.place(delivery.body, delivery.id)
                why = self.blobs.place(reason, delivery.id)
                where, attempt, replays = delivery.position, delivery.attempt, delivery.replays
                self._buried.append((delivery.id, body, why, where, attempt, replays))
            case Ack():
                pass
        self._end(kind, id_, delivery)

    def _end(self, kind: str, id_: str, delivery: Delivery) -> None:
        self._ended[kind].append(id_)
        if delivery.attempt > 1 or delivery.crashes > 0 or delivery.replays > 0:
            self._forgotten.append(kind + id_)

    def _publish(self, topic: str, id_: str, body: bytes, delay: float) -> None:
        messages = self._topics.get(topic)
        if messages is None:
            messages = self._topics[topic] = []
            self.keys += self._names.topic(topic)
        messages += id_, self.blobs.place(body, id_), milliseconds(delay)
