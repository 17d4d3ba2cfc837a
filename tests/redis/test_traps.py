"""The traps of Redis that design and field reports name: each was fallen into by somebody."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import anyio
import pytest

from omnidaemon.drivers import redis as redis_driver
from omnidaemon.drivers.redis import LinkLostError
from omnidaemon.drivers.redis_scripts import (
    CLAIM,
    LATER,
    PUBLISH,
    PUBLISH_ONE,
    SETTLE,
    TRIM,
    Script,
)
from omnidaemon.errors import ConnectionLost, TransportError
from omnidaemon.messages import Ack, Count, Delivery, Message, Release, Settlement, Write
from omnidaemon.stores.redis import RedisStore
from omnidaemon.transports.base import Limits
from omnidaemon.transports.redis import RedisTransport
from tests.process.chaos import NOISE_SECONDS, RESUME_SECONDS
from tests.redis.conftest import Proxy
from tests.redis.servers import RedisServer

pytestmark = pytest.mark.anyio


def events(count: int, topic: str = "orders") -> list[Message]:
    return [Message(topic, f"e{n}", b"{}") for n in range(count)]


@pytest.mark.parametrize(("count", "script"), [(1, PUBLISH_ONE), (3, PUBLISH)])
async def test_a_publish_whose_reply_was_cut_stores_its_events_once(
    proxy: Proxy, client: Any, count: int, script: Script
) -> None:
    async with RedisTransport(proxy.url) as transport:
        await transport.publish(*events(count, "warm-up"))  # so that the script is known
        proxy.cut_reply_to(script.digest)
        await transport.publish(*events(count))
    assert proxy.cuts == 1
    assert await client.xlen("omni-stream:orders") == count


async def test_a_publish_that_was_cancelled_and_made_again_stores_one_event(
    transport: RedisTransport, client: Any
) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await transport.publish(*events(1))
    await transport.publish(*events(1, "another"))
    await transport.publish(*events(1))
    assert await client.xlen("omni-stream:orders") == 1


async def test_a_publish_made_again_by_its_caller_stores_one_event(
    server: RedisServer, proxy: Proxy, client: Any
) -> None:
    async with RedisTransport(proxy.url) as transport:
        await transport.publish(*events(2, "warm-up"))  # the script of several is known
        proxy.cut_reply_to(PUBLISH.digest)
        publisher = transport.here.rest["publisher"]
        again, publisher._link.run = publisher._link.run, _once(publisher._link.run)
        with pytest.raises(ConnectionLost) as lost:
            await transport.publish(*events(3))
        assert lost.value.may_be_stored
        publisher._link.run = again
        await transport.publish(*events(1, "another"))
        await transport.publish(*events(3))
    assert await client.xlen("omni-stream:orders") == 3


async def test_a_publish_made_again_while_another_is_on_its_way_stores_one_event(
    proxy: Proxy, client: Any
) -> None:
    async with RedisTransport(proxy.url) as transport:
        await transport.publish(*events(2, "warm-up"))  # the script of several is known
        proxy.cut_reply_to(PUBLISH.digest)
        publisher = transport.here.rest["publisher"]
        again, publisher._link.run = publisher._link.run, _once(publisher._link.run)
        with pytest.raises(ConnectionLost):
            await transport.publish(*events(3))
        publisher._link.run = again
        async with anyio.create_task_group() as group:
            group.start_soon(transport.publish, *events(1, "another"))
            group.start_soon(transport.publish, *events(3))  # waits for it, and learns from it
    assert await client.xlen("omni-stream:orders") == 3
    assert await client.xlen("omni-stream:another") == 1


def _once(run: Any) -> Any:
    """The first call goes through; the connection stays away after it."""
    calls = 0

    async def ask(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise LinkLostError("away", sent=False)
        return await run(*arguments)

    return ask


async def test_what_a_cut_claim_leased_is_taken_up_uncharged(proxy: Proxy) -> None:
    async with RedisTransport(proxy.url) as transport:
        await transport.publish(*events(300))
        async with transport.subscribe("orders", "mail", lease=60) as mail:
            first = await mail.receive(100, wait=0)
            proxy.cut_reply_to(CLAIM.digest)
            with pytest.raises(ConnectionLost):
                await mail.receive(118, wait=0)
            rest: list[Delivery] = []
            while some := await mail.receive(50, wait=0):
                rest += some
    assert proxy.cuts == 1
    assert sorted(d.id for d in [*first, *rest]) == sorted(m.id for m in events(300))
    assert {(d.attempt, d.crashes) for d in rest} == {(1, 0)}


async def test_a_settlement_whose_reply_was_cut_is_applied_once(proxy: Proxy) -> None:
    store = RedisStore(proxy.url)
    async with RedisTransport(proxy.url) as transport, store:
        await transport.publish(*events(3))
        async with transport.subscribe("orders", "mail", lease=60) as mail:
            (warm_up,) = await mail.receive(1, wait=0)
            await mail.settle([Settlement(warm_up, Ack())])
            batch = [
                Settlement(
                    delivery,
                    Ack(),
                    (Message("replies", delivery.id, b""),),
                    (Count("metrics", "mail", "runs", 1),),
                )
                for delivery in await mail.receive(2, wait=0)
            ]
            proxy.cut_reply_to(SETTLE.digest)
            with pytest.raises(ConnectionLost):
                await mail.settle(batch)
            assert await mail.settle(batch[:1]) == ["repeated"]
            assert await mail.settle(batch) == ["repeated", "repeated"]
        assert await store.totals("metrics") == {"mail": {"runs": 2}}
        assert len(await transport.browse("replies")) == 2


async def test_settling_some_of_many_held_finds_all_of_them(transport: RedisTransport) -> None:
    await transport.publish(*events(300))
    async with transport.subscribe("orders", "mail", lease=60) as mail:
        held = await mail.receive(300, wait=0)
        few = [held[place] for place in (0, 7, 150, 299)]
        assert await mail.settle([Settlement(d, Ack()) for d in few]) == ["applied"] * 4
        assert await transport.renew(mail.consumer, held) == few
        rest = [d for d in held if d not in few]
        assert await mail.settle([Settlement(d, Ack()) for d in rest]) == ["applied"] * 296


async def test_an_old_token_never_fits_again(transport: RedisTransport) -> None:
    await transport.publish(*events(1))
    async with transport.subscribe("orders", "mail", lease=60) as mail:
        tokens = set()
        for _ in range(4):
            (held,) = await mail.receive(1, wait=0)
            tokens.add(held.token)
            await mail.settle([Settlement(held, Release())])
        assert len(tokens) == 4
        (held,) = await mail.receive(1, wait=0)
        assert (held.attempt, held.crashes) == (1, 0)


async def test_a_busy_loop_keeps_its_leases_by_a_thread(
    server: RedisServer, transport: RedisTransport
) -> None:
    await transport.publish(*events(1))
    async with (
        transport.subscribe("orders", "mail", lease=0.4) as mail,
        RedisTransport(server.url) as other,
        other.subscribe("orders", "mail", lease=0.4) as taker,
    ):
        held = await mail.receive(1, wait=0)
        lost: list[Any] = []

        async def keep() -> None:
            for _ in range(12):
                lost.extend(await transport.renew(mail.consumer, held))
                await anyio.sleep(0.1)

        thread = threading.Thread(target=lambda: anyio.run(keep))
        thread.start()
        thread.join()  # this loop stands still, for three leases
        assert await taker.receive(1, wait=0) == []
        assert lost == []
        assert await mail.settle([Settlement(held[0], Ack())]) == ["applied"]


async def test_a_lost_group_is_made_again_at_its_floor(
    transport: RedisTransport, client: Any
) -> None:
    await transport.publish(*events(5))
    async with transport.subscribe("orders", "mail", lease=60) as mail:
        held = await mail.receive(3, wait=0)
        await mail.settle([Settlement(d, Ack()) for d in held[:2]])
        await client.xgroup_destroy("omni-stream:orders", "mail")
        assert await mail.settle([Settlement(held[2], Ack())]) == ["lost"]
        again = await mail.receive(10, wait=1)
        assert [d.id for d in again] == ["e2", "e3", "e4"]


async def test_flushed_scripts_are_loaded_again(transport: RedisTransport, client: Any) -> None:
    await transport.publish(*events(1))
    await client.script_flush()
    await transport.publish(*events(1))
    assert await client.xlen("omni-stream:orders") == 2


async def test_two_hundred_waiting_agents_share_two_sockets(
    transport: RedisTransport, client: Any
) -> None:
    async with anyio.create_task_group() as tasks:
        got: list[str] = []

        async def agent(number: int) -> None:
            async with transport.subscribe(f"t{number}", "a", lease=60) as one:
                got.extend(d.topic for d in await one.receive(1, wait=30))

        for number in range(200):
            tasks.start_soon(agent, number)
        while len(await client.pubsub_channels()) < 200:
            await anyio.sleep(0.01)
        assert len(await client.client_list()) <= 4
        await transport.publish(*(Message(f"t{n}", "x", b"") for n in range(200)))
    assert len(got) == 200


async def test_a_restarted_server_is_found_again_within_two_seconds(
    server: RedisServer, transport: RedisTransport
) -> None:
    async with transport.subscribe("orders", "mail", lease=60) as mail:
        await transport.publish(*events(2))
        held = await mail.receive(1, wait=1)
        server.stop()
        with pytest.raises(ConnectionLost):
            await mail.receive(1, wait=5)
        server.start()
        began = time.monotonic()
        assert [d.id for d in await mail.receive(5, wait=60)] == ["e1"]
        assert time.monotonic() - began < RESUME_SECONDS + NOISE_SECONDS
        assert await mail.settle([Settlement(held[0], Ack())]) == ["applied"]


async def test_a_full_server_says_so(transport: RedisTransport, client: Any) -> None:
    await transport.publish(*events(1))
    await client.config_set("maxmemory", "1")
    with pytest.raises(TransportError, match=r"OOM.*maxmemory"):
        await transport.publish(*events(1))
    await client.config_set("maxmemory", "0")
    assert await client.xlen("omni-stream:orders") == 1


async def test_a_password_is_in_no_message(server: RedisServer) -> None:
    url = f"redis://user:s3cret@127.0.0.1:{server.port}/0"
    transport = RedisTransport(url)
    assert "s3cret" not in transport.backend
    server.stop()
    with pytest.raises(Exception) as error:
        await transport.check()
    assert "s3cret" not in str(error.value)


async def test_dead_consumers_go_and_what_they_held_stays(
    transport: RedisTransport, client: Any
) -> None:
    await transport.publish(*events(2))
    async with transport.subscribe("orders", "mail", lease=0.2) as one:
        await one.receive(1, wait=0)
    names = [c["name"] for c in await client.xinfo_consumers("omni-stream:orders", "mail")]
    assert one.consumer.name in names  # it holds something
    await anyio.sleep(0.3)
    async with transport.subscribe("orders", "mail", lease=0.2) as two:
        held: list[Delivery] = []
        while some := await two.receive(5, wait=0.1):
            held += some
        assert sorted(d.id for d in held) == ["e0", "e1"]


async def test_one_from_whom_something_was_taken_settles_none_of_it(
    server: RedisServer, transport: RedisTransport
) -> None:
    await transport.publish(*events(3))
    async with (
        transport.subscribe("orders", "mail", lease=0.5) as frozen,
        RedisTransport(server.url) as elsewhere,
        elsewhere.subscribe("orders", "mail", lease=0.5) as taker,
    ):
        held = await frozen.receive(3, wait=0)
        taken: list[Delivery] = []
        while len(taken) < 3:
            taken += await taker.receive(3 - len(taken), wait=1)
        counted = (Count("metrics", "mail", "runs", 1),)
        late = [Settlement(d, Ack(), changes=counted) for d in held]
        assert await frozen.settle(late) == ["lost"] * 3
        on_time = [Settlement(d, Ack(), changes=counted) for d in taken]
        assert await taker.settle(on_time) == ["applied"] * 3
        async with RedisStore(server.url) as store:
            assert await store.totals("metrics") == {"mail": {"runs": 3}}
        # It is trusted again with what it is given from now on.
        await transport.publish(*events(3))
        again = [*await frozen.receive(1, wait=1), *await frozen.receive(2, wait=1)]
        assert await frozen.settle([Settlement(d, Ack()) for d in again]) == ["applied"] * 3


async def test_what_one_took_from_itself_is_settled_once(transport: RedisTransport) -> None:
    await transport.publish(*events(1))
    async with transport.subscribe("orders", "mail", lease=0.2) as mail:
        (before,) = await mail.receive(1, wait=0)
        (now,) = await mail.receive(1, wait=2)
        assert (now.id, now.crashes) == (before.id, 1)
        assert await mail.settle([Settlement(before, Ack())]) == ["lost"]
        assert await mail.settle([Settlement(now, Ack())]) == ["applied"]


async def test_a_settlement_that_was_cancelled_and_sent_again_is_applied_once(
    transport: RedisTransport, server: RedisServer
) -> None:
    await transport.publish(*events(2))
    async with transport.subscribe("orders", "mail", lease=60) as mail:
        one, two = [
            Settlement(d, Ack(), (), (Count("metrics", "mail", "runs", 1),))
            for d in await mail.receive(2, wait=0)
        ]
        with anyio.CancelScope() as scope:
            scope.cancel()  # it is sent, and nobody waits for what becomes of it
            await mail.settle([one])
        verdicts = await mail.settle([one, two])
    assert verdicts[1] == "applied"
    async with RedisStore(server.url) as store:
        assert await store.totals("metrics") == {"mail": {"runs": 2}}


async def test_events_read_in_the_moment_of_a_pause_are_handed_back(
    transport: RedisTransport,
) -> None:
    await transport.publish(*events(3))
    async with transport.subscribe("orders", "mail", lease=60) as mail:
        await mail.receive(1, wait=0)  # from here on it reads and looks at the mark in one go
        await transport.pause("orders", "mail")
        assert await mail.receive(5, wait=0) == []
        (group,) = await transport.groups("orders")
        assert (group.leased, group.waiting + group.lag) == (1, 2)
        await transport.resume("orders", "mail")
        rest: list[Delivery] = []
        while len(rest) < 2:
            rest += await mail.receive(5, wait=1)
        assert [(d.id, d.attempt, d.crashes) for d in rest] == [("e1", 1, 0), ("e2", 1, 0)]


async def test_one_message_tells_a_publisher_of_a_whole_batch(
    transport: RedisTransport, client: Any
) -> None:
    ids = [f"{n:024d}-abcdefabcdef" for n in range(3)]
    await transport.publish(*(Message("orders", id_, b"{}") for id_ in ids))
    async with (
        transport.subscribe("orders", "mail", lease=60) as mail,
        transport.watch(ids[0]) as first,
        transport.watch(ids[2]) as last,
        transport.watch(f"other-{ids[1]}") as other,
    ):
        held = await mail.receive(3, wait=0)
        await mail.settle([Settlement(d, Ack(), notice=d.id) for d in held])
        with anyio.fail_after(60):
            await first.wait(600)
            await last.wait(600)
        began = time.monotonic()
        await other.wait(0.1)
        assert time.monotonic() - began > 0.09
        assert (await client.info("commandstats"))["cmdstat_publish"]["calls"] == 1


async def test_labels_that_went_out_of_use_are_swept_as_well(
    server: RedisServer, client: Any
) -> None:
    async with RedisStore(server.url) as store:
        await store.write(Write("results", "a", b"1", label="old", ttl=0.05))
        await anyio.sleep(0.06)
        await store.write(Write("results", "b", b"1", label="new", ttl=60))
        assert await client.hlen("omni-records:results") == 1
        assert await client.zcard("omni-keys:results") == 1
        assert await client.smembers("omni-indexes:results") == {"60000:=new"}


@pytest.mark.parametrize("count", [1, 2])
async def test_a_publish_that_arrives_after_its_repetition_stores_nothing(
    transport: RedisTransport, client: Any, count: int
) -> None:
    for _ in range(3):
        await transport.publish(*events(count))
    transport.here.rest["publisher"]._batch = 1  # as one that was held up on its way
    with pytest.raises(TransportError, match="LATE"):
        await transport.publish(*events(count))
    assert await client.xlen("omni-stream:orders") == 3 * count


async def test_a_settlement_that_arrives_after_its_repetition_does_nothing(
    transport: RedisTransport, server: RedisServer
) -> None:
    await transport.publish(*events(3))
    async with transport.subscribe("orders", "mail", lease=60) as mail, RedisStore(server.url) as s:
        counted = (Count("metrics", "mail", "runs", 1),)
        one, two, three = [
            Settlement(d, Ack(), changes=counted) for d in await mail.receive(3, wait=0)
        ]
        await mail.settle([one])
        await mail.settle([two])
        mail._batch = 0
        with pytest.raises(TransportError, match="LATE"):
            await mail.settle([two, three])
        assert await s.totals("metrics") == {"mail": {"runs": 2}}
        mail._batch = 9
        assert await mail.settle([two, three]) == ["repeated", "applied"]


async def test_when_nobody_renews_any_more_leases_end_after_one_more(
    transport: RedisTransport,
) -> None:
    await transport.publish(*events(1))
    async with (
        transport.subscribe("orders", "mail", lease=0.2) as dead,
        transport.subscribe("orders", "mail", lease=0.2) as heir,
    ):
        held = await dead.receive(1, wait=0)
        assert await transport.renew(dead.consumer, held) == []
        with anyio.fail_after(60):
            while not (taken := await heir.receive(1, wait=0.1)):
                pass
        assert (taken[0].id, taken[0].crashes) == ("e0", 1)


async def test_a_server_that_stood_still_for_less_than_a_lease_ends_none_of_the_living(
    transport: RedisTransport,
) -> None:
    await transport.publish(*events(1))
    async with (
        transport.subscribe("orders", "mail", lease=2) as one,
        transport.subscribe("orders", "mail", lease=2) as other,
    ):
        held = await one.receive(1, wait=0)
        assert await transport.renew(one.consumer, held) == []
        await anyio.sleep(0.6)  # the time that passes is what is tested
        assert await transport.renew(other.consumer, []) == []
        await anyio.sleep(1.5)
        # The lease has ended, but both were kept from renewing: who asks first takes nothing.
        assert await other.receive(1, wait=0) == []
        assert await transport.renew(other.consumer, []) == []
        assert await transport.renew(one.consumer, held) == []


async def test_a_dead_workers_events_are_taken_over_though_the_others_renew_late(
    transport: RedisTransport,
) -> None:
    await transport.publish(*events(1))
    async with (
        transport.subscribe("orders", "mail", lease=0.4) as dead,
        transport.subscribe("orders", "mail", lease=0.4) as heir,
    ):
        held = await dead.receive(1, wait=0)
        assert await transport.renew(dead.consumer, held) == []
        taken: list[Delivery] = []
        with anyio.fail_after(60):
            while not taken:
                await anyio.sleep(0.25)  # always more than half a lease
                await transport.renew(heir.consumer, [])
                taken = await heir.receive(1, wait=0)
        assert (taken[0].id, taken[0].crashes) == ("e0", 1)


async def test_a_renewal_trims_what_was_settled_since_the_last_time(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what the slowest held back would stay until much more has been settled."""
    async with (
        RedisTransport(server.url, limits=Limits(retention=20)) as transport,
        transport.subscribe("orders", "mail", lease=60) as mail,
    ):
        await transport.publish(*events(40))
        first, *others = await mail.receive(40, wait=1)
        await mail.settle([Settlement(delivery, Ack()) for delivery in others])
        await mail.settle([Settlement(first, Ack())])
        assert len(await transport.browse("orders", 50)) == 40
        await transport.renew(mail.consumer, [])  # settling renews as well, where stores differ
        assert len(await transport.browse("orders", 50)) == 40
        run = transport.run

        async def cut(script: Script, *more: Any, **arguments: Any) -> Any:
            if script is TRIM:
                raise ConnectionLost("cut", may_be_stored=False)
            return await run(script, *more, **arguments)

        for trims in (False, True):
            monkeypatch.setattr(transport, "run", run if trims else cut)
            transport._trimmed.clear()  # a third of a lease later
            await transport.renew(mail.consumer, [])
            assert len(await transport.browse("orders", 50)) == (20 if trims else 40)


async def test_an_idle_connection_that_died_is_found_by_itself(
    transport: RedisTransport, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first send after a silent network would wait ten seconds to find out."""
    await transport.check()
    lane = await transport.here.link.lane()
    server.send(signal.SIGSTOP)
    try:
        with monkeypatch.context() as patch, anyio.fail_after(60):
            patch.setattr(redis_driver, "SILENT_SECONDS", 0.4)
            while not lane.lost:
                await anyio.sleep(0.05)
    finally:
        server.send(signal.SIGCONT)
    await transport.check()


async def test_a_dead_workers_events_are_taken_over_though_the_other_is_late_by_leases(
    transport: RedisTransport,
) -> None:
    await transport.publish(*events(100))
    async with (
        transport.subscribe("orders", "mail", lease=0.3) as dead,
        transport.subscribe("orders", "mail", lease=0.3) as heir,
    ):
        await transport.renew(dead.consumer, await dead.receive(1, wait=0))
        taken: list[str] = []
        with anyio.fail_after(40):
            while "e0" not in taken:
                held = await heir.receive(1, wait=0)
                taken += [delivery.id for delivery in held]
                await anyio.sleep(0.45)  # its handler holds Python's lock
                await transport.renew(heir.consumer, held)
                await heir.settle([Settlement(delivery, Ack()) for delivery in held])
    assert len(taken) < 80


async def test_a_short_lease_ends_no_long_one_after_a_silence(
    transport: RedisTransport, server: RedisServer
) -> None:
    await transport.publish(*events(1))
    async with (
        transport.subscribe("orders", "mail", lease=20) as long,
        transport.subscribe("orders", "mail", lease=0.5) as short,
    ):
        held = await long.receive(1, wait=0)
        assert await transport.renew(long.consumer, held) == []
        assert await transport.renew(short.consumer, []) == []
        # As after a silence of 21 seconds, which the server cannot be told to skip.
        for field in ("renewed/mail", "seen/mail"):
            at = int(server.ask("HGET", "omni-topic:orders", field))
            server.ask("HSET", "omni-topic:orders", field, at - 21_000)
        for name, value in server.ask("HGETALL", "omni-members:orders/mail").items():
            if " " in value:
                lease, at = value.split()
                server.ask("HSET", "omni-members:orders/mail", name, f"{lease} {int(at) - 21_000}")
        stream, position = "omni-stream:orders", held[0].position
        owner = long.consumer.name
        server.ask("XCLAIM", stream, "mail", owner, 0, position, "IDLE", 21_000, "JUSTID")
        assert await transport.renew(short.consumer, []) == []
        assert await short.receive(1, wait=0) == []
        assert await transport.renew(long.consumer, held) == []


async def test_a_delayed_event_is_found_while_others_come_due(
    transport: RedisTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [Message("orders", f"late{n}", b"", 600.0 + n // 3) for n in range(1_200)]
    await transport.publish(*(Message("orders", f"e{n}", b"", 0.3) for n in range(300)), *late)
    run, looks = transport.run, 0

    async def slow(script: Script, *more: Any, **arguments: Any) -> Any:
        nonlocal looks
        found = await run(script, *more, **arguments)
        if script is LATER and (looks := looks + 1) == 1:
            while (await transport.topics())[0].events < 300:
                await anyio.sleep(0.05)
        return found

    monkeypatch.setattr(transport, "run", slow)
    for n in (0, 199, 200, 201, 500, 1_199):
        found = await transport.find("orders", f"late{n}")
        assert found is not None
        assert found.id == f"late{n}"
    assert looks > 6
    assert await transport.find("orders", "late1200") is None


async def test_bytes_that_are_no_reply_end_the_connection(transport: RedisTransport) -> None:
    lane = await transport.here.link.lane()
    waiting = lane.send("BLPOP", "nothing", 60)
    await anyio.lowlevel.checkpoint()  # it is on its way
    lane._writer.transport.get_protocol().data_received(b"?what\r\n")
    with pytest.raises(LinkLostError, match="Protocol error"):
        await waiting
    await transport.check()  # over a new one
    assert await transport.here.link.lane() is not lane
