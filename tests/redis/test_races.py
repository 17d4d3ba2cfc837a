"""Orders of events on Redis in which two workers, or two tries, could both have their way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from omnidaemon.drivers.redis import Call, Lane
from omnidaemon.drivers.redis_scripts import CLAIM, SETTLE, Script
from omnidaemon.errors import ConnectionLost
from omnidaemon.messages import Ack, Count, Delivery, Message, RetryAfter, Settlement
from omnidaemon.stores.redis import RedisStore
from omnidaemon.transports import redis_subscription
from omnidaemon.transports.redis import RedisTransport
from tests.redis.servers import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def elsewhere(server: RedisServer) -> Any:
    async with RedisTransport(server.url) as transport:
        yield transport


@contextmanager
def held_back(script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The network holds back the next command with the script, and its connection is given up."""
    caught: list[Any] = []
    ends: list[asyncio.Future[None]] = []
    send = Lane.send

    def hold(lane: Lane, *command: Any) -> asyncio.Future[Any]:
        if caught or command[:2] != ("EVALSHA", script.digest):
            return send(lane, *command)
        caught.extend(command)
        future = asyncio.get_running_loop().create_future()
        lane._waiting.append(Call(future))
        lane._end("no answer")
        ends.append(asyncio.ensure_future(lane._connection.disconnect(nowait=True)))
        return future

    with monkeypatch.context() as patched:
        patched.setattr(Lane, "send", hold)
        yield caught


def ack(delivery: Delivery, who: str) -> Settlement:
    reply = Message("replies", f"{delivery.id}-by-{who}", b"{}")
    return Settlement(delivery, Ack(), (reply,), (Count("runs", delivery.id, "settled", 1),))


async def received(subscription: Any, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    with anyio.fail_after(60):
        while len(found) < count:
            found += await subscription.receive(count - len(found), wait=0.2)
    return found


async def check_settled_once(server: RedisServer, transport: RedisTransport, *ids: str) -> None:
    async with RedisStore(server.url) as store:
        assert await store.totals("runs") == {id_: {"settled": 1} for id_ in ids}
    replies = [event.id.partition("-")[0] for event in await transport.browse("replies", 100)]
    assert sorted(replies) == sorted(ids)


async def test_a_settlement_that_comes_after_a_takeover_does_nothing(
    transport: RedisTransport,
    elsewhere: RedisTransport,
    server: RedisServer,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with transport.subscribe("orders", "mail", lease=0.5) as one:
        await transport.publish(Message("orders", "a", b""), Message("orders", "b", b""))
        first = await received(one, 2)
        async with elsewhere.subscribe("orders", "mail", lease=0.5) as two:
            with held_back(SETTLE, monkeypatch) as late, pytest.raises(ConnectionLost):
                await one.settle([ack(d, "one") for d in first])
            second = await received(two, 2)
            assert await two.settle([ack(second[0], "two")]) == ["applied"]
            assert await one.settle([ack(d, "one") for d in first]) == ["lost", "lost"]
            await one.receive(2, wait=0)  # sees that something was taken, and
            await one.receive(2, wait=0)  # vouches for itself anew
            await client.execute_command(*late)
            assert await two.settle([ack(second[1], "two")]) == ["applied"]
    await check_settled_once(server, transport, "a", "b")


async def test_a_claim_that_comes_late_takes_nothing_unseen(
    transport: RedisTransport,
    elsewhere: RedisTransport,
    server: RedisServer,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        transport.subscribe("orders", "mail", lease=30) as one,
        elsewhere.subscribe("orders", "mail", lease=30) as two,
    ):
        await one.receive(2, wait=0)
        one._doubtful = True  # the next claim says what it knows to be held: nothing
        with held_back(CLAIM, monkeypatch) as late, pytest.raises(ConnectionLost):
            await one.receive(1, wait=0)
        await transport.publish(*(Message("orders", id_, b"") for id_ in "abc"))
        first = await received(one, 3)
        await client.execute_command(*late)
        second = await received(two, 2)
        assert await two.settle([ack(second[0], "two")]) == ["applied"]
        # Not even the one that the late claim leased: it is found when notes are compared.
        assert await one.settle([ack(d, "one") for d in first]) == ["lost"] * 3
        assert await two.settle([ack(second[1], "two")]) == ["applied"]
        one._compared = 0.0
        assert await one.settle([ack(d, "one") for d in await received(one, 1)]) == ["applied"]
    await check_settled_once(server, transport, "a", "b", "c")


async def test_a_retry_of_a_group_that_was_lost_takes_nothing_from_who_runs_it(
    transport: RedisTransport, elsewhere: RedisTransport, server: RedisServer, client: Any
) -> None:
    async with (
        transport.subscribe("orders", "mail", lease=30) as one,
        elsewhere.subscribe("orders", "mail", lease=30) as two,
    ):
        await transport.publish(Message("orders", "a", b""))
        (delivery,) = await received(one, 1)
        await one.settle([Settlement(delivery, RetryAfter(0.3))])
        await client.xgroup_destroy("omni-stream:orders", "mail")
        first = await received(one, 1)
        await anyio.sleep(0.4)  # the retry would be due
        assert await two.receive(1, wait=0) == []
        await transport.publish(Message("orders", "b", b""))
        second = await received(two, 1)
        assert await one.settle([ack(d, "one") for d in first]) == ["applied"]
        assert await two.settle([ack(d, "two") for d in second]) == ["applied"]
    await check_settled_once(server, transport, "a", "b")


async def test_a_queued_publish_that_was_cancelled_and_made_again_stores_one_event(
    transport: RedisTransport, client: Any
) -> None:
    await transport.publish(Message("orders", "warm-up", b""))
    first = asyncio.create_task(transport.publish(Message("orders", "a", b"")))
    second = asyncio.create_task(transport.publish(Message("orders", "b", b"")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await transport.publish(Message("orders", "b", b""))
    assert await client.xlen("omni-stream:orders") == 3


async def test_a_worker_that_stood_still_gets_nothing_of_a_group_paused_meanwhile(
    transport: RedisTransport, elsewhere: RedisTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_of = redis_subscription.answer_of
    answered, go_on = asyncio.Event(), asyncio.Event()

    async def stand_still(*arguments: Any) -> Any:
        answer = await answer_of(*arguments)
        answered.set()
        await go_on.wait()
        return answer

    async with transport.subscribe("orders", "mail", lease=30) as mail:
        monkeypatch.setattr(redis_subscription, "answer_of", stand_still)
        receiving = asyncio.create_task(mail.receive(1, wait=0.3))
        await answered.wait()
        await elsewhere.pause("orders", "mail")
        await elsewhere.publish(Message("orders", "a", b""))
        monkeypatch.setattr(redis_subscription, "answer_of", answer_of)
        go_on.set()
        assert await receiving == []


async def test_thousands_of_second_attempts_settle_in_one_batch(
    transport: RedisTransport, server: RedisServer
) -> None:
    ids = [f"e{n}" for n in range(9_000)]
    await transport.publish(*(Message("orders", id_, b"") for id_ in ids))
    async with transport.subscribe("orders", "mail", lease=60) as mail:
        first = await received(mail, len(ids))
        await mail.settle([Settlement(d, RetryAfter(0)) for d in first])
        second = await received(mail, len(ids))
        counted = (Count("runs", "all", "settled", 1),)
        verdicts = await mail.settle([Settlement(d, Ack(), changes=counted) for d in second])
        assert set(verdicts) == {"applied"}
        with pytest.raises(ValueError, match="finite"):
            await mail.settle(
                [Settlement(second[0], Ack(), changes=(Count("a", "b", "c", float("nan")),))]
            )
    async with RedisStore(server.url) as store:
        assert await store.totals("runs") == {"all": {"settled": len(ids)}}
