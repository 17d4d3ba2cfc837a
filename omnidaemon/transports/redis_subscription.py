"""One consumer's place in a group on Redis: it claims, hands back what nobody saw, and settles."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

import anyio
from redis.exceptions import RedisError, ResponseError

from omnidaemon.drivers import redis_scripts as scripts
from omnidaemon.drivers.redis import Lane, LinkLostError, answer_of, run_on, start
from omnidaemon.drivers.redis_client import pack
from omnidaemon.drivers.redis_errors import explain
from omnidaemon.errors import ConnectionLost, OmniDaemonError, TransportError
from omnidaemon.messages import Ack, Bury, Consumer, Delivery, Settlement, Verdict
from omnidaemon.transports.redis_groups import RedisGroups
from omnidaemon.transports.redis_settling import Batch, Token

_RECEIPTS = 64  # batches whose tokens a subscription remembers
POLL = 5.0  # seconds; what a lost wake-up costs at most
_POLL_DEAF = 0.5  # the same while there is no pub/sub connection


class RedisSubscription:
    """One consumer's place in a group.

    Attributes:
        consumer: See the contract.
        backlog: See the contract.
    """

    def __init__(self, groups: RedisGroups, consumer: Consumer, backlog: int) -> None:
        self.consumer = consumer
        self.backlog = backlog
        self._groups = groups
        self._here = groups.here
        self._channel = groups.keys.wake(consumer.topic)
        self._attending = False
        self._removed = False
        # Each with the connection that it was given on, as long as nothing speaks against it.
        self._held: dict[Token, Lane | None] = {}
        self._doubts: set[Token] = set()
        self._batch = 0
        self._doubtful = False
        self._vouch = False
        self._mark = 1  # the last that was set; `join` has set the first
        self._quiet = False
        self._short = True
        self._claiming = asyncio.Lock()
        self._returning: asyncio.Task[None] | None = None
        self._compared = time.monotonic()
        self._receipts: deque[set[Token]] = deque(maxlen=_RECEIPTS)
        keys, topic, group = groups.keys, consumer.topic, consumer.group
        stream, meta, delayed = keys.topic(topic)
        members, due, retry, attempts, dead = keys.group(topic, group)
        registry = keys.registry_for(topic)
        self._stream = stream
        self._claim_keys = [registry, stream, meta, delayed, members, due, retry, attempts]
        self._leave_keys = [stream, meta, members, due, retry]
        receipts = keys.receipts(f"{group}/{consumer.name}", topic)
        self._settle_keys = [registry, stream, meta, due, retry, attempts, dead, receipts, members]

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See the contract."""
        if limit <= 0:
            return []
        ears = self._here.ears
        deadline = anyio.current_time() + wait
        # Listening begins before looking: what comes in between rings.
        with ears.bell.listen(self._channel) as ear:
            if wait > 0 and not self._attending:
                await ears.attend(self._channel)
                self._attending = True
            while True:
                deliveries, again = await self._claim(limit)
                left = deadline - anyio.current_time()
                if deliveries or (left <= 0 and again > 0):
                    return deliveries
                if again > 0:
                    await ear.wait(min(left, again, POLL if ears.up else _POLL_DEAF))

    async def _claim(self, limit: int) -> tuple[list[Delivery], float]:
        """Leases deliveries; without any, the seconds after which to look again."""
        # One after another: each tells what it knows to be held, and must not miss a reply.
        async with self._claiming:
            try:
                return await self._claim_on(await self._here.link.lane(self._stream), limit)
            except LinkLostError as error:
                self._doubtful = True
                raise ConnectionLost(str(error), may_be_stored=error.sent) from error
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    self._doubtful = True  # one of the two may have been done
                    raise TransportError(explain(error)) from error
            except asyncio.CancelledError:
                # What this claim leases nobody will see: it is handed back right after it.
                self._doubtful = True
                self._returning = asyncio.create_task(self._return())
                raise
        return await self._repair()

    async def _claim_on(self, lane: Lane, limit: int) -> tuple[list[Delivery], float]:
        """What came back goes first. As long as nothing does, both questions leave together."""
        compare = self._doubtful or time.monotonic() - self._compared > self.consumer.lease / 3
        quiet, idle = self._quiet and not compare, self._short
        arguments = self._arguments(0 if quiet else limit, compare=compare, idle=idle)
        asked = start(lane, scripts.CLAIM, self._claim_keys, arguments)
        reading = self._read(lane, limit) if quiet else None
        answer = await answer_of(lane, asked, scripts.CLAIM, self._claim_keys, arguments)
        status = answer[0].decode()
        if status in ("missing", "removed"):
            self._removed |= status == "removed"
            return await self._repair()
        _, generation, again, back, vouched = answer
        self._removed = False
        if compare:
            self._doubtful = False
            self._compared = time.monotonic()
        self._vouch = not vouched
        if self._vouch:  # something was taken: from here on nothing that is held now is sure
            self._held = dict.fromkeys(self._held)
        paused = status == "paused"
        self._quiet = again != 0 and not paused
        if reading is None and not paused and len(back) < limit:
            reading = self._read(lane, limit - len(back))
        rows: list[Any] = []
        if reading is not None:
            rows = _rows(await reading[0])
            if rows:  # the group may have been paused, or made again, since the script
                current, halted = await reading[1]
                paused = paused or halted is not None or current != generation
        if paused and rows:  # read in the moment of pausing: handed back at once, uncharged
            self._doubtful = True
            return [], 0.0
        deliveries = self._deliveries(generation.decode(), back, rows)
        self._held.update(
            (cast(Token, delivery.token), None if self._vouch else lane) for delivery in deliveries
        )
        self._short = len(deliveries) < limit
        if not deliveries and not idle and not paused:
            return [], 0.0  # once more, with word left that somebody waits
        return deliveries, POLL if again < 0 else again / 1000

    def _read(self, lane: Lane, count: int) -> tuple[asyncio.Future[Any], asyncio.Future[Any]]:
        """Asks for new events, and right behind for the group's generation and if it pauses."""
        meta, group = self._claim_keys[2], self.consumer.group
        reading = lane.send(
            *("XREADGROUP", "GROUP", group, self.consumer.name),
            *("COUNT", count, "STREAMS", self._stream, ">"),
        )
        return reading, lane.send("HMGET", meta, f"gen/{group}", f"paused/{group}")

    def _arguments(self, limit: int, *, compare: bool, idle: bool) -> bytes:
        consumer = self.consumer
        arguments: dict[str, Any] = {
            "topic": consumer.topic,
            "group": consumer.group,
            "consumer": consumer.name,
            "channel": self._channel,
            "limit": limit,
            "idle": idle,
        }
        if self._vouch:  # a new one each time: a claim or settlement that comes late fits none
            self._mark += 1
            arguments["vouch"] = self._mark
        # Now and then without cause: a server that hung may execute an old claim late.
        if compare:
            arguments["known"] = self._known()
        return pack(arguments)

    def _known(self) -> list[str]:
        return [f"{kind}{id_} {count}" for kind, id_, count, *_ in self._held]

    async def _repair(self) -> tuple[list[Delivery], float]:
        """Makes a group again that was lost otherwise than by removing it, where it was."""
        self._quiet = False
        if not self._removed:
            joined = await self._groups.join(self.consumer, "auto", repair=True)
            if joined[0] == b"joined":
                return [], 0.0
        self._removed = True
        return [], POLL

    async def _return(self) -> None:
        """Hands back what a claim has leased for nobody."""
        async with self._claiming:
            if self._doubtful:
                with suppress(LinkLostError, RedisError):  # the next claim does it
                    arguments = self._arguments(0, compare=True, idle=False)
                    await self._here.link.run(scripts.CLAIM, self._claim_keys, arguments)
                    self._doubtful = False

    def _deliveries(self, generation: str, back: list[Any], fresh: list[Any]) -> list[Delivery]:
        topic, group = self.consumer.topic, self.consumer.group
        deliveries: list[Delivery] = []
        for kind, count, runs, (position, fields) in back:
            attempt, crashes, replays = map(int, runs.split())
            place = position.decode()
            token: Token = (kind.decode(), place, count, generation, _number(fields))
            if token[0] == "r":
                place = _field(fields, 7).decode()
            event, body = _event(place, fields)
            deliveries.append(
                Delivery(topic, group, event, place, body, token, attempt, crashes, replays)
            )
        for position, fields in fresh:
            place = position.decode()
            event, body = _event(place, fields)
            token = ("s", place, 1, generation, _number(fields))
            deliveries.append(Delivery(topic, group, event, place, body, token))
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Verdict]:
        """See the contract."""
        verdicts: dict[Token, Verdict] = {}
        generations: dict[str, dict[Token, Settlement]] = {}
        for settlement in settlements:
            token = cast(Token, settlement.delivery.token)
            generations.setdefault(token[3], {}).setdefault(token, settlement)
        for batch in generations.values():  # more than one only after the group was made again
            await self._settle_all(batch, verdicts)
        answer: list[Verdict] = []
        for settlement in settlements:
            token = cast(Token, settlement.delivery.token)
            answer.append(verdicts[token])
            if verdicts[token] == "applied":
                verdicts[token] = "repeated"  # a second time in this batch
        if "applied" in answer:
            with suppress(OmniDaemonError):  # the next batch trims
                await self._groups.trim_after(self.consumer.topic, settlements)
        return answer

    async def _settle_all(
        self, batch: dict[Token, Settlement], verdicts: dict[Token, Verdict]
    ) -> None:
        """Settles those that are held: all in one step, without those that turn out not to be."""
        while batch:
            letters = await self._ask_to_settle(list(batch.values()))
            if letters is None:
                self._receipts.append(set(batch))
                verdicts |= dict.fromkeys(batch, "applied")
                self._forget(batch)
                return
            for token, letter in zip(list(batch), letters, strict=True):
                if letter == "h":
                    continue
                before = letter == "r" or any(token in receipt for receipt in self._receipts)
                verdicts[token] = "repeated" if before else "lost"
                self._forget((token,))
                del batch[token]

    def _forget(self, tokens: Iterable[Token]) -> None:
        for token in tokens:
            self._held.pop(token, None)
        if self._doubts:
            self._doubts.difference_update(tokens)

    async def _ask_to_settle(self, settlements: Sequence[Settlement]) -> Sequence[str] | None:
        """None if all were applied; else a letter each, and nothing was applied."""
        groups, held = self._groups, self._held
        batch = Batch(groups.keys, groups.limits, self.consumer, settlements)
        tokens = [cast(Token, settlement.delivery.token) for settlement in settlements]
        keys = self._settle_keys + batch.keys
        try:
            lane = await self._here.link.lane(self._stream)
            sure = self._mark if all(held.get(token) is lane for token in tokens) else None
            self._batch += 1
            arguments = batch.packed(
                self._batch, holds=len(held) + 16, sure=sure, doubts=bool(self._doubts)
            )
            # What is handed back here may be due at once, and comes before anything new.
            self._quiet = self._quiet and all(type(s.action) in (Ack, Bury) for s in settlements)
            # Sure once: after this, whatever comes of it, they may be settled.
            held.update(dict.fromkeys(token for token in tokens if token in held))
            answer = await run_on(lane, scripts.SETTLE, keys, arguments, *batch.blobs)
        except LinkLostError as error:
            if error.sent:
                self._doubts.update(tokens)
            raise ConnectionLost(str(error), may_be_stored=error.sent) from error
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise TransportError(explain(error)) from error
            return "l" * len(settlements)  # with the group its leases are gone
        except asyncio.CancelledError:
            self._doubts.update(tokens)
            raise
        return None if answer == b"a" else batch.in_order(answer)

    async def leave(self) -> None:
        """Forgets the consumer; what nobody was given is handed back."""
        if self._attending:
            self._here.ears.leave(self._channel)
        if self._returning is not None:
            await asyncio.wait([self._returning])
        consumer = self.consumer
        await self._groups.run(
            scripts.LEAVE,
            self._leave_keys,
            group=consumer.group,
            consumer=consumer.name,
            channel=self._channel,
            known=self._known(),
        )


def _rows(reply: Any) -> list[Any]:
    """The entries in a reply to XREADGROUP on one stream."""
    return [] if reply is None else cast(list[Any], reply[0][1])


def _field(fields: list[bytes], place: int) -> bytes:
    return fields[place] if len(fields) > place else b"0"


def _number(fields: list[bytes]) -> int:
    """The event's place in the order of its topic; 0 for one that another program added."""
    number = _field(fields, 5).partition(b" ")[0]
    return int(number) if number.isdigit() else 0


def _event(position: str, fields: list[bytes]) -> tuple[str, bytes]:
    """The id and body of an entry; of one that another program added, what there is."""
    if len(fields) > 3 and fields[0] == b"id":
        return fields[1].decode(errors="replace"), fields[3]
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    return found.get(b"id", position.encode()).decode(errors="replace"), found.get(b"body", b"")
