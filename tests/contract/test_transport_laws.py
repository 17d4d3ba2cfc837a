"""The laws of transports, word for word from omnidaemon/transports/base.py, on every backend."""

from __future__ import annotations

import time
from typing import Any, cast

import anyio
import pytest

from omnidaemon.errors import BacklogFull
from omnidaemon.messages import Ack, Bury, Delivery, Message, Place, Release, RetryAfter, Settlement
from omnidaemon.transports.base import Subscription
from tests.contract.conftest import Backend, Setting, ids

pytestmark = pytest.mark.anyio


# Publishing and order


async def test_events_are_kept_in_the_order_of_storing(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a", "b"))
    await backend.transport().publish(*backend.messages("c"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        assert ids(await backend.drain(mail)) == ["a", "b", "c"]
    assert ids(await transport.browse("orders")) == ["c", "b", "a"]
    assert ids(await transport.browse("orders", 2)) == ["c", "b"]


async def test_a_published_event_is_there_for_another_transport(backend: Backend) -> None:
    await backend.transport().publish(*backend.messages("a"))
    (event,) = await backend.transport().browse("orders")
    assert (event.id, event.body) == ("a", b"body of a")
    assert abs(event.stored - time.time()) < 60


async def test_an_event_is_found_by_its_id_alone(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a", "b"), Message("orders", "b", b"newer"))
    await transport.publish(
        *backend.messages("late", delay=3600), *backend.messages("x", topic="t")
    )
    reader = backend.transport()
    for name, body in (("a", b"body of a"), ("b", b"newer"), ("late", b"body of late")):
        event = await reader.find("orders", name)
        assert event is not None
        assert (event.id, event.body) == (name, body)
    assert await reader.find("orders", "x") is None
    assert await reader.find("nothing", "a") is None
    await transport.remove_topic("orders")
    assert await reader.find("orders", "a") is None


async def test_events_published_before_the_first_consumer_are_delivered(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        (delivery,) = await mail.receive(10, wait=0)
    assert (delivery.topic, delivery.group, delivery.id) == ("orders", "mail", "a")
    assert delivery.body == b"body of a"
    assert (delivery.attempt, delivery.crashes, delivery.replays) == (1, 0, 0)
    assert delivery.position == (await transport.browse("orders"))[0].position


@pytest.mark.parametrize(
    "body", [b"", b"\0", bytes(range(256)), b"\xff" * 1_000_000], ids=["empty", "nul", "all", "1MB"]
)
async def test_a_body_is_any_bytes(backend: Backend, body: bytes) -> None:
    transport = backend.transport()
    await transport.publish(Message("orders", "a", body))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        (delivery,) = await mail.receive(1, wait=0)
    assert delivery.body == body


async def test_a_thousand_events_in_one_publish_keep_their_order(backend: Backend) -> None:
    names = [f"e{n}" for n in range(1_000)]
    transport = backend.transport()
    await transport.publish(*backend.messages(*names))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        assert ids(await backend.drain(mail, 300)) == names


async def test_one_publish_may_have_several_topics(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(
        *backend.messages("a"), *backend.messages("b", topic="bills"), *backend.messages("c")
    )
    assert ids(await transport.browse("orders")) == ["c", "a"]
    assert ids(await transport.browse("bills")) == ["b"]
    assert [info.name for info in await transport.topics()] == ["bills", "orders"]


async def test_publishing_nothing_does_nothing(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish()
    assert await transport.topics() == []


async def test_a_publish_that_fails_stores_nothing(backend: Backend) -> None:
    transport = backend.transport()
    unfit = Message("orders", "b", cast(bytes, object()))
    with pytest.raises(Exception):  # noqa: B017  whatever the backend says to this
        await transport.publish(*backend.messages("a"), unfit)
    assert await transport.browse("orders") == []
    assert await transport.locate("a") == []


# Fan-out, and sharing within a group


async def test_every_group_gets_every_event(backend: Backend) -> None:
    transport = backend.transport()
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        backend.transport().subscribe("orders", "bill", lease=backend.lease) as bill,
    ):
        await transport.publish(*backend.messages("a", "b"))
        assert ids(await backend.drain(mail)) == ["a", "b"]
        assert ids(await backend.drain(bill)) == ["a", "b"]


async def test_the_consumers_of_a_group_share_its_events(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a", "b", "c", "d"))
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as one,
        backend.transport().subscribe("orders", "mail", lease=backend.lease) as two,
    ):
        assert one.consumer.name != two.consumer.name
        first = await one.receive(2, wait=0)
        assert ids(first) == ["a", "b"]
        assert ids(await backend.drain(two)) == ["c", "d"]
        assert await one.receive(10, wait=0) == []


async def test_never_more_than_the_limit_is_received(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages(*"abcdefg"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        some = await mail.receive(3, wait=0)
        await backend.settle(mail, some[:1], Release())
        await backend.settle(mail, some[1:], RetryAfter(0))
        assert len(some) == 3
        assert len(await mail.receive(1, wait=0)) == 1
        assert len(await mail.receive(4, wait=0)) == 4
        await backend.elapse(backend.lease * 1.1)
        assert len(await mail.receive(2, wait=0)) == 2


async def test_topics_do_not_see_each_other(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("bills", "mail", lease=backend.lease) as mail:
        assert await mail.receive(10, wait=0) == []


async def test_a_group_survives_without_consumers_and_its_events_queue(backend: Backend) -> None:
    transport = backend.transport()
    async with transport.subscribe("orders", "mail", lease=backend.lease):
        pass
    await transport.publish(*backend.messages("a"))
    assert (await backend.group()).lag == 1
    async with backend.transport().subscribe("orders", "mail", lease=backend.lease) as mail:
        assert ids(await mail.receive(10, wait=0)) == ["a"]


async def test_a_delivery_settled_is_not_delivered_again(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        assert await backend.settle(mail, await mail.receive(1, wait=0)) == ["applied"]
        await backend.elapse(backend.lease * 2.1)
        assert await mail.receive(1, wait=0) == []


# Where a group starts


async def test_the_first_group_of_a_topic_starts_at_its_oldest_event(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a", "b"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        assert mail.backlog == 2
        assert ids(await backend.drain(mail)) == ["a", "b"]


async def test_a_group_that_joins_starts_at_the_oldest_event_that_some_group_has_not_settled(
    backend: Backend,
) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a", "b", "c", "d"))
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        transport.subscribe("orders", "bill", lease=backend.lease) as bill,
    ):
        await backend.settle(bill, await backend.drain(bill))
        some = await mail.receive(3, wait=0)
        await backend.settle(mail, [some[0], some[2]])  # b is not settled, c is
        async with transport.subscribe("orders", "late", lease=backend.lease) as late:
            assert late.backlog == 3
            assert ids(await backend.drain(late)) == ["b", "c", "d"]


async def test_renaming_an_agent_does_not_repeat_what_is_settled(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a", "b", "c"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        await backend.settle(mail, await backend.drain(mail))
    async with transport.subscribe("orders", "post", lease=backend.lease) as post:
        assert post.backlog == 0
        await transport.publish(*backend.messages("d"))
        assert ids(await backend.drain(post)) == ["d"]


async def test_what_waits_for_a_retry_or_is_dead_counts_as_unsettled_or_settled(
    backend: Backend,
) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a", "b"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        one, two = await backend.drain(mail)
        await backend.settle(mail, [one], Bury(b"no"))
        await backend.settle(mail, [two], RetryAfter(backend.lease))
        async with transport.subscribe("orders", "late", lease=backend.lease) as late:
            assert ids(await backend.drain(late)) == ["b"]


async def test_start_oldest_takes_everything_that_is_kept(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a", "b"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        await backend.settle(mail, await backend.drain(mail))
    async with transport.subscribe("orders", "all", lease=backend.lease, start="oldest") as late:
        assert late.backlog == 2
        assert ids(await backend.drain(late)) == ["a", "b"]


@pytest.mark.parametrize("first", [True, False])
async def test_start_new_takes_only_what_comes(backend: Backend, first: bool) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    if not first:
        async with transport.subscribe("orders", "mail", lease=backend.lease):
            pass
    async with transport.subscribe("orders", "late", lease=backend.lease, start="new") as late:
        assert late.backlog == 0
        await transport.publish(*backend.messages("b"))
        assert ids(await backend.drain(late)) == ["b"]


@pytest.mark.parametrize("start", ["auto", "oldest", "new"])
async def test_a_group_that_exists_goes_on_where_it_was(backend: Backend, start: Any) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a", "b", "c"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        await backend.settle(mail, await mail.receive(1, wait=0))
    async with backend.transport().subscribe(
        "orders", "mail", lease=backend.lease, start=start
    ) as mail:
        assert mail.backlog == 2
        assert ids(await backend.drain(mail)) == ["b", "c"]


async def test_a_late_group_gets_delayed_events_too(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a", delay=backend.lease))
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease),
        transport.subscribe("orders", "late", lease=backend.lease) as late,
    ):
        assert late.backlog == 0
        await backend.elapse(backend.lease * 1.1)
        assert ids(await backend.drain(late)) == ["a"]


# Leases


async def test_a_lease_that_ends_hands_the_delivery_to_another(backend: Backend) -> None:
    async with (
        backend.transport().subscribe("orders", "mail", lease=backend.lease) as one,
        backend.transport().subscribe("orders", "mail", lease=backend.lease) as two,
    ):
        await backend.transport().publish(*backend.messages("a"))
        (first,) = await one.receive(1, wait=0)
        assert await two.receive(1, wait=0) == []
        await backend.elapse(backend.lease * 1.1)
        (again,) = await two.receive(1, wait=0)
        assert (again.id, again.position, again.body) == (first.id, first.position, first.body)
        assert (again.attempt, again.crashes, again.replays) == (1, 1, 0)
        assert again.token != first.token
        await backend.elapse(backend.lease * 1.1)
        (third,) = await one.receive(1, wait=0)
        assert third.crashes == 2


async def test_what_a_consumer_held_when_it_left_is_leased_until_its_lease_ends(
    backend: Backend,
) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as one:
        await one.receive(1, wait=0)
    async with backend.transport().subscribe("orders", "mail", lease=backend.lease) as two:
        assert await two.receive(1, wait=0) == []
        await backend.elapse(backend.lease * 1.1)
        (again,) = await two.receive(1, wait=0)
        assert again.crashes == 1


async def test_renewing_keeps_a_lease(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a", "b"))
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as one,
        backend.transport().subscribe("orders", "mail", lease=backend.lease) as two,
    ):
        kept, left = await one.receive(2, wait=0)
        for _ in range(5):  # more often than every half a lease, as workers do
            await backend.elapse(backend.lease * 0.4)
            assert await backend.transport().renew(one.consumer, [kept]) == []
        assert ids(await backend.drain(two)) == [left.id]
        assert await backend.settle(one, [kept]) == ["applied"]


async def test_renewing_what_was_settled_and_came_again_says_lost(backend: Backend) -> None:
    transport = backend.transport()
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        await transport.publish(*backend.messages("a"))
        old = await mail.receive(1, wait=0)
        await backend.settle(mail, old, RetryAfter(0))
        new = await mail.receive(1, wait=0)
        assert await transport.renew(mail.consumer, old) == old
        assert await transport.renew(mail.consumer, [*old, *new]) == old
        assert await backend.settle(mail, new) == ["applied"]


async def test_renewing_after_a_takeover_says_lost_and_steals_nothing_back(
    backend: Backend,
) -> None:
    frozen, other = backend.transport(), backend.transport()
    await other.publish(*backend.messages("a", "b"))
    async with (
        frozen.subscribe("orders", "mail", lease=backend.lease) as one,
        other.subscribe("orders", "mail", lease=backend.lease) as two,
    ):
        first = await one.receive(2, wait=0)
        await backend.elapse(backend.lease * 1.1)
        (again,) = await two.receive(1, wait=0)
        lost = await frozen.renew(one.consumer, first)
        assert ids(lost) == [again.id]
        assert await other.renew(two.consumer, [again]) == []
        assert await backend.settle(one, lost) == ["lost"]
        assert await backend.settle(two, [again]) == ["applied"]
        rest: list[Delivery] = []
        for _ in range(20):  # three times on a machine that does not stand still meanwhile
            await backend.elapse(backend.lease * 0.4)
            # It lives, as workers say that they do.
            assert await other.renew(two.consumer, []) == []
            rest += await backend.drain(two)
            if rest:
                break
        assert ids(rest) == [d.id for d in first if d.id != again.id]


async def test_an_expired_lease_that_nobody_took_is_still_its_holders(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a", "b"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        one, two = await mail.receive(2, wait=0)
        await backend.elapse(backend.lease * 1.1)
        assert (await backend.group()).leased == 2
        assert await transport.renew(mail.consumer, [one]) == []
        assert await backend.settle(mail, [one, two]) == ["applied", "applied"]
        assert await mail.receive(2, wait=0) == []


async def test_taking_over_ones_own_delivery_voids_the_old_token(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        (old,) = await mail.receive(1, wait=0)
        await backend.elapse(backend.lease * 1.1)
        (new,) = await mail.receive(1, wait=0)
        assert new.crashes == 1
        assert await transport.renew(mail.consumer, [old, new]) == [old]
        assert await backend.settle(mail, [old]) == ["lost"]
        assert await backend.settle(mail, [new]) == ["applied"]


async def test_the_groups_lease_is_the_largest_of_its_live_consumers(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as short:
        async with transport.subscribe("orders", "mail", lease=backend.lease * 4) as long:
            assert (await backend.group()).lease == backend.lease * 4
            await short.receive(1, wait=0)
            await backend.elapse(backend.lease * 2)
            assert await long.receive(1, wait=0) == []
            await transport.renew(short.consumer, [])
        assert (await backend.group()).lease == backend.lease
        (again,) = await short.receive(1, wait=0)
        assert again.crashes == 1


async def test_a_group_counts_its_live_consumers(backend: Backend) -> None:
    transport = backend.transport()
    async with transport.subscribe("orders", "mail", lease=backend.lease) as one:
        async with transport.subscribe("orders", "mail", lease=backend.lease):
            assert (await backend.group()).consumers == 2
        assert (await backend.group()).consumers == 1
        assert (await backend.group()).seen is not None
        assert one.consumer.lease == backend.lease
    assert (await backend.group()).consumers == 0


async def test_a_consumer_unheard_of_for_several_leases_does_not_count_as_live(
    backend: Backend,
) -> None:
    backend.only_if_time_can_be_skipped()  # how many leases that are is the backend's choice
    transport = backend.transport()
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as one,
        transport.subscribe("orders", "mail", lease=backend.lease * 2),  # and then it is frozen
    ):
        for _ in range(20):
            await backend.elapse(backend.lease * 0.6)
            await transport.renew(one.consumer, [])
        info = await backend.group()
        assert (info.consumers, info.lease) == (1, backend.lease)


# Retry, release, and the order in which things come back


async def test_a_release_comes_back_at_once_and_uncharged(backend: Backend) -> None:
    async with (
        backend.transport().subscribe("orders", "mail", lease=backend.lease) as one,
        backend.transport().subscribe("orders", "mail", lease=backend.lease) as two,
    ):
        await backend.transport().publish(*backend.messages("a", "b"))
        first = await one.receive(2, wait=0)
        assert await backend.settle(one, first, Release()) == ["applied", "applied"]
        assert (await backend.group()).waiting == 2
        again = await backend.drain(two)
        assert ids(again) == ["a", "b"]
        assert [(d.attempt, d.crashes) for d in again] == [(1, 0), (1, 0)]


async def test_a_release_keeps_attempt_and_crashes(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        await backend.settle(mail, await mail.receive(1, wait=0), RetryAfter(0))
        await mail.receive(1, wait=0)
        await backend.elapse(backend.lease * 1.1)
        (crashed,) = await mail.receive(1, wait=0)
        assert (crashed.attempt, crashed.crashes) == (2, 1)
        await backend.settle(mail, [crashed], Release())
        (again,) = await mail.receive(1, wait=0)
        assert (again.attempt, again.crashes) == (2, 1)


async def test_a_retry_comes_back_after_its_delay_with_one_more_attempt(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        for attempt in (1, 2, 3):
            (delivery,) = await mail.receive(1, wait=0)
            assert (delivery.id, delivery.body) == ("a", b"body of a")
            assert (delivery.attempt, delivery.crashes) == (attempt, 0)
            await backend.settle(mail, [delivery], RetryAfter(backend.lease))
            assert await mail.receive(1, wait=0) == []
            assert (await backend.group()).waiting == 1
            await backend.elapse(backend.lease * 1.1)


async def test_a_slow_retry_does_not_block_a_fast_one(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("slow", "fast"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        slow, fast = await mail.receive(2, wait=0)
        await backend.settle(mail, [slow], RetryAfter(backend.lease * 6))
        await backend.settle(mail, [fast], RetryAfter(backend.lease))
        await backend.elapse(backend.lease * 1.1)
        assert ids(await mail.receive(10, wait=0)) == ["fast"]


async def test_what_is_due_again_comes_before_new_events(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("retry", "released", "new"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        one, two = await mail.receive(2, wait=0)
        await backend.settle(mail, [one], RetryAfter(0))
        await backend.settle(mail, [two], Release())
        assert set(ids(await mail.receive(2, wait=0))) == {"retry", "released"}
        assert ids(await mail.receive(2, wait=0)) == ["new"]


async def test_a_retry_in_one_group_does_not_concern_another(backend: Backend) -> None:
    transport = backend.transport()
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        transport.subscribe("orders", "bill", lease=backend.lease) as bill,
    ):
        await transport.publish(*backend.messages("a"))
        await backend.settle(mail, await mail.receive(1, wait=0), RetryAfter(0))
        await backend.settle(bill, await bill.receive(1, wait=0))
        assert await bill.receive(1, wait=0) == []
        (again,) = await mail.receive(1, wait=0)
        assert again.attempt == 2


# Delayed events


async def test_a_delayed_event_is_not_delivered_before_its_time(backend: Backend) -> None:
    transport = backend.transport()
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        await transport.publish(
            *backend.messages("late", delay=backend.lease), *backend.messages("now")
        )
        now = await backend.drain(mail)
        assert ids(now) == ["now"]
        await backend.settle(mail, now)
        info = await backend.topic()
        assert (info.events, info.delayed) == (1, 1)
        await backend.elapse(backend.lease * 1.1)
        (delivery,) = await mail.receive(10, wait=0)
        assert (delivery.id, delivery.body, delivery.attempt) == ("late", b"body of late", 1)
        info = await backend.topic()
        assert (info.events, info.delayed) == (2, 0)


async def test_delayed_events_come_in_the_order_of_their_times(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(
        *backend.messages("third", delay=backend.lease * 0.9),
        *backend.messages("first", delay=backend.lease * 0.3),
        *backend.messages("second", delay=backend.lease * 0.6),
    )
    await backend.elapse(backend.lease)
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        assert ids(await backend.drain(mail)) == ["first", "second", "third"]


async def test_delayed_events_are_listed_by_when_they_come_due(backend: Backend) -> None:
    transport = backend.transport()
    assert await transport.delayed("orders") == []
    now = time.time()
    delays = {"hour": 3600.0, "soon": backend.lease * 0.5, "day": 86_400.0, "0": 0.0}
    for name, delay in delays.items():
        await transport.publish(*backend.messages(name, delay=delay))
    await transport.publish(*backend.messages("x", topic="t", delay=60))
    reader = backend.transport()
    assert ids(await reader.delayed("orders")) == ["soon", "hour", "day"]
    assert ids(await reader.browse("orders")) == ["0"]
    await backend.elapse(backend.lease)
    first, second = await reader.delayed("orders")
    assert (first.id, first.body, first.stored) == ("hour", b"body of hour", 0.0)
    dues = [event.due and event.due - now for event in (first, second)]
    assert dues == pytest.approx([3600, 86_400], abs=60 + backend.lease)
    assert ids(await reader.delayed("orders", 1)) == ["hour"]
    found = await reader.find("orders", "hour")
    assert found is not None
    assert (found.position, found.due) == (first.position, pytest.approx(first.due))
    stored = await reader.find("orders", "0")
    assert stored is not None
    assert stored.due is None


# Waiting


async def test_a_waiting_receive_is_woken_by_a_publish(backend: Backend) -> None:
    async with (
        backend.transport().subscribe("orders", "mail", lease=backend.lease) as mail,
        anyio.create_task_group() as tasks,
    ):
        await tasks.start(_expect, mail, ["a"])
        await anyio.wait_all_tasks_blocked()
        await backend.transport().publish(*backend.messages("a"))


async def test_a_waiting_receive_is_woken_by_a_release(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as one,
        backend.transport().subscribe("orders", "mail", lease=backend.lease) as two,
        anyio.create_task_group() as tasks,
    ):
        held = await one.receive(1, wait=0)
        await tasks.start(_expect, two, ["a"])
        await anyio.wait_all_tasks_blocked()
        await backend.settle(one, held, Release())


async def test_a_waiting_receive_is_woken_by_a_retry_that_comes_due(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        await backend.settle(mail, await mail.receive(1, wait=0), RetryAfter(0.2))
        with anyio.fail_after(60):
            (again,) = await mail.receive(1, wait=30)
        assert again.attempt == 2


async def test_a_waiting_receive_is_woken_by_a_delayed_event_that_comes_due(
    backend: Backend,
) -> None:
    transport = backend.transport()
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        anyio.create_task_group() as tasks,
    ):
        await tasks.start(_expect, mail, ["a"])
        await anyio.wait_all_tasks_blocked()
        await transport.publish(*backend.messages("a", delay=0.2))


async def test_a_waiting_receive_is_woken_by_a_lease_that_ends(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=0.3) as crashed:
        await crashed.receive(1, wait=0)
    async with backend.transport().subscribe("orders", "mail", lease=0.3) as mail:
        with anyio.fail_after(60):
            (again,) = await mail.receive(1, wait=30)
        assert again.crashes == 1


async def test_a_waiting_receive_is_woken_by_a_replay(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        anyio.create_task_group() as tasks,
    ):
        await backend.settle(mail, await mail.receive(1, wait=0), Bury(b"no"))
        await tasks.start(_expect, mail, ["a"])
        await anyio.wait_all_tasks_blocked()
        assert await backend.transport().replay("orders") == 1


async def test_receive_returns_nothing_after_its_wait(backend: Backend) -> None:
    async with backend.transport().subscribe("orders", "mail", lease=backend.lease) as mail:
        with anyio.fail_after(60):
            assert await mail.receive(1, wait=0.05) == []


@pytest.mark.parametrize("waits", [True, False])
async def test_cancelling_a_receive_loses_nothing(backend: Backend, waits: bool) -> None:
    names = [f"e{n}" for n in range(40)]
    transport = backend.transport()
    received: list[Delivery] = []
    # Not the backend's lease: on a server this takes longer.
    async with transport.subscribe("orders", "mail", lease=60.0) as mail:

        async def receive(scope: anyio.CancelScope) -> None:
            with scope:
                received.extend(await mail.receive(1, wait=30))

        for turn, name in enumerate(names):
            async with anyio.create_task_group() as tasks:
                scope = anyio.CancelScope()
                tasks.start_soon(receive, scope)
                for _ in range(turn % 5):
                    await anyio.lowlevel.checkpoint()
                if turn % 2:
                    await anyio.wait_all_tasks_blocked()
                await transport.publish(*backend.messages(name))
                for _ in range(turn % 7):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
            if waits:  # so that the next one has to wait again
                received += await backend.drain(mail)
        received += await backend.drain(mail)
    assert sorted(ids(received)) == sorted(names)
    assert {(d.attempt, d.crashes) for d in received} == {(1, 0)}


async def _expect(subscription: Subscription, expected: list[str], *, task_status: Any) -> None:
    task_status.started()
    with anyio.fail_after(60):
        assert ids(await subscription.receive(10, wait=30)) == expected


# Dead letters


async def test_a_dead_letter_has_its_reason_and_concerns_its_group_alone(
    backend: Backend,
) -> None:
    transport = backend.transport()
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        transport.subscribe("orders", "bill", lease=backend.lease) as bill,
    ):
        await transport.publish(*backend.messages("a"))
        await backend.settle(mail, await mail.receive(1, wait=0), Bury(b"\0why\xff"))
        assert ids(await bill.receive(1, wait=0)) == ["a"]
        await backend.elapse(backend.lease * 1.1)
        assert await mail.receive(1, wait=0) == []
    (dead,) = await backend.transport().dead_letters("orders")
    assert (dead.topic, dead.group, dead.id) == ("orders", "mail", "a")
    assert (dead.body, dead.reason) == (b"body of a", b"\0why\xff")
    assert await transport.dead_letters("orders", "bill") == []
    assert (await backend.topic()).dead == 1
    assert ((await backend.group("mail")).dead, (await backend.group("bill")).dead) == (1, 0)


async def _bury(backend: Backend, *names: str, group: str = "mail", **limits: Any) -> None:
    """Publishes events and lets the group give them up, one after another."""
    transport = backend.transport(**limits)
    async with transport.subscribe("orders", group, lease=backend.lease) as subscription:
        await transport.publish(*backend.messages(*names))
        for delivery in await backend.drain(subscription):
            await backend.settle(subscription, [delivery], Bury(b"no"))


async def test_dead_letters_are_listed_newest_first(backend: Backend) -> None:
    await _bury(backend, "a", "b", "c")
    transport = backend.transport()
    assert ids(await transport.dead_letters("orders")) == ["c", "b", "a"]
    assert ids(await transport.dead_letters("orders", "mail", limit=2)) == ["c", "b"]
    assert await transport.dead_letters("bills") == []


async def test_a_replay_goes_to_the_group_that_gave_up_and_starts_anew(backend: Backend) -> None:
    transport = backend.transport()
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        transport.subscribe("orders", "bill", lease=backend.lease) as bill,
    ):
        await transport.publish(*backend.messages("a"))
        await backend.settle(bill, await bill.receive(1, wait=0))
        await backend.settle(mail, await mail.receive(1, wait=0), RetryAfter(0))
        await mail.receive(1, wait=0)
        await backend.elapse(backend.lease * 1.1)
        (worn,) = await mail.receive(1, wait=0)
        assert (worn.attempt, worn.crashes, worn.replays) == (2, 1, 0)
        await backend.settle(mail, [worn], Bury(b"no"))
        for replays in (1, 2):
            assert await backend.transport().replay("orders") == 1
            assert await transport.dead_letters("orders") == []
            (again,) = await mail.receive(10, wait=0)
            assert (again.id, again.body) == ("a", b"body of a")
            assert (again.attempt, again.crashes, again.replays) == (1, 0, replays)
            await backend.settle(mail, [again], Bury(b"no"))
        assert await bill.receive(10, wait=0) == []


async def test_a_replay_does_not_reach_a_group_that_joins_meanwhile(backend: Backend) -> None:
    transport = backend.transport()
    await _bury(backend, "a")
    assert await transport.replay("orders") == 1
    async with transport.subscribe("orders", "late", lease=backend.lease) as late:
        assert late.backlog == 0
        assert await late.receive(1, wait=0) == []


async def test_a_replayed_delivery_is_leased_retried_and_settled_like_any(
    backend: Backend,
) -> None:
    await _bury(backend, "a")
    transport = backend.transport()
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        await transport.replay("orders", "mail")
        await backend.settle(mail, await mail.receive(1, wait=0), RetryAfter(0))
        (second,) = await mail.receive(1, wait=0)
        assert (second.attempt, second.replays) == (2, 1)
        await backend.elapse(backend.lease * 1.1)
        (third,) = await mail.receive(1, wait=0)
        assert (third.attempt, third.crashes, third.replays) == (2, 1, 1)
        assert await backend.settle(mail, [second]) == ["lost"]
        assert await backend.settle(mail, [third]) == ["applied"]
        await backend.elapse(backend.lease * 1.1)
        assert await mail.receive(1, wait=0) == []


async def test_a_replay_works_after_the_event_was_trimmed(backend: Backend) -> None:
    await _bury(backend, "a", "b", "c", retention=0)
    transport = backend.transport(retention=0)
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        assert "a" not in ids(await transport.browse("orders"))
        assert await transport.replay("orders") == 3
        again = await backend.drain(mail)
        assert sorted(d.body for d in again) == [b"body of a", b"body of b", b"body of c"]
        assert await backend.settle(mail, again) == ["applied"] * 3


async def test_a_replay_by_position_takes_those_alone(backend: Backend) -> None:
    await _bury(backend, "a", "b", "c")
    transport = backend.transport()
    position = {dead.id: dead.position for dead in await transport.dead_letters("orders")}
    assert await transport.replay("orders", positions=["no such position"]) == 0
    assert await transport.replay("orders", "mail", [position["b"]]) == 1
    left = await transport.dead_letters("orders")
    assert {dead.id: dead.position for dead in left} == {
        name: position[name] for name in ("a", "c")
    }
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        assert ids(await backend.drain(mail)) == ["b"]


async def test_a_position_that_is_named_twice_is_replayed_once(backend: Backend) -> None:
    await _bury(backend, "a", "b")
    transport = backend.transport()
    positions = [dead.position for dead in await transport.dead_letters("orders")]
    assert await transport.replay("orders", positions=[*positions, *positions]) == 2
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        assert sorted(ids(await backend.drain(mail))) == ["a", "b"]


async def test_a_replay_with_a_mended_body_delivers_that_and_dies_with_it_again(
    backend: Backend,
) -> None:
    await _bury(backend, "a", "b")
    transport = backend.transport()
    position = {dead.id: dead.position for dead in await transport.dead_letters("orders")}
    mended = b"\0mended\xff" * 1_000
    assert await transport.replay("orders", "mail", [position["a"]], body=mended) == 1
    assert await transport.replay("orders", "mail", [position["a"]], body=b"too late") == 0
    assert ids(await transport.dead_letters("orders")) == ["b"]
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        backend.transport().subscribe("orders", "late", lease=backend.lease) as late,
    ):
        (again,) = await mail.receive(10, wait=0)
        assert (again.id, again.body) == ("a", mended)
        assert (again.attempt, again.crashes, again.replays) == (1, 0, 1)
        await backend.settle(mail, [again], RetryAfter(0))
        (second,) = await mail.receive(10, wait=0)
        assert (second.body, second.attempt, second.replays) == (mended, 2, 1)
        await backend.settle(mail, [second], Bury(b"still no"))
        assert mended not in [delivery.body for delivery in await late.receive(10, wait=0)]
    newest, _ = await transport.dead_letters("orders")
    assert (newest.id, newest.body, newest.reason) == ("a", mended, b"still no")
    event = await transport.find("orders", "a")
    assert event is None or event.body == b"body of a"


async def test_a_replay_with_an_unfit_body_changes_nothing(backend: Backend) -> None:
    await _bury(backend, "a")
    transport = backend.transport()
    (letter,) = await transport.dead_letters("orders")
    unfit = cast(bytes, "text")
    with pytest.raises(TypeError):
        await transport.replay("orders", "mail", [letter.position], body=unfit)
    assert await transport.dead_letters("orders") == [letter]


async def test_one_events_dead_letters_are_found_among_many(backend: Backend) -> None:
    await _bury(backend, *(f"e{n}" for n in range(600)), "twice", "twice")
    await _bury(backend, "x", group="bill")
    transport = backend.transport()
    (oldest,) = await transport.dead_letters("orders", event_id="e0")
    assert (oldest.id, oldest.body) == ("e0", b"body of e0")
    assert ids(await transport.dead_letters("orders", "mail", event_id="twice")) == ["twice"] * 2
    (newest,) = await transport.dead_letters("orders", "mail", event_id="twice", limit=1)
    (older,) = await transport.dead_letters(
        "orders", "mail", event_id="twice", before=newest.position
    )
    assert older.position != newest.position
    assert await transport.dead_letters("orders", "bill", event_id="e0") == []
    assert await transport.dead_letters("orders", event_id="none") == []


async def test_dead_letters_are_looked_through_a_page_at_a_time(backend: Backend) -> None:
    await _bury(backend, *"abcde")
    await _bury(backend, *"xyz", group="bill")
    transport = backend.transport()
    found, before = list[list[str]](), None
    while page := await transport.dead_letters("orders", "mail", limit=2, before=before):
        found.append(ids(page))
        before = page[-1].position
        await transport.discard("orders", "mail", [before])  # what is gone is a place still
    assert found[0] == ["e", "d"]
    assert [name for names in found for name in names][:5] == list("edcba")
    for place in ("none", "9" * 19, "9" * 40, f"{'9' * 40}-0", f"0-{'9' * 40}"):
        assert await transport.dead_letters("orders", "mail", before=place) == []
        assert await transport.replay("orders", "mail", [place]) == 0
        assert await transport.discard("orders", "mail", [place]) == 0


async def test_a_replay_by_group_leaves_the_others_dead(backend: Backend) -> None:
    transport = backend.transport()
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        transport.subscribe("orders", "bill", lease=backend.lease) as bill,
    ):
        await transport.publish(*backend.messages("a"))
        for one in (mail, bill):
            await backend.settle(one, await one.receive(1, wait=0), Bury(b"no"))
        assert await transport.replay("orders", "bill") == 1
        assert ids(await bill.receive(1, wait=0)) == ["a"]
        assert await mail.receive(1, wait=0) == []
        assert [dead.group for dead in await transport.dead_letters("orders")] == ["mail"]


async def test_discarded_dead_letters_are_gone(backend: Backend) -> None:
    await _bury(backend, "a", "b", "c")
    transport = backend.transport()
    position = {dead.id: dead.position for dead in await transport.dead_letters("orders")}
    assert await transport.discard("orders", "bill") == 0
    assert await transport.discard("orders", positions=[position["b"], "none"]) == 1
    assert ids(await transport.dead_letters("orders")) == ["c", "a"]
    assert await transport.discard("orders") == 2
    assert await transport.dead_letters("orders") == []
    assert await transport.replay("orders") == 0


async def test_dead_letters_are_bounded_and_the_oldest_go_first(backend: Backend) -> None:
    await _bury(backend, *"abcde", dead_letters=3)
    transport = backend.transport(dead_letters=3)
    assert ids(await transport.dead_letters("orders")) == ["e", "d", "c"]
    assert (await backend.topic()).dead == 3


async def test_the_bound_on_dead_letters_is_each_groups_own(backend: Backend) -> None:
    limits: dict[str, Any] = {"dead_letters": 2}
    transport = backend.transport(**limits)
    async with transport.subscribe("orders", "bill", lease=backend.lease):
        await _bury(backend, "a", "b", **limits)
        await _bury(backend, group="bill", **limits)
    assert len(await transport.dead_letters("orders")) == 4


async def test_dead_letters_are_kept_for_their_age(backend: Backend) -> None:
    age = backend.lease * 2
    transport = backend.transport(dead_letter_age=age)
    await _bury(backend, "a", dead_letter_age=age)
    await backend.elapse(age * 0.6)
    await _bury(backend, "b", dead_letter_age=age)
    assert ids(await transport.dead_letters("orders")) == ["b", "a"]
    await backend.elapse(age * 0.6)
    assert ids(await transport.dead_letters("orders")) == ["b"]
    assert await transport.replay("orders") == 1


# Retention and the bound


async def test_with_no_group_nothing_is_removed(backend: Backend) -> None:
    transport = backend.transport(retention=1)
    await transport.publish(*backend.messages(*"abcde"))
    await transport.publish(*backend.messages(*"fghij"))
    assert (await backend.topic()).events == 10


async def test_settled_events_are_kept_up_to_the_retention(backend: Backend) -> None:
    transport = backend.transport(retention=3)
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        await transport.publish(*backend.messages(*"abcdefgh"))
        await backend.settle(mail, await backend.drain(mail))
    assert ids(await transport.browse("orders", 100)) == ["h", "g", "f"]
    info = await backend.topic()
    assert (info.events, info.size) == (3, 3 * len(b"body of a"))
    assert await transport.locate("a") == []


async def test_an_event_is_kept_until_the_slowest_group_has_settled_it(backend: Backend) -> None:
    transport = backend.transport(retention=0)
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        transport.subscribe("orders", "bill", lease=backend.lease) as bill,
    ):
        await transport.publish(*backend.messages(*"abcd"))
        await backend.settle(mail, await backend.drain(mail))
        assert (await backend.topic()).events == 4
        first, second = await bill.receive(2, wait=0)
        await backend.settle(bill, [first])
        await backend.settle(bill, [second], RetryAfter(backend.lease))
        await backend.settle(bill, await backend.drain(bill))
        assert "b" in ids(await transport.browse("orders"))
        await backend.elapse(backend.lease * 1.1)
        (again,) = await bill.receive(1, wait=0)
        assert again.body == b"body of b"
        await backend.settle(bill, [again])
        assert await transport.browse("orders") == []


async def test_removing_the_slowest_group_lets_its_events_go(backend: Backend) -> None:
    transport = backend.transport(retention=0)
    async with (
        transport.subscribe("orders", "slow", lease=backend.lease),
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
    ):
        await transport.publish(*backend.messages("a", "b"))
        await backend.settle(mail, await backend.drain(mail))
        await transport.remove_group("orders", "slow")
        await transport.publish(*backend.messages("c"))
        await backend.settle(mail, await backend.drain(mail))
    assert await transport.browse("orders") == []


async def test_settled_events_are_kept_up_to_the_retention_in_bytes(backend: Backend) -> None:
    transport = backend.transport(retention_bytes=2_500)
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        await transport.publish(*(Message("orders", f"e{n}", b"x" * 1_000) for n in range(5)))
        await backend.settle(mail, await backend.drain(mail))
    assert ids(await transport.browse("orders")) == ["e4", "e3"]


async def test_the_bound_on_the_backlog_refuses_and_stores_nothing(backend: Backend) -> None:
    transport = backend.transport(max_backlog=3)
    await transport.publish(*backend.messages("a", "b"))
    with pytest.raises(BacklogFull, match="orders"):
        await transport.publish(*backend.messages("c", "d"))
    assert ids(await transport.browse("orders")) == ["b", "a"]
    await transport.publish(*backend.messages("c"))
    with pytest.raises(BacklogFull):
        await transport.publish(*backend.messages("d"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        held = await mail.receive(2, wait=0)
        with pytest.raises(BacklogFull):  # leased is not settled
            await transport.publish(*backend.messages("d"))
        await backend.settle(mail, held)
        await transport.publish(*backend.messages("d", "e"))
        assert ids(await backend.drain(mail)) == ["c", "d", "e"]


async def test_a_publish_to_several_topics_of_which_one_is_full_stores_nothing(
    backend: Backend,
) -> None:
    backend.only_if_topics_are_stored_in_one_step()
    transport = backend.transport(max_backlog=1)
    with pytest.raises(BacklogFull, match="orders"):
        await transport.publish(*backend.messages("x", topic="bills"), *backend.messages("a", "b"))
    assert await transport.browse("orders") == []
    assert await transport.browse("bills") == []


async def test_the_bound_counts_what_the_slowest_group_has_not_settled(backend: Backend) -> None:
    transport = backend.transport(max_backlog=2)
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        transport.subscribe("orders", "slow", lease=backend.lease),
    ):
        await transport.publish(*backend.messages("a", "b"))
        await backend.settle(mail, await backend.drain(mail))
        with pytest.raises(BacklogFull):
            await transport.publish(*backend.messages("c"))


async def test_groups_unseen_for_a_day_do_not_count_for_the_bound(backend: Backend) -> None:
    backend.only_if_time_can_be_skipped()
    transport = backend.transport(max_backlog=2)
    async with transport.subscribe("orders", "gone", lease=backend.lease):
        pass
    await transport.publish(*backend.messages("a", "b"))
    await backend.elapse(86_000)
    with pytest.raises(BacklogFull):
        await transport.publish(*backend.messages("c"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        await backend.settle(mail, await backend.drain(mail))
        await backend.elapse(1_000)
        await transport.renew(mail.consumer, [])
        await transport.publish(*backend.messages("c"))


# Pausing and removing


async def test_a_paused_group_hands_out_nothing_until_resumed(backend: Backend) -> None:
    transport = backend.transport()
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        transport.subscribe("orders", "bill", lease=backend.lease) as bill,
    ):
        await transport.publish(*backend.messages("a", "b", "c"))
        held = await mail.receive(2, wait=0)
        assert await backend.transport().pause("orders", "mail")
        assert (await backend.group()).paused
        assert await backend.settle(mail, held[:1]) == ["applied"]
        assert await backend.settle(mail, held[1:], Release()) == ["applied"]
        assert await mail.receive(10, wait=0) == []
        assert ids(await bill.receive(10, wait=0)) == ["a", "b", "c"]
        assert await backend.transport().resume("orders", "mail")
        assert not (await backend.group()).paused
        assert ids(await backend.drain(mail)) == ["b", "c"]


async def test_a_new_consumer_does_not_lift_a_pause(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    async with transport.subscribe("orders", "mail", lease=backend.lease):
        await transport.pause("orders", "mail")
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        assert await mail.receive(1, wait=0) == []


async def test_a_waiting_receive_sees_pause_and_resume(backend: Backend) -> None:
    async with (
        backend.transport().subscribe("orders", "mail", lease=backend.lease) as mail,
        anyio.create_task_group() as tasks,
    ):
        await tasks.start(_expect, mail, ["a", "b"])
        await anyio.wait_all_tasks_blocked()
        other = backend.transport()
        await other.pause("orders", "mail")
        await other.publish(*backend.messages("a"))
        await anyio.wait_all_tasks_blocked()  # had "a" been handed out, it would come alone
        await other.publish(*backend.messages("b"))
        await other.resume("orders", "mail")


async def test_pausing_an_unknown_group_is_false(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"))
    assert not await transport.pause("orders", "mail")
    assert not await transport.resume("orders", "mail")
    assert not await transport.pause("bills", "mail")
    assert await transport.groups("orders") == []


async def test_consumers_that_run_do_not_make_a_removed_group_again(backend: Backend) -> None:
    transport = backend.transport()
    async with (
        transport.subscribe("orders", "bill", lease=backend.lease) as bill,
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
    ):
        await transport.publish(*backend.messages("a", "b", "c"))
        await backend.settle(bill, await backend.drain(bill))
        held = await mail.receive(1, wait=0)
        assert await backend.transport().remove_group("orders", "mail")
        assert not await backend.transport().remove_group("orders", "mail")
        assert await mail.receive(10, wait=0) == []
        assert await transport.renew(mail.consumer, held) == held
        assert await backend.settle(mail, held) == ["lost"]
        assert await mail.receive(10, wait=0.01) == []
        await transport.publish(*backend.messages("d"))
        assert await mail.receive(10, wait=0) == []
        assert [group.name for group in await transport.groups("orders")] == ["bill"]


async def test_a_new_subscription_makes_a_removed_group_again_without_its_queue(
    backend: Backend,
) -> None:
    transport = backend.transport()
    async with transport.subscribe("orders", "bill", lease=backend.lease) as bill:
        async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
            await transport.publish(*backend.messages("a", "b", "c"))
            await backend.settle(bill, await backend.drain(bill))
            await backend.settle(mail, await mail.receive(1, wait=0), RetryAfter(0))
            await transport.pause("orders", "mail")
            await transport.remove_group("orders", "mail")
        async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
            assert mail.backlog == 0
            assert not (await backend.group()).paused
            await transport.publish(*backend.messages("d"))
            assert ids(await backend.drain(mail)) == ["d"]


async def test_an_agent_renamed_after_its_group_was_removed_repeats_nothing_settled(
    backend: Backend,
) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a", "b", "c"))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        await backend.settle(mail, await mail.receive(2, wait=0))
    await transport.remove_group("orders", "mail")
    async with transport.subscribe("orders", "post", lease=backend.lease) as post:
        assert ids(await backend.drain(post)) == ["c"]


async def test_removing_a_group_keeps_its_dead_letters_unless_told(backend: Backend) -> None:
    transport = backend.transport()
    await _bury(backend, "a")
    assert await transport.remove_group("orders", "mail")
    assert ids(await transport.dead_letters("orders", "mail")) == ["a"]
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        assert await transport.replay("orders") == 1
        (again,) = await mail.receive(1, wait=0)
        assert (again.id, again.replays) == ("a", 1)
        await backend.settle(mail, [again], Bury(b"no"))
    assert await transport.remove_group("orders", "mail", dead_letters=True)
    assert await transport.dead_letters("orders") == []


async def test_a_removed_topic_is_gone_with_everything(backend: Backend) -> None:
    transport = backend.transport()
    await _bury(backend, "a")
    await transport.publish(*backend.messages("late", delay=backend.lease))
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        await transport.publish(*backend.messages("b", "c"))
        await transport.publish(*backend.messages("x", topic="bills"))
        held = await mail.receive(1, wait=0)
        assert await backend.transport().remove_topic("orders")
        assert not await backend.transport().remove_topic("orders")
        assert [info.name for info in await transport.topics()] == ["bills"]
        assert await transport.groups("orders") == []
        assert await transport.browse("orders") == []
        assert await transport.dead_letters("orders") == []
        assert [await transport.locate(name) for name in ("a", "b", "c", "late")] == [[]] * 4
        assert await backend.settle(mail, held) == ["lost"]
        await transport.publish(*backend.messages("d"))
        await backend.elapse(backend.lease * 1.1)
        assert await mail.receive(10, wait=0) == []
        assert ids(await transport.browse("orders")) == ["d"]
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        assert ids(await backend.drain(mail)) == ["d"]


# Inspection


async def test_a_group_says_how_far_it_is(backend: Backend) -> None:
    transport = backend.transport()
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
        await transport.publish(*backend.messages(*"abcdef"))
        done, leased, retried, released, dead = await mail.receive(5, wait=0)
        await backend.settle(mail, [done])
        await backend.settle(mail, [retried], RetryAfter(backend.lease))
        await backend.settle(mail, [released], Release())
        await backend.settle(mail, [dead], Bury(b"no"))
        info = await backend.group()
        assert (info.topic, info.name, info.lease) == ("orders", "mail", backend.lease)
        assert (info.lag, info.leased, info.waiting, info.dead) == (1, 1, 2, 1)
        assert await transport.renew(mail.consumer, [leased]) == []
    topic = await backend.topic()
    assert (topic.events, topic.groups, topic.dead, topic.delayed) == (6, 1, 1, 0)
    assert topic.size == 6 * len(b"body of a")


async def test_a_group_says_when_its_oldest_unsettled_event_was_stored(backend: Backend) -> None:
    transport = backend.transport()
    stored = {}
    for name in "abc":
        await transport.publish(*backend.messages(name))
        [newest, *_] = await transport.browse("orders")
        stored[newest.id] = newest.stored
        await backend.elapse(0.01)
    assert stored["a"] < stored["b"] < stored["c"]
    async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:

        async def oldest() -> str | None:
            at = (await backend.group()).oldest
            return None if at is None else next(name for name in "abc" if stored[name] == at)

        assert await oldest() == "a"  # never handed out
        a, b = await mail.receive(2, wait=0)
        await backend.settle(mail, [b])
        assert await oldest() == "a"  # leased
        await backend.settle(mail, [a], RetryAfter(3600.0))
        assert await oldest() == "a"  # waiting
        async with transport.subscribe("orders", "bill", lease=backend.lease, start="new"):
            assert (await backend.group("bill")).oldest is None
        [c] = await mail.receive(2, wait=0)
        await backend.settle(mail, [c], Bury(b"no"))
        assert await oldest() == "a"
    await transport.remove_group("orders", "mail")
    async with transport.subscribe("orders", "mail", lease=backend.lease, start="oldest") as mail:
        a, b = await mail.receive(2, wait=0)
        await backend.settle(mail, [a, b])
        assert await oldest() == "c"
        await backend.settle(mail, await mail.receive(2, wait=0), Bury(b"no"))
        assert await oldest() is None
        assert await transport.replay("orders", "mail") == 2
        assert await oldest() is None  # it has been settled once, however old it is
        await transport.publish(*backend.messages("d"))
        [newest, *_] = await transport.browse("orders")
        assert (await backend.group()).oldest == newest.stored


async def test_locate_knows_every_state(backend: Backend) -> None:
    transport = backend.transport()
    assert await transport.locate("a") == []
    await transport.publish(*backend.messages("later", delay=backend.lease * 9))
    assert await transport.locate("later") == [Place("orders", None, "pending")]
    await transport.publish(*backend.messages("a"))
    assert await transport.locate("a") == [Place("orders", None, "pending")]
    async with (
        transport.subscribe("orders", "mail", lease=backend.lease) as mail,
        transport.subscribe("orders", "bill", lease=backend.lease) as bill,
    ):

        async def place() -> tuple[str, int]:
            mail_place, bill_place = sorted(
                await backend.transport().locate("a"), key=lambda place: place.group != "mail"
            )
            assert (mail_place.topic, mail_place.group) == ("orders", "mail")
            assert bill_place == Place("orders", "bill", "pending")
            return mail_place.state, mail_place.attempt

        assert await place() == ("pending", 1)
        held = await mail.receive(1, wait=0)
        assert await place() == ("running", 1)
        await backend.settle(mail, held, Release())
        assert await place() == ("pending", 1)
        await backend.settle(mail, await mail.receive(1, wait=0), RetryAfter(backend.lease / 2))
        assert await place() == ("waiting", 2)
        await backend.elapse(backend.lease * 0.6)
        held = await mail.receive(1, wait=0)
        assert await place() == ("running", 2)
        await backend.settle(mail, held, Bury(b"no"))
        assert (await place())[0] == "dead"
        await transport.replay("orders")
        assert await place() == ("pending", 1)
        held = await mail.receive(1, wait=0)
        assert await place() == ("running", 1)
        await backend.settle(mail, held)
        assert (await place())[0] == "settled"
        await backend.settle(bill, await bill.receive(1, wait=0))
        assert {one.state for one in await transport.locate("a")} == {"settled"}
        assert await transport.locate("later") == [Place("orders", None, "pending")]


async def test_locate_finds_an_event_in_every_topic_that_holds_it(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"), *backend.messages("a", topic="bills"))
    assert sorted(place.topic for place in await transport.locate("a")) == ["bills", "orders"]


async def test_locate_looks_in_one_topic_alone_if_told(backend: Backend) -> None:
    transport = backend.transport()
    await transport.publish(*backend.messages("a"), *backend.messages("a", topic="bills"))
    assert await transport.locate("a", "bills") == [Place("bills", None, "pending")]
    assert await transport.locate("a", "none") == []


async def test_locate_finds_a_dead_letter_whose_event_was_trimmed(backend: Backend) -> None:
    await _bury(backend, "a", "b", retention=0)
    (place,) = await backend.transport().locate("a")
    assert (place.topic, place.group, place.state) == ("orders", "mail", "dead")


async def test_inspecting_makes_nothing(backend: Backend) -> None:
    transport = backend.transport()
    await transport.check()
    assert await transport.groups("orders") == []
    assert await transport.browse("orders") == []
    assert await transport.dead_letters("orders") == []
    assert (await transport.replay("orders"), await transport.discard("orders")) == (0, 0)
    assert not await transport.remove_group("orders", "mail")
    assert not await transport.remove_topic("orders")
    assert await transport.topics() == []


async def test_topics_and_groups_are_listed_by_name(backend: Backend) -> None:
    transport = backend.transport()
    for name in ("b", "a", "c"):
        async with transport.subscribe("orders", name, lease=backend.lease):
            await transport.publish(*backend.messages("x", topic=name))
    assert [info.name for info in await transport.topics()] == ["a", "b", "c", "orders"]
    assert [info.name for info in await transport.groups("orders")] == ["a", "b", "c"]


# Opening, closing, event loops


async def test_a_closed_transport_connects_again(backend: Backend) -> None:
    transport = backend.transport()
    async with transport:
        await transport.publish(*backend.messages("a"))
    await transport.close()
    assert ids(await transport.browse("orders")) == ["a"]
    await transport.open()
    await transport.open()
    assert ids(await backend.transport().browse("orders")) == ["a"]


async def test_what_is_behind_a_transport_has_one_name(backend: Backend) -> None:
    assert backend.transport().backend == backend.transport().backend == backend.store().backend


@pytest.mark.parametrize("rounds", [3])
def test_several_event_loops_one_after_another_share_a_transport(
    backend: Backend, setting: Setting, rounds: int
) -> None:
    transport = backend.transport()

    async def one_round(name: str) -> None:
        await transport.publish(*backend.messages(name))
        async with (
            transport.subscribe("orders", "mail", lease=backend.lease) as mail,
            anyio.create_task_group() as tasks,
        ):
            (delivery,) = await mail.receive(10, wait=0)
            assert (delivery.id, delivery.crashes) == (name, 0)
            assert await mail.settle([Settlement(delivery, Ack())]) == ["applied"]
            await tasks.start(_expect, mail, [f"{name} woken"])
            await anyio.wait_all_tasks_blocked()
            await transport.publish(*backend.messages(f"{name} woken"))
        await backend.elapse(backend.lease * 1.1)
        async with transport.subscribe("orders", "mail", lease=backend.lease) as mail:
            assert await backend.settle(mail, await backend.drain(mail)) == ["applied"]

    for turn in range(rounds):
        anyio.run(one_round, f"e{turn}", backend=setting.loop)
