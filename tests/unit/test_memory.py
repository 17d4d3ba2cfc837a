"""What the memory backend promises beyond the contract: boards by name, virtual time, its cost."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from omnidaemon.drivers.memory import Board
from omnidaemon.drivers.memory_records import Shelf
from omnidaemon.messages import Ack, Message, RetryAfter, Settlement, Write
from omnidaemon.stores.memory import MemoryStore
from omnidaemon.transports.base import Limits
from omnidaemon.transports.memory import MemoryTransport

names = count()


@pytest.fixture
def url() -> str:
    return f"memory://unit-{next(names)}"


# Boards


@pytest.mark.parametrize("bare", ["memory", "memory:", "memory://"])
def test_without_a_name_each_has_a_board_of_its_own(bare: str) -> None:
    one, two = MemoryTransport(bare), MemoryTransport(bare)
    assert one.backend != two.backend
    assert MemoryStore(one.backend).backend == one.backend


def test_a_board_lives_as_long_as_something_refers_to_it(url: str) -> None:
    async def events(transport: MemoryTransport) -> int:
        return len(await transport.browse("orders"))

    transport = MemoryTransport(url)
    store = MemoryStore(url)
    anyio.run(transport.publish, Message("orders", "a", b""))
    del transport
    gc.collect()
    assert anyio.run(events, MemoryTransport(url)) == 1
    del store
    gc.collect()
    assert anyio.run(events, MemoryTransport(url)) == 0


# Time


@pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["virtual"]
)
@pytest.mark.anyio
async def test_virtual_time_moves_leases_retries_delays_and_expiry(url: str) -> None:
    transport, store = MemoryTransport(url), MemoryStore(url)
    day = 86_400.0
    await transport.publish(Message("orders", "a", b"", delay=day))
    await store.write(Write("results", "a", b"", ttl=3 * day))
    async with transport.subscribe("orders", "mail", lease=day) as mail:
        start = anyio.current_time()
        (first,) = await mail.receive(1, wait=9 * day)
        assert anyio.current_time() - start == pytest.approx(day)
        await mail.settle([Settlement(first, RetryAfter(day))])
        (second,) = await mail.receive(1, wait=9 * day)
        assert (second.attempt, anyio.current_time() - start) == (2, pytest.approx(2 * day))
        assert len(await store.browse("results")) == 1
        (third,) = await mail.receive(1, wait=9 * day)
        assert (third.crashes, anyio.current_time() - start) == (1, pytest.approx(3 * day))
        assert await store.browse("results") == []


def test_time_goes_on_from_one_trio_run_to_the_next(url: str) -> None:
    """Trio's clock begins at a random number in each run; leases must not notice."""
    transport = MemoryTransport(url)

    async def take() -> int:
        await transport.publish(Message("orders", "a", b""))
        async with transport.subscribe("orders", "mail", lease=60) as mail:
            return len(await mail.receive(10, wait=0))

    assert [anyio.run(take, backend="trio") for _ in range(10)] == [1] * 10


def test_a_board_never_goes_back_in_time() -> None:
    board, times = Board("memory://time"), iter([5.0, 3.0, 6.0])

    def clock() -> float:
        return next(times)

    assert [board.now(clock) for _ in range(3)] == [5.0, 5.0, 6.0]


# Threads


def test_several_threads_with_event_loops_of_their_own_settle_each_event_once(url: str) -> None:
    total, workers = 3_000, 4
    settled: list[str] = []
    together = threading.Barrier(workers + 1)

    async def work() -> None:
        transport = MemoryTransport(url)
        async with transport.subscribe("orders", "mail", lease=60) as mail:
            await anyio.to_thread.run_sync(together.wait)
            with anyio.move_on_after(20):
                while len(settled) < total:
                    got = await mail.receive(7, wait=0.05)
                    verdicts = await mail.settle([Settlement(d, Ack()) for d in got])
                    assert set(verdicts) <= {"applied"}
                    settled.extend(d.id for d in got)

    async def feed() -> None:
        transport = MemoryTransport(url)
        await anyio.to_thread.run_sync(together.wait)
        for n in range(total):
            await transport.publish(Message("orders", f"e{n}", b""))

    keep = MemoryTransport(url)
    loops: list[tuple[Callable[..., Any], str]] = [(work, "asyncio"), (work, "trio")] * 2
    threads = [
        threading.Thread(target=anyio.run, args=(what,), kwargs={"backend": loop})
        for what, loop in [*loops, (feed, "asyncio")]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(settled) == sorted(f"e{n}" for n in range(total))
    assert keep.backend == url


# Cost: nothing is kept that is not needed


@pytest.mark.anyio
async def test_what_is_settled_is_let_go(url: str) -> None:
    transport = MemoryTransport(url, limits=Limits(retention=100))
    async with transport.subscribe("orders", "mail", lease=60) as mail:
        for n in range(200):
            await transport.publish(*(Message("orders", f"e{n}-{m}", b"x") for m in range(50)))
            got = await mail.receive(50, wait=0)
            await mail.settle([Settlement(d, Ack()) for d in got])
        topic = transport._board.topics["orders"]
        assert topic.end - topic.head == len(topic._ids) == 100
        assert len(topic._events) < 2_500
        group = topic.groups["mail"]
        assert not group.open
        assert not group.leased
        assert len(group.receipts[mail.consumer.name]) == 50


def test_records_written_again_and_again_pile_up_no_expiry() -> None:
    shelf = Shelf()
    for n in range(10_000):
        shelf.sweep(float(n))
        shelf.put(Write("workers", "one", b"", ttl=86_400.0), b"", now=float(n), unix=0.0)
    assert len(shelf._expiry) < 100
    assert len(shelf) == 1


def test_expired_records_leave_nothing_behind() -> None:
    shelf = Shelf()
    for n in range(1_000):
        shelf.put(Write("results", f"r{n}", b"", f"t{n}", 5.0), b"", now=float(n), unix=0.0)
    shelf.sweep(2_000.0)
    assert len(shelf) == len(shelf._labels) == len(shelf._expiry) == 0


def test_keys_looked_through_once_are_let_go_when_their_records_expire() -> None:
    shelf = Shelf()
    shelf.put(Write("results", "first", b"", ttl=1.0), b"", now=0.0, unix=0.0)
    assert shelf.newest("fi", None, 10)
    for number in range(5_000):
        now = 2.0 * number
        shelf.sweep(now)
        shelf.put(Write("results", f"k{number}", b"", ttl=1.0), b"", now=now, unix=now)
    assert len(shelf._sorted or ()) < 2_000
    assert [record.key for record in shelf.newest("k4", None, 10)] == ["k4999"]
