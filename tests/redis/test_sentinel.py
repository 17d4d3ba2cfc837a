"""A primary that sentinels name: found, followed through a failover, never mistaken."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from omnidaemon import App
from omnidaemon.drivers import redis_address
from omnidaemon.drivers.redis_address import Address, Node
from omnidaemon.errors import ConfigurationError, ConnectionLost, OmniDaemonError
from omnidaemon.messages import Ack, Count, Delivery, Message, Settlement, Write
from omnidaemon.stores.redis import RedisStore
from omnidaemon.transports.redis import RedisTransport
from omnidaemon.worker.worker import Worker
from tests.redis.servers import Sentinels, catch_up

pytestmark = pytest.mark.anyio


async def until_it_works(do: Any) -> Any:
    """As a worker or a sender does: again after an error, for some seconds."""
    with anyio.fail_after(60):
        while True:
            try:
                return await do()
            except ConnectionLost:
                await anyio.sleep(0.05)


def settlement(delivery: Delivery) -> Settlement:
    return Settlement(
        delivery,
        Ack(),
        (Message("replies", f"re:{delivery.id}", b"{}"),),
        (Write("results", delivery.id, b"1"), Count("metrics", "mail", "runs", 1)),
    )


async def replicated(sentinels: Sentinels) -> None:
    """Waits until the replica has all that the primary has: the rest is lost in a failover."""
    primary = sentinels.primary
    (replica,) = set(sentinels.servers) - {primary}
    await anyio.to_thread.run_sync(catch_up, replica, primary)


async def test_in_flight_work_settles_once_on_the_new_primary(sentinels: Sentinels) -> None:
    store = RedisStore(sentinels.url)
    async with RedisTransport(sentinels.url) as transport, store:
        await transport.publish(*(Message("orders", f"e{n}", b"{}") for n in range(20)))
        async with transport.subscribe("orders", "mail", lease=60) as mail:
            held = await mail.receive(12, wait=1)
            await mail.settle([settlement(one) for one in held[:4]])
            await replicated(sentinels)
            old = sentinels.primary
            old.stop()
            in_flight = [settlement(one) for one in held[4:]]
            assert await until_it_works(lambda: mail.settle(in_flight)) == ["applied"] * 8
            assert sentinels.primary is not old
            await transport.publish(Message("orders", "e20", b"{}"))
            rest = await until_it_works(lambda: mail.receive(20, wait=1))
            assert [one.id for one in rest] == [f"e{n}" for n in range(12, 21)]
            assert await mail.settle([settlement(one) for one in rest]) == ["applied"] * 9
        replies = await transport.browse("replies", 100)
        assert sorted(r.id for r in replies) == sorted(f"re:e{n}" for n in range(21))
        assert await store.totals("metrics") == {"mail": {"runs": 21}}
        assert len(await store.browse("results")) == 21


async def test_a_worker_and_a_sender_resume_by_themselves(sentinels: Sentinels) -> None:
    app = App("shop", transport=sentinels.url, store=sentinels.url)
    gate = anyio.Event()
    begun: list[int] = []

    @app.agent("orders", consumers=3)
    async def charge(content: dict[str, Any]) -> int:
        begun.append(content["n"])
        await gate.wait()
        return int(content["n"])

    async with app, anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(app).run)
        sent = [await app.send("orders", {"n": n}) for n in range(5)]
        while len(begun) < 3:
            await anyio.sleep(0.01)
        await replicated(sentinels)
        sentinels.primary.stop()
        sent.append(await app.send("orders", {"n": 5}, timeout=60))
        gate.set()
        assert [await task.result(timeout=60) for task in sent] == list(range(6))
        assert sorted(begun) == list(range(6))
        tasks.cancel_scope.cancel()


async def test_who_waits_is_woken_on_the_new_primary(sentinels: Sentinels) -> None:
    async with RedisTransport(sentinels.url) as transport, anyio.create_task_group() as tasks:
        got: list[str] = []

        async def work() -> None:
            async with transport.subscribe("orders", "mail", lease=60) as mail:
                while not got:
                    got.extend(d.id for d in await until_it_works(lambda: mail.receive(1, wait=5)))

        tasks.start_soon(work)
        while not await transport.groups("orders"):
            await anyio.sleep(0.01)
        await replicated(sentinels)
        sentinels.primary.stop()
        sender = RedisTransport(sentinels.url)
        await until_it_works(lambda: sender.publish(Message("orders", "a", b"{}")))
        await sender.close()
    assert got == ["a"]


async def test_a_primary_that_was_demoted_is_left_at_its_first_refusal(
    sentinels: Sentinels,
) -> None:
    """A connection that survived the failover would say READONLY for ever."""
    first, second = sentinels.servers
    async with RedisTransport(sentinels.url) as transport:
        await transport.publish(Message("orders", "a", b"{}"))
        await replicated(sentinels)
        # By hand: a failover of the sentinel's own would put an end to the connections.
        sentinels.sentinel.ask("SENTINEL", "REMOVE", "main")
        second.ask("REPLICAOF", "NO", "ONE")
        first.ask("REPLICAOF", "127.0.0.1", second.port)
        with pytest.raises(ConnectionLost) as lost:
            await transport.publish(Message("orders", "b", b"{}"))
        assert not lost.value.may_be_stored
        sentinels.sentinel.ask("SENTINEL", "MONITOR", "main", "127.0.0.1", first.port, 1)
        with pytest.raises(ConnectionLost, match="is a replica"):
            await transport.publish(Message("orders", "b", b"{}"))
        sentinels.sentinel.ask("SENTINEL", "REMOVE", "main")
        sentinels.sentinel.ask("SENTINEL", "MONITOR", "main", "127.0.0.1", second.port, 1)
        await until_it_works(lambda: transport.publish(Message("orders", "b", b"{}")))
        assert [e.id for e in await transport.browse("orders")] == ["b", "a"]


async def test_the_sentinels_own_password_is_sent_to_them_alone(sentinels: Sentinels) -> None:
    sentinels.sentinel.ask("ACL", "SETUSER", "default", "resetpass", ">s3cret")
    with pytest.raises(ConnectionLost, match="no sentinel names") as refused:
        await RedisTransport(sentinels.url).check()
    assert "s3cret" not in str(refused.value)
    transport = RedisTransport(f"{sentinels.url}?sentinel_password=s3cret&prefix=shop")
    await transport.check()
    assert "s3cret" not in transport.backend
    await transport.close()


async def test_of_several_answers_that_of_the_latest_failover_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sentinel that was cut off answers first; another never does."""
    address = Address("redis+sentinel://cut-off,hung,knowing/main")
    answers = {"cut-off": (3, Node("old", 1)), "knowing": (4, Node("new", 1))}

    async def ask(sentinel: Node) -> tuple[int, Node]:
        if sentinel.host == "hung":
            await anyio.sleep_forever()
        if sentinel.host == "knowing":
            await anyio.sleep(0.05)
        return answers[sentinel.host]

    monkeypatch.setattr(address, "_ask_sentinel", ask)
    monkeypatch.setattr(redis_address, "_SENTINEL_SECONDS", 600.0)  # it waits less for the others
    with anyio.fail_after(60):
        assert await address._primary() == Node("new", 1)


async def test_an_unknown_service_is_named(sentinels: Sentinels) -> None:
    transport = RedisTransport(sentinels.url.replace("/main/", "/nobody/"))
    with pytest.raises(OmniDaemonError, match=r"'nobody'.*No such master"):
        await transport.check()


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("redis+sentinel://a,b:1/main", [Node("a", 26379), Node("b", 1)]),
        ("redis+sentinel://me:p%40ss@[::1]:5,c/main/3", [Node("::1", 5), Node("c", 26379)]),
        ("rediss+cluster://:secret@a:7,b/", [Node("a", 7), Node("b", 6379)]),
    ],
)
def test_a_url_may_name_several_hosts(url: str, nodes: list[Node]) -> None:
    address = Address(url)
    assert list(address.nodes) == nodes
    assert "ss@" not in address.name
    assert "secret" not in address.name


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("redis+sentinel://a:1", "names the service"),
        ("redis+sentinel://a:1/main/two", "names the service"),
        ("redis+sentinel:///main", "names no host"),
        ("redis+sentinel://s3cret@a:b:c/main", "cannot be read"),
        ("redis+cluster://a:1/3", "database 0 alone"),
        ("redis+cluster://a:1/?prefix={x}", "braces"),
    ],
)
def test_a_url_that_names_too_little_says_what_is_missing(url: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what) as refused:
        Address(url)
    assert "s3cret" not in str(refused.value)
