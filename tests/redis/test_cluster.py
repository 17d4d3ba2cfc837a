"""A cluster of three masters: where keys lie, and what happens when slots and masters move.

The laws that every backend keeps are tried on a cluster in tests/contract.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NoReturn

import anyio
import pytest
from redis.exceptions import ResponseError

from omnidaemon import App, Envelope
from omnidaemon.drivers.redis_cluster import slot_of
from omnidaemon.drivers.redis_keys import Keys
from omnidaemon.drivers.redis_scripts import Script
from omnidaemon.errors import BacklogFull, ConfigurationError, ConnectionLost
from omnidaemon.messages import Ack, Count, Delivery, Message, RetryAfter, Settlement, Write
from omnidaemon.stores.redis import RedisStore
from omnidaemon.transports import redis_subscription
from omnidaemon.transports.base import Limits
from omnidaemon.transports.redis import RedisTransport
from omnidaemon.worker.worker import Worker
from tests.redis.servers import Cluster, RedisServer, binaries, catch_up
from tests.redis.test_sentinel import until_it_works

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def steady(
    tmp_path_factory: pytest.TempPathFactory, no_server: Callable[[str], NoReturn]
) -> Iterator[Cluster]:
    """A cluster for tests that leave all of its nodes and slots where they are."""
    if not binaries():
        no_server("there is no redis-server")
    made = Cluster(binaries()[max(binaries())], tmp_path_factory.mktemp("steady"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def url(steady: Cluster) -> str:
    return f"{steady.url}?prefix=t{secrets.token_hex(4)}"


@pytest.fixture
async def here(url: str) -> AsyncIterator[RedisTransport]:
    async with RedisTransport(url) as made:
        yield made


def topics_on(cluster: Cluster, *owners: RedisServer, prefix: str = "omni") -> list[str]:
    """A topic for each owner, of which it is the master."""
    keys = Keys(prefix, cluster=True)
    names = [f"topic{n}" for n in range(60)]
    found = []
    for owner in owners:
        name = next(n for n in names if cluster.owner(keys.topic(n)[0]) is owner)
        names.remove(name)
        found.append(name)
    return found


def settlement(delivery: Delivery, *replies: str, value: bytes = b"1") -> Settlement:
    return Settlement(
        delivery,
        Ack(),
        tuple(Message(reply, secrets.token_hex(4), value) for reply in replies),
        (Write("results", delivery.id, value), Count("metrics", "mail", "runs", 1)),
    )


# Where keys lie


async def test_all_keys_of_a_topic_lie_in_its_slot_and_all_records_in_theirs(
    steady: Cluster, url: str, here: RedisTransport
) -> None:
    await here.publish(Message("orders", "a", b"{}"), Message("orders", "b", b"{}", 60))
    async with here.subscribe("orders", "mail", lease=60) as mail, RedisStore(url):
        (held,) = await mail.receive(1, wait=0)
        await mail.settle([settlement(held, "replies")])
        await here.publish(Message("orders", "c", b"{}"))
        (held,) = await mail.receive(1, wait=0)
        await mail.settle([Settlement(held, RetryAfter(60))])
    prefix = here.keys.prefix
    keys = {key for node in steady.nodes for key in node.ask("KEYS", f"*{prefix}*")}
    tags = {key: key.partition("{")[2].partition("}")[0] for key in keys}
    assert {tags[key] for key in keys} == {"orders", "replies", prefix, ""}
    assert [key for key in keys if not tags[key]] == [f"{prefix}-topics"]
    assert f"{prefix}-stream:{{orders}}" in keys
    assert all(key.startswith(f"{{{prefix}}}-") for key in keys if tags[key] == prefix)


def connections(cluster: Cluster, kind: str) -> int:
    return sum(len(n.ask("CLIENT", "LIST", "TYPE", kind).splitlines()) for n in cluster.nodes)


async def test_one_connection_per_master_and_one_for_pub_sub_serve_many_topics(
    steady: Cluster, here: RedisTransport
) -> None:
    before = connections(steady, "normal")
    async with anyio.create_task_group() as tasks:
        got: list[str] = []

        async def agent(number: int) -> None:
            async with here.subscribe(f"t{number}", "a", lease=60) as one:
                got.extend(d.topic for d in await one.receive(1, wait=30))

        for number in range(60):
            tasks.start_soon(agent, number)
        while sum(len(node.ask("PUBSUB", "CHANNELS")) for node in steady.nodes) < 60:
            await anyio.sleep(0.01)
        assert connections(steady, "normal") - before <= 3
        assert connections(steady, "pubsub") == 1
        await here.publish(*(Message(f"t{n}", "x", b"") for n in range(60)))
    assert len(got) == 60


async def test_a_topic_that_was_removed_and_comes_back_is_listed(
    url: str, here: RedisTransport
) -> None:
    await here.publish(Message("orders", "a", b"{}"))
    other = RedisTransport(url)
    assert await other.remove_topic("orders")
    assert await other.topics() == []
    await here.publish(Message("orders", "b", b"{}"))  # it had named the topic before
    assert [info.name for info in await other.topics()] == ["orders"]
    assert await other.remove_topic("orders")
    await other.close()


async def test_flushed_scripts_are_loaded_again_on_every_node(
    steady: Cluster, here: RedisTransport
) -> None:
    names = topics_on(steady, *steady.nodes, prefix=here.keys.prefix)
    for _ in range(2):
        await here.publish(*(Message(name, "a", b"{}") for name in names))
        for node in steady.nodes:
            node.ask("SCRIPT", "FLUSH")
    assert [info.events for info in await here.topics()] == [2, 2, 2]


async def test_a_single_server_is_no_cluster(server: RedisServer) -> None:
    transport = RedisTransport(server.url.replace("redis://", "redis+cluster://"))
    with pytest.raises(ConfigurationError, match="is no cluster"):
        await transport.check()


# Publishing to several topics


async def test_a_refused_topic_leaves_the_others_and_a_second_try_only_adds_what_is_missing(
    url: str,
) -> None:
    async with RedisTransport(url, limits=Limits(max_backlog=1)) as transport:
        await transport.publish(Message("full", "x", b""))
        call = [Message("bills", "a", b""), Message("full", "b", b""), Message("late", "c", b"")]
        with pytest.raises(BacklogFull, match=r"'full'.*stored in it"):
            await transport.publish(*call)
        assert await transport.browse("late") == []
        async with transport.subscribe("full", "mail", lease=60) as mail:
            await mail.settle([Settlement(d, Ack()) for d in await mail.receive(1, wait=0)])
        await transport.publish(*call)
        for topic, ids in (("bills", ["a"]), ("full", ["b", "x"]), ("late", ["c"])):
            assert [e.id for e in await transport.browse(topic)] == ids


# Settling across slots


async def test_a_run_that_its_workers_death_repeats_leaves_one_reply_and_one_count(
    url: str, here: RedisTransport
) -> None:
    """The first one died between what it left elsewhere and the settlement."""
    store = RedisStore(url)
    await here.publish(Message("orders", "a", b"{}"))
    async with (
        here.subscribe("orders", "mail", lease=0.3) as dying,
        here.subscribe("orders", "mail", lease=0.3) as heir,
        store,
    ):
        (held,) = await dying.receive(1, wait=0)
        await dying._elsewhere.leave([settlement(held, "replies", "hooks", value=b"first")])
        assert await store.totals("metrics") == {"mail": {"runs": 1}}
        again: list[Delivery] = []
        with anyio.fail_after(60):
            while not again:
                await here.renew(heir.consumer, [])  # it lives, as workers say that they do
                again += await heir.receive(1, wait=0.1)
        assert (again[0].attempt, again[0].crashes) == (1, 1)
        rerun = settlement(again[0], "hooks", "replies", "audit", value=b"second")
        assert await heir.settle([rerun]) == ["applied"]
        assert await dying.settle([settlement(held, "replies")]) == ["lost"]
        assert await store.totals("metrics") == {"mail": {"runs": 1}}
        assert [record.value for record in await store.browse("results")] == [b"first"]
        for topic, bodies in (
            ("replies", [b"first"]),
            ("hooks", [b"first"]),
            ("audit", [b"second"]),
        ):
            assert [event.body for event in await here.browse(topic)] == bodies


@pytest.mark.parametrize("step", ["renew", "write_once", "publish_once"])
async def test_a_step_whose_reply_was_lost_is_made_again_and_nothing_is_there_twice(
    url: str, here: RedisTransport, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    run, cuts = here.run, [step]

    async def cut(script: Script, *arguments: Any, **more: Any) -> Any:
        answer = await run(script, *arguments, **more)
        if script.name in cuts:
            cuts.remove(script.name)
            raise ConnectionLost("cut", may_be_stored=True)
        return answer

    await here.publish(*(Message("orders", f"e{n}", b"{}") for n in range(3)))
    async with here.subscribe("orders", "mail", lease=60) as mail, RedisStore(url) as store:
        batch = [settlement(d, "replies", "hooks") for d in await mail.receive(3, wait=0)]
        monkeypatch.setattr(here, "run", cut)
        with pytest.raises(ConnectionLost):
            await mail.settle(batch)
        assert not cuts
        assert await mail.settle(batch) == ["applied"] * 3
        assert await mail.settle(batch) == ["repeated"] * 3
        assert await store.totals("metrics") == {"mail": {"runs": 3}}
        assert len(await store.browse("results")) == 3
        assert [len(await here.browse(topic)) for topic in ("replies", "hooks")] == [3, 3]


async def test_who_has_lost_a_delivery_leaves_nothing_elsewhere(
    url: str, here: RedisTransport
) -> None:
    store = RedisStore(url)
    await here.publish(Message("orders", "a", b"{}"))
    async with (
        here.subscribe("orders", "mail", lease=0.3) as slow,
        here.subscribe("orders", "mail", lease=0.3) as quick,
        store,
    ):
        (held,) = await slow.receive(1, wait=0)
        with anyio.fail_after(60):
            while not await quick.receive(1, wait=1):
                pass
        assert await slow.settle([settlement(held, "replies")]) == ["lost"]
        assert await here.browse("replies") == []
        assert await store.browse("results") == []
        assert await store.totals("metrics") == {}


async def test_who_loses_a_delivery_just_after_asking_for_it_leaves_nothing_more(
    url: str, here: RedisTransport
) -> None:
    store = RedisStore(url)
    await here.publish(Message("orders", "a", b"{}"))
    async with (
        here.subscribe("orders", "mail", lease=0.3) as slow,
        here.subscribe("orders", "mail", lease=0.3) as quick,
        store,
    ):
        (held,) = await slow.receive(1, wait=0)
        with anyio.fail_after(60):
            while not (again := await quick.receive(1, wait=1)):
                pass
        assert await quick.settle([settlement(again[0], "replies", value=b"quick")]) == ["applied"]

        async def as_if_asked_before(settlements: Any) -> Any:
            return set(settlements)

        slow._elsewhere._held = as_if_asked_before  # type: ignore[method-assign]
        assert await slow.settle([settlement(held, "replies", value=b"slow")]) == ["lost"]
        assert [event.body for event in await here.browse("replies")] == [b"quick"]
        assert [record.value for record in await store.browse("results")] == [b"quick"]
        assert await store.totals("metrics") == {"mail": {"runs": 1}}


async def test_another_attempt_leaves_its_own_reply(url: str, here: RedisTransport) -> None:
    await here.publish(Message("orders", "a", b"{}"))
    async with here.subscribe("orders", "mail", lease=60) as mail:
        for action in (RetryAfter(0), Ack()):
            (held,) = await mail.receive(1, wait=1)
            reply = (Message("replies", "r", f"{held.attempt}".encode()),)
            await mail.settle([Settlement(held, action, reply)])
    assert [event.body for event in await here.browse("replies")] == [b"2", b"1"]


async def test_names_of_done_settlements_are_kept_for_two_leases_alone(
    steady: Cluster, url: str, here: RedisTransport
) -> None:
    once = here.keys.once("replies")
    owner = steady.owner(once)
    async with here.subscribe("orders", "mail", lease=0.2) as mail:
        for number in range(4):
            await here.publish(Message("orders", f"e{number}", b"{}"))
            held = await mail.receive(1, wait=1)
            await mail.settle([settlement(held[0], "replies")])
            await anyio.sleep(0.45)
    # The last one is not told to be done yet; the one before is.
    assert owner.ask("ZCARD", once) == 2


# When slots and masters move


def move(cluster: Cluster, slot: int, source: RedisServer, target: RedisServer) -> Iterator[str]:
    """Moves a slot as redis-cli does; stops at each stage."""
    to, of = target.ask("CLUSTER", "MYID"), source.ask("CLUSTER", "MYID")
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", of)
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", to)
    yield "begun"
    keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000)
    half = len(keys) // 2
    for some, stage in ((keys[:half], "half"), (keys[half:], "all")):
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *some)
        yield stage
    for node in (target, source):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", to)
    yield "done"


async def test_a_topic_goes_on_while_its_slot_moves_to_another_node(
    steady: Cluster, url: str, here: RedisTransport
) -> None:
    source, target = steady.nodes[0], steady.nodes[1]
    (name,) = topics_on(steady, source, prefix=here.keys.prefix)
    async with (
        here.subscribe(name, "mail", lease=60) as mail,
        RedisTransport(url) as unaware,
        unaware.subscribe(name, "mail", lease=60) as late,
    ):
        assert await late.receive(1, wait=0.01) == []
        await here.publish(*(Message(name, f"e{n}", b"{}") for n in range(6)))
        held = await mail.receive(3, wait=1)
        slot = slot_of(here.keys.topic(name)[0])
        done = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def work() -> None:
                await mail.settle([settlement(d, "replies") for d in held])
                await here.publish(Message(name, "e6", b"{}"))
                done.set()

            stages = move(steady, slot, source, target)
            assert next(stages) == "begun"
            assert next(stages) == "half"
            tasks.start_soon(work)
            await anyio.sleep(0.2)
            assert not done.is_set()  # its keys are on two nodes, and no step may see half of them
            assert next(stages) == "all"
            assert next(stages) == "done"
            with anyio.fail_after(60):
                await done.wait()
        rest = await late.receive(10, wait=1)  # has heard of nothing yet
        assert [d.id for d in rest] == ["e3", "e4", "e5", "e6"]
        assert await late.settle([settlement(d, "replies") for d in rest]) == ["applied"] * 4
    assert steady.owner(here.keys.topic(name)[0]) is target
    assert len(await here.browse("replies", 20)) == 7
    for stage in move(steady, slot, target, source):
        assert stage


async def test_a_key_that_has_moved_ahead_of_its_slot_is_asked_for_there(
    steady: Cluster, here: RedisTransport
) -> None:
    source, target = steady.nodes[0], steady.nodes[1]
    (name,) = topics_on(steady, source, prefix=here.keys.prefix)
    await here.publish(Message(name, "a", b"{}"))
    stream = here.keys.topic(name)[0]
    stages = move(steady, slot_of(stream), source, target)
    assert [next(stages), next(stages), next(stages)] == ["begun", "half", "all"]
    with pytest.raises(ResponseError, match=r"^(ASK )?[0-9]+ 127"):
        source.ask("XLEN", stream)  # ASK
    assert await here.call("XLEN", stream) == 1
    assert next(stages) == "done"
    for stage in move(steady, slot_of(stream), target, source):
        assert stage


async def test_in_flight_work_settles_once_when_its_master_dies(cluster: Cluster) -> None:
    dying, other = cluster.nodes[0], cluster.nodes[1]
    mine, elsewhere = topics_on(cluster, dying, other)
    async with RedisTransport(cluster.url) as transport, RedisStore(cluster.url) as store:
        await transport.publish(*(Message(mine, f"e{n}", b"{}") for n in range(6)))
        async with transport.subscribe(mine, "mail", lease=60) as mail:
            held = await mail.receive(4, wait=1)
            await anyio.to_thread.run_sync(catch_up, cluster.nodes[3], dying)
            dying.stop()
            await transport.publish(Message(elsewhere, "x", b"{}"))  # others do not wait for it
            call = [Message(elsewhere, "y", b"{}"), Message(mine, "e6", b"{}")]
            with pytest.raises(ConnectionLost):
                await transport.publish(*call)
            batch = [settlement(d, elsewhere) for d in held]
            assert await until_it_works(lambda: mail.settle(batch)) == ["applied"] * 4
            await until_it_works(lambda: transport.publish(*call))
            rest = await until_it_works(lambda: mail.receive(10, wait=1))
            assert [d.id for d in rest] == ["e4", "e5", "e6"]
            assert await mail.settle([settlement(d, elsewhere) for d in rest]) == ["applied"] * 3
        assert cluster.owner(transport.keys.topic(mine)[0]) is cluster.nodes[3]
        assert await store.totals("metrics") == {"mail": {"runs": 7}}
        events = await transport.browse(elsewhere, 20)
        assert len(events) == 9
        assert [e.id for e in events if e.id in ("x", "y")] == ["y", "x"]


async def test_ears_move_when_their_node_dies(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_subscription, "POLL", 600.0)  # it has to be told
    dying, other = cluster.nodes[0], cluster.nodes[1]
    (name,) = topics_on(cluster, other)
    async with RedisTransport(cluster.url) as transport:
        ears = transport.here.ears
        async with transport.subscribe(name, "mail", lease=60) as mail:
            assert await mail.receive(1, wait=0.01) == []
            while ears._connection.port != dying.port or not ears.up:
                for node in cluster.nodes[1:3]:
                    node.ask("CLIENT", "KILL", "TYPE", "pubsub")
                await anyio.sleep(0.05)
            dying.stop()
            while ears.up and ears._connection.port == dying.port:
                await anyio.sleep(0.01)
            with anyio.fail_after(60):
                while not ears.up:
                    await anyio.sleep(0.01)
            async with anyio.create_task_group() as tasks:
                got: list[str] = []

                async def wait() -> None:
                    with anyio.fail_after(60):
                        got.extend(d.id for d in await mail.receive(1, wait=300))

                tasks.start_soon(wait)
                await anyio.sleep(0.3)
                await until_it_works(lambda: transport.publish(Message(name, "a", b"{}")))
            assert got == ["a"]


async def test_a_worker_on_a_cluster_chains_replies(url: str) -> None:
    app = App("shop", transport=url, store=url)
    got = anyio.Event()

    @app.agent("orders", consumers=5, reply_to="charged")
    async def charge(content: dict[str, Any]) -> dict[str, Any]:
        return {"charged": content["n"]}

    seen: list[int] = []

    @app.agent("charged")
    async def note(event: Envelope) -> None:
        assert event.causation_id is not None
        seen.append(event.content["charged"])
        if len(seen) == 30:
            got.set()

    async with app, anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(app).run)
        sent = [await app.send("orders", {"n": n}) for n in range(30)]
        with anyio.fail_after(60):
            assert (await sent[7].result(timeout=60)) == {"charged": 7}
            await got.wait()
        tasks.cancel_scope.cancel()
    assert sorted(seen) == list(range(30))
