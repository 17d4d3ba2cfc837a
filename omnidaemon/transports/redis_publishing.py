"""Publishing to Redis: calls of one turn of the event loop leave together, and are stored once.

One batch is on its way at a time; meanwhile the next gathers. A batch whose reply was lost may be
stored or not: the server keeps the numbers of each publisher's last batches, and a call that is
made again says in which it was before. So it is stored once, whoever repeats it.

In a cluster each topic has a publisher of its own, and a call of several topics is several steps.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

from omnidaemon.drivers.redis import Link, LinkLostError
from omnidaemon.drivers.redis_changes import Blobs, milliseconds
from omnidaemon.drivers.redis_client import pack
from omnidaemon.drivers.redis_cluster import ClusterLink
from omnidaemon.drivers.redis_keys import Keys
from omnidaemon.drivers.redis_scripts import PUBLISH, PUBLISH_ONE, Script
from omnidaemon.errors import BacklogFull
from omnidaemon.messages import Message

_CALLS_MOST = 1_000
_PUBLISHERS_MOST = 1_000  # those that do nothing are forgotten beyond
_REMEMBERED = 10_000  # calls whose fate was unknown, until they are made again; topics named
_AGAIN = 2  # times a batch is sent again at once, before its callers are told

_Name = tuple[tuple[str, str], ...]
_Question = tuple[Script, list[str], list[bytes]]


def check_bodies(messages: Sequence[Message]) -> None:
    """Raises TypeError for a body that is not bytes."""
    for message in messages:
        if not isinstance(message.body, bytes):
            raise TypeError(f"the body of {message.id!r} is {type(message.body).__name__}")


class _Call:
    """One call of publish."""

    __slots__ = ("future", "messages", "name")

    def __init__(self, messages: Sequence[Message]) -> None:
        check_bodies(messages)  # before others go along with it
        self.messages = messages
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.name = _name(messages)


def _name(messages: Sequence[Message]) -> _Name:
    return tuple((message.topic, message.id) for message in messages)


class Registry:
    """Says in a cluster which topics there are: their own slots cannot be asked for all of them.

    A topic is named before anything is in it, so that one with events is always found. A name
    without a topic does no harm.
    """

    def __init__(self, keys: Keys) -> None:
        self._key = keys.registry
        self._added: set[str] = set()

    async def add(self, link: Link | ClusterLink, topic: str, *, anew: bool = False) -> None:
        """Names the topic, unless this process has, and nobody (`anew`) removed it since."""
        if anew:
            self._added.discard(topic)
        if topic not in self._added:
            await link.call("SADD", self._key, topic)
            if len(self._added) >= _REMEMBERED:
                self._added.clear()  # naming them once more costs little
            self._added.add(topic)

    async def remove(self, link: Link | ClusterLink, topic: str) -> None:
        """Takes the name back."""
        self._added.discard(topic)
        await link.call("SREM", self._key, topic)


class Publishers:
    """One event loop's publishers in a cluster: one for each topic."""

    def __init__(self, link: Link | ClusterLink, keys: Keys, bound: int | None, registry: Registry):
        self._arguments = (link, keys, bound, registry)
        self._publishers: dict[str, Publisher] = {}

    async def publish(self, messages: Sequence[Message]) -> None:
        """Stores what goes to one topic in one step, topic after topic.

        After an error some topics may have theirs. The same call made again stores only the rest.
        """
        check_bodies(messages)
        topics: dict[str, list[Message]] = {}
        for message in messages:
            topics.setdefault(message.topic, []).append(message)
        done: list[str] = []
        try:
            for topic, some in topics.items():
                await self._publisher(topic).publish(some)
                done.append(topic)
        except BaseException:
            for topic in done:
                self._publisher(topic).remember(topics[topic])
            raise

    def _publisher(self, topic: str) -> Publisher:
        publisher = self._publishers.get(topic)
        if publisher is None:
            if len(self._publishers) >= _PUBLISHERS_MOST:
                self._publishers = {
                    name: one for name, one in self._publishers.items() if not one.is_idle
                }
            publisher = self._publishers[topic] = Publisher(*self._arguments, topic)
        return publisher


class Publisher:
    """One event loop's way of publishing; in a cluster, to one topic."""

    def __init__(
        self,
        link: Link | ClusterLink,
        keys: Keys,
        bound: int | None,
        registry: Registry,
        topic: str | None = None,
    ) -> None:
        self._link = link
        self._keys = keys
        self._bound = -1 if bound is None else bound
        self._registry = registry
        self._topic = topic
        self._receipts = keys.receipts(secrets.token_hex(8), topic)
        self._calls: list[_Call] = []
        self._busy = False
        self._task: asyncio.Task[None] | None = None
        self._batch = 0
        self._doubts: dict[_Name, list[int]] = {}
        self._stored: dict[_Name, None] = {}
        self._places: dict[str, tuple[list[str], tuple[bytes, bytes]]] = {}

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost with it."""
        return not (self._busy or self._calls or self._doubts or self._stored)

    def remember(self, messages: Sequence[Message]) -> None:
        """These are stored, and a call that publishes just them is the same one made again."""
        self._stored[_name(messages)] = None
        self._forget_oldest()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Returns when all are stored; LinkLostError, RedisError or BacklogFull if none is."""
        call = _Call(messages)
        if self._is_stored(call):
            return
        if self._busy:
            self._calls.append(call)
            await call.future
            return
        # Alone: no task stands between the caller and the server.
        self._busy = True
        try:
            await self._flush([call])
        except asyncio.CancelledError:
            self._doubt([call])  # made again, it is stored once
            raise
        finally:
            if self._calls:
                self._task = asyncio.create_task(self._flush_rest(), name="omnidaemon-publish")
            else:
                self._busy = False
        call.future.result()

    async def _flush_rest(self) -> None:
        """Stores what came meanwhile, and what comes while that is stored."""
        try:
            while self._calls:
                calls, self._calls = self._calls[:_CALLS_MOST], self._calls[_CALLS_MOST:]
                # The batch before may have found out that one of them was stored at its first try.
                if calls := [
                    call
                    for call in calls
                    if not call.future.cancelled() and not self._is_stored(call)
                ]:
                    await self._flush(calls)
        finally:
            self._busy = False

    def _is_stored(self, call: _Call) -> bool:
        """Whether it was stored when it was made before, as a later batch has found out."""
        if call.name not in self._stored:
            return False
        del self._stored[call.name]
        if not call.future.done():
            call.future.set_result(None)
        return True

    async def _flush(self, calls: list[_Call]) -> None:
        try:
            await self._store(calls)
        except Exception as error:
            for call in calls:
                if not call.future.done():
                    call.future.set_exception(error)
        except BaseException:
            for call in calls:
                call.future.cancel()
            raise

    async def _store(self, calls: list[_Call]) -> None:
        sent = False
        for turn in range(_AGAIN + 1):
            self._batch += 1
            doubts: list[int] = []
            if self._doubts:
                doubts = sorted({batch for batches in self._doubts.values() for batch in batches})
            script, keys, arguments = self._one(calls, doubts) or self._packed(calls, doubts)
            try:
                if self._topic is not None:
                    await self._registry.add(self._link, self._topic)
                reply = await self._link.run(script, keys, *arguments)
            except LinkLostError as error:
                if error.sent:
                    self._doubt(calls)
                    sent = True
                if turn == _AGAIN or not error.sent:
                    raise LinkLostError(str(error), sent=sent) from error
            else:
                answers, confirmed, opened = reply if script is PUBLISH else ([b""], (), reply)
                self._resolve(calls, set(confirmed))
                for call, answer in zip(calls, answers, strict=True):
                    self._answer(call, answer)
                if opened and self._topic is not None:
                    await self._registry.add(self._link, self._topic, anew=True)
                return

    def _one(self, calls: list[_Call], doubts: list[int]) -> _Question | None:
        """What to send if it is one event, now, and nothing else is asked; None if it is not."""
        if len(calls) > 1 or doubts or self._bound >= 0 or len(calls[0].messages) > 1:
            return None
        (message,) = calls[0].messages
        if message.delay:
            return None
        keys, words = self._places.get(message.topic) or self._place(message.topic)
        rest = (message.id.encode(), message.body, b"%d" % self._batch)
        return PUBLISH_ONE, keys, [*words, *rest]

    def _place(self, topic: str) -> tuple[list[str], tuple[bytes, bytes]]:
        """The keys of a topic and what it is called, worked out once."""
        stream, meta, _ = self._keys.topic(topic)
        keys = [self._keys.registry_for(topic), self._receipts, stream, meta]
        if len(self._places) >= _REMEMBERED:
            self._places.clear()
        found = self._places[topic] = keys, (topic.encode(), self._keys.wake(topic).encode())
        return found

    def _packed(self, calls: list[_Call], doubts: list[int]) -> _Question:
        places: dict[str, int] = {}
        packed: list[list[Any]] = []
        timed = False
        blobs = Blobs()
        for call in calls:
            body: list[Any] = [self._doubts.get(call.name, ())]
            topics: dict[str, list[Any]] = {}
            for message in call.messages:
                messages = topics.get(message.topic)
                if messages is None:
                    messages = topics[message.topic] = []
                    body += places.setdefault(message.topic, len(places) + 1), messages
                messages += message.id, blobs.place(message.body, message.id)
                messages.append(milliseconds(message.delay) if message.delay else 0)
                timed |= message.delay > 0
            packed.append(body)
        common = {
            "batch": self._batch,
            "doubts": doubts,
            "bound": self._bound,
            "timed": self._bound >= 0 or timed,
            "calls": packed,
            "topics": list(places),
            "channels": [self._keys.wake(topic) for topic in places],
        }
        # With one topic its own registry; and for one server all registries are the same.
        keys = [self._keys.registry_for(next(iter(places))), self._receipts]
        for topic in places:
            keys += self._keys.topic(topic)
        return PUBLISH, keys, [pack(common), *blobs]

    def _doubt(self, calls: list[_Call]) -> None:
        for call in calls:
            self._doubts.setdefault(call.name, []).append(self._batch)

    def _resolve(self, calls: list[_Call], confirmed: set[int]) -> None:
        """The server has said which of the doubtful batches it had stored."""
        if not self._doubts:
            return
        for call in calls:
            self._doubts.pop(call.name, None)
        for name, batches in self._doubts.items():
            if confirmed.intersection(batches):
                self._stored[name] = None
        self._doubts = {}
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        while len(self._stored) > _REMEMBERED:
            del self._stored[next(iter(self._stored))]

    def _answer(self, call: _Call, answer: Any) -> None:
        if call.future.done():
            if not answer:
                self.remember(call.messages)  # made again, it is stored once
            return
        if not answer:
            call.future.set_result(None)
            return
        place, held, more = answer
        topic = list(dict.fromkeys(message.topic for message in call.messages))
        named = topic[place - 1] if place <= len(topic) and len(topic) > 1 else topic[0]
        in_it = "" if self._topic is None else " in it"
        call.future.set_exception(
            BacklogFull(
                f"topic {named!r} holds {held} unsettled events, and {more} more would pass the"
                f" bound of {self._bound}: nothing was stored{in_it}. Start more consumers,"
                " remove groups that nobody serves, or raise the bound"
            )
        )
