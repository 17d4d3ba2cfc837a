"""The laws of settlements: whole or not at all, fenced, one step with the store's changes."""

from __future__ import annotations

from typing import cast

import anyio
import pytest

from omnidaemon.messages import (
    Ack,
    Bury,
    Count,
    Message,
    Release,
    RetryAfter,
    Settlement,
    Write,
)
from tests.contract.conftest import Backend, ids

pytestmark = pytest.mark.anyio


def result(key: str, value: bytes = b"1") -> tuple[Write | Count, ...]:
    """What a run leaves in the store: its record, and its counters."""
    return (
        Write("results", key, value, label="orders"),
        Count("metrics", "mail", "runs", 1),
    )


async def test_all_of_a_settlement_happens_together(backend: Backend) -> None:
    transport, store = backend.transport(), backend.store()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        verdicts = await backend.settle(
            mail,
            await mail.receive(1, wait=0),
            publish=(
                Message("replies", "r", b"reply"),
                Message("hooks", "h", b"hook"),
                Message("replies", "later", b"late", delay=backend.lease),
            ),
            changes=result("a"),
            notice="a",
        )
    assert verdicts == ["applied"]
    assert ids(await transport.browse("replies")) == ["r"]
    assert ids(await transport.browse("hooks")) == ["h"]
    (record,) = await store.read("results", "a")
    assert record is not None
    assert (record.value, record.label) == (b"1", "orders")
    assert await store.totals("metrics") == {"mail": {"runs": 1}}
    await backend.elapse(backend.lease * 1.1)
    assert ids(await transport.browse("replies")) == ["later", "r"]


@pytest.mark.parametrize("action", [Ack(), RetryAfter(0), Bury(b"no"), Release()], ids=repr)
async def test_every_action_takes_its_messages_and_changes_along(
    backend: Backend, action: Ack | RetryAfter | Bury | Release
) -> None:
    transport, store = backend.transport(), backend.store()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        reply = Message("replies", "r", b"")
        await backend.settle(
            mail, await mail.receive(1, wait=0), action, publish=(reply,), changes=result("a")
        )
        assert ids(await transport.browse("replies")) == ["r"]
        assert len(await store.browse("results")) == 1
        again = len(await mail.receive(1, wait=0))
    assert again == isinstance(action, RetryAfter | Release)
    assert len(await transport.dead_letters("orders")) == isinstance(action, Bury)


async def test_what_a_settlement_publishes_wakes_who_waits_for_it(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        backend.transport().subscribe("replies", "desk", lease=backend.lease) as desk,
        anyio.create_task_group() as tasks,
    ):

        async def wait() -> None:
            with anyio.fail_after(60):
                assert ids(await desk.receive(1, wait=30)) == ["r"]

        held = await mail.receive(1, wait=0)
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await backend.settle(mail, held, publish=(Message("replies", "r", b""),))


async def test_what_a_settlement_publishes_is_always_taken(backend: Backend) -> None:
    transport = backend.transport(max_backlog=1)
    await transport.publish(*backend.messages("a", topic="replies"), *backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        held = await mail.receive(1, wait=0)
        reply = Message("replies", "r", b"")
        assert await backend.settle(mail, held, publish=(reply,)) == ["applied"]
    assert ids(await transport.browse("replies")) == ["r", "a"]


async def test_a_batch_of_all_actions_gives_a_verdict_each_in_order(backend: Backend) -> None:
    async with (
        backend.transport().subscribe("orders", "mail", lease=backend.lease) as one,
        backend.transport().subscribe("orders", "mail", lease=backend.lease) as two,
    ):
        transport, store = backend.transport(), backend.store()
        await transport.publish(*backend.messages("taken", "x"))
        (taken, x) = await one.receive(2, wait=0)
        await backend.settle(one, [x])
        await backend.elapse(backend.lease * 1.1)
        (takeover,) = await two.receive(1, wait=0)
        await transport.publish(*backend.messages("done", "again", "dead", "back", "gone"))
        done, again, dead, back, gone = await one.receive(10, wait=0)
        await backend.settle(one, [gone], changes=result("gone"))
        batch = [
            Settlement(done, Ack(), changes=result("done")),
            Settlement(taken, Ack(), changes=result("taken", b"stale")),
            Settlement(again, RetryAfter(0), changes=result("again")),
            Settlement(gone, Ack(), changes=result("gone", b"twice")),
            Settlement(dead, Bury(b"no"), changes=result("dead")),
            Settlement(back, Release(), changes=result("back")),
        ]
        verdicts = ["applied", "lost", "applied", "repeated", "applied", "applied"]
        assert await one.settle(batch) == verdicts
        assert await store.totals("metrics") == {"mail": {"runs": 5}}
        records = {record.key: record.value for record in await store.browse("results")}
        assert records == dict.fromkeys(("gone", "done", "again", "dead", "back"), b"1")
        assert ids(await transport.dead_letters("orders")) == ["dead"]
        left = {d.id: d.attempt for d in await backend.drain(one)}
        assert left == {"again": 2, "back": 1}
        assert await two.settle([Settlement(takeover, Ack())]) == ["applied"]


async def test_settling_nothing_gives_no_verdicts(backend: Backend) -> None:
    async with backend.transport().subscribe("orders", "mail", lease=backend.lease) as mail:
        assert list(await mail.settle([])) == []


@pytest.mark.parametrize("action", [Ack(), RetryAfter(0), Bury(b"no"), Release()], ids=repr)
async def test_a_repeated_settle_says_so_and_changes_nothing(
    backend: Backend, action: Ack | RetryAfter | Bury | Release
) -> None:
    transport, store = backend.transport(), backend.store()
    await transport.publish(*backend.messages("a", "b"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        batch = backend.settlements(
            await mail.receive(2, wait=0),
            action,
            publish=(Message("replies", "r", b""),),
            changes=result("a"),
        )
        assert await mail.settle(batch) == ["applied", "applied"]
        assert await mail.settle(batch) == ["repeated", "repeated"]
        handed_out_again = await mail.receive(10, wait=0)
        assert await mail.settle(batch) == ["repeated", "repeated"]
        assert [d.attempt for d in handed_out_again] == {
            Ack: [],
            Bury: [],
            RetryAfter: [2, 2],
            Release: [1, 1],
        }[type(action)]
        assert await backend.settle(mail, handed_out_again) == ["applied"] * len(handed_out_again)
    assert (await backend.topic("replies")).events == 2
    assert await store.totals("metrics") == {"mail": {"runs": 2}}


async def test_a_delivery_twice_in_a_batch_is_settled_once(backend: Backend) -> None:
    transport, store = backend.transport(), backend.store()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        (held,) = await mail.receive(1, wait=0)
        batch = [
            Settlement(held, Ack(), changes=result("a")),
            Settlement(held, Bury(b"no"), changes=result("a", b"2")),
        ]
        assert await mail.settle(batch) == ["applied", "repeated"]
    assert await store.totals("metrics") == {"mail": {"runs": 1}}
    assert await transport.dead_letters("orders") == []


async def test_of_two_workers_that_ran_a_message_exactly_one_settles_it(
    backend: Backend,
) -> None:
    frozen, other, store = backend.transport(), backend.transport(), backend.store()
    await other.publish(*backend.messages("a"))
    async with (
        frozen.subscribe("orders", "mail", lease=backend.lease) as one,
        other.subscribe("orders", "mail", lease=backend.lease) as two,
    ):
        first = await one.receive(1, wait=0)
        await backend.elapse(backend.lease * 1.1)
        second = await two.receive(1, wait=0)
        assert await frozen.renew(one.consumer, first) == first  # A wakes up
        for subscription, held, verdict in ((one, first, "lost"), (two, second, "applied")):
            name = subscription.consumer.name
            verdicts = await backend.settle(
                subscription,
                held,
                publish=(Message("replies", name, name.encode()),),
                changes=result("a", name.encode()),
            )
            assert verdicts == [verdict]
        (record,) = await store.browse("results")
        assert record.value == two.consumer.name.encode()
        assert ids(await other.browse("replies")) == [two.consumer.name]
        assert await store.totals("metrics") == {"mail": {"runs": 1}}
        assert await one.receive(1, wait=0) == []


@pytest.mark.parametrize("action", [Ack(), RetryAfter(0), Bury(b"no"), Release()], ids=repr)
async def test_a_settlement_after_the_takeover_was_settled_is_lost_too(
    backend: Backend, action: Ack | RetryAfter | Bury | Release
) -> None:
    transport, store = backend.transport(), backend.store()
    await transport.publish(*backend.messages("a"))
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as one,
        backend.transport().subscribe("orders", "mail", lease=backend.lease) as two,
    ):
        first = await one.receive(1, wait=0)
        await backend.elapse(backend.lease * 1.1)
        assert await backend.settle(two, await two.receive(1, wait=0)) == ["applied"]
        reply = Message("replies", "r", b"")
        assert await backend.settle(
            one, first, action, publish=(reply,), changes=result("a"), notice="a"
        ) == ["lost"]
        assert await backend.drain(two) == []
        info = await backend.group()
        assert (info.leased, info.waiting, info.dead) == (0, 0, 0)
    assert await transport.browse("replies") == []
    assert await store.browse("results") == []
    assert await store.totals("metrics") == {}


async def test_nobody_settles_or_renews_what_another_holds(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as one,
        transport.subscribe("orders", "mail", lease=backend.lease) as two,
    ):
        held = await one.receive(1, wait=0)
        assert await transport.renew(two.consumer, held) == held
        assert await backend.settle(two, held) == ["lost"]
        assert await backend.settle(one, held) == ["applied"]


async def test_a_settlement_that_fails_changes_nothing_and_may_be_done_again(
    backend: Backend,
) -> None:
    transport, store = backend.transport(), backend.store()
    await transport.publish(*backend.messages("a"))
    unfit_message = Message("replies", "bad", cast(bytes, object()))
    unfit_write = Write("results", "bad", cast(bytes, object()))
    reply = Message("replies", "r", b"")
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        (held,) = await mail.receive(1, wait=0)
        for bad in (
            Settlement(held, Ack(), publish=(reply, unfit_message), changes=result("a")),
            Settlement(held, Ack(), publish=(reply,), changes=(*result("a"), unfit_write)),
        ):
            with pytest.raises(Exception):  # noqa: B017  whatever the backend says to this
                await mail.settle([bad])
            assert await transport.browse("replies") == []
            assert await store.browse("results") == []
            assert await store.totals("metrics") == {}
            assert (await backend.group()).leased == 1
        good = Settlement(held, Ack(), publish=(reply,), changes=result("a"))
        assert await mail.settle([good]) == ["applied"]
    assert ids(await transport.browse("replies")) == ["r"]


async def test_counters_are_exact_after_crashes_repeats_and_takeovers(backend: Backend) -> None:
    names = [f"e{n}" for n in range(60)]
    transport, store = backend.transport(), backend.store()
    await transport.publish(*backend.messages(*names))
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as one,
        backend.transport().subscribe("orders", "mail", lease=backend.lease) as two,
    ):
        stale = await one.receive(20, wait=0)
        await backend.elapse(backend.lease * 1.1)
        taken = await two.receive(20, wait=0)
        assert ids(stale) == ids(taken)
        for held, consumer in ((stale, one), (taken, two), (taken, two), (stale, one)):
            await consumer.settle([Settlement(d, Ack(), changes=result(d.id)) for d in held])
        while some := await one.receive(7, wait=0):
            actions = [RetryAfter(0) if d.attempt == 1 else Ack() for d in some]
            batch = [
                Settlement(d, action, changes=result(d.id))
                for d, action in zip(some, actions, strict=True)
            ]
            await one.settle(batch)
            await one.settle(batch)
    assert await store.totals("metrics") == {"mail": {"runs": 20 + 2 * 40}}
    assert len(await store.browse("results", limit=1_000)) == 60


# Notices


async def test_a_notice_wakes_who_watches_the_task(backend: Backend) -> None:
    transport, other = backend.transport(), backend.transport()
    await transport.publish(*backend.messages("a"))
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        other.watch("a") as watch,
        anyio.create_task_group() as tasks,
    ):
        held = await mail.receive(1, wait=0)

        async def settle() -> None:
            await anyio.wait_all_tasks_blocked()
            await backend.settle(mail, held, changes=result("a"), notice="a")

        tasks.start_soon(settle)
        with anyio.fail_after(60):
            while await backend.store().browse("results") == []:
                await watch.wait(30)


async def test_a_notice_between_two_waits_is_not_missed(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a", "b"))
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        backend.transport().watch("a") as watch,
    ):
        for held in await mail.receive(2, wait=0):
            await backend.settle(mail, [held], notice="a")
            with anyio.fail_after(60):
                await watch.wait(30)


async def test_a_watch_ends_after_its_wait(backend: Backend) -> None:
    async with backend.transport().watch("a") as watch:
        with anyio.fail_after(60):
            await watch.wait(0.02)
            await watch.wait(0)


async def test_each_of_several_watchers_is_told(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        transport.watch("a") as one,
        transport.watch("a") as two,
        backend.transport().watch("a") as three,
    ):
        await backend.settle(mail, await mail.receive(1, wait=0), notice="a")
        with anyio.fail_after(60):
            for watch in (one, two, three):
                await watch.wait(30)


async def test_a_retry_that_is_not_charged_comes_back_as_the_same_attempt(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        for attempt, charged in ((1, False), (1, True), (2, False), (2, False), (2, True)):
            (held,) = await mail.receive(1, wait=0)
            assert held.attempt == attempt
            await backend.settle(mail, [held], RetryAfter(backend.lease, charged))
            assert await backend.drain(mail) == []
            await backend.elapse(backend.lease * 1.1)
        (held,) = await mail.receive(1, wait=0)
        assert (held.attempt, held.crashes, held.replays) == (3, 0, 0)
