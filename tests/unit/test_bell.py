"""Waking tasks that wait for a key, from any thread and in any event loop."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest
from anyio import to_thread

from omnidaemon.drivers.bell import Bell, Ear

pytestmark = pytest.mark.anyio

LONG = 30.0


@pytest.fixture
def bell() -> Bell:
    return Bell()


async def heard(ear: Ear) -> None:
    """Fails unless the ear is rung soon."""
    with anyio.fail_after(60):
        assert await ear.wait(LONG)


async def test_a_ring_wakes_who_waits_for_the_key(bell: Bell) -> None:
    with bell.listen("orders") as ear:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(heard, ear)
            await anyio.wait_all_tasks_blocked()
            bell.ring("orders")


async def test_a_ring_between_listening_and_waiting_counts(bell: Bell) -> None:
    with bell.listen("orders") as ear:
        bell.ring("orders")
        await heard(ear)


async def test_a_ring_between_two_waits_counts_once(bell: Bell) -> None:
    with bell.listen("orders") as ear:
        for _ in range(2):
            bell.ring("orders")
            bell.ring("orders")
            await heard(ear)
        assert not await ear.wait(0)


async def test_a_wait_ends_after_its_seconds(bell: Bell) -> None:
    with bell.listen("orders") as ear:
        assert not await ear.wait(0.01)
        assert not await ear.wait(0)


async def test_another_key_wakes_nobody(bell: Bell) -> None:
    with bell.listen("orders", ("orders", "mail")) as ear:
        bell.ring("bills")
        assert not await ear.wait(0)
        bell.ring(("orders", "mail"))
        await heard(ear)


async def test_several_keys_in_one_ring_wake_each_listener(bell: Bell) -> None:
    with bell.listen("a") as one, bell.listen("b") as two, bell.listen("b") as three:
        bell.ring("a", "b")
        for ear in (one, two, three):
            await heard(ear)


async def test_ring_all_wakes_everybody(bell: Bell) -> None:
    with bell.listen("a") as one, bell.listen("b") as two:
        bell.ring_all()
        await heard(one)
        await heard(two)


async def test_who_no_longer_listens_is_forgotten(bell: Bell) -> None:
    with bell.listen("a"):
        assert bell.listened("a")
        with bell.listen("a"):
            pass
        assert bell.listened("a")
    assert not bell.listened("a")
    bell.ring("a")
    bell.ring_all()


async def test_a_thread_wakes_a_task(bell: Bell) -> None:
    with bell.listen("orders") as ear:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(heard, ear)
            await anyio.wait_all_tasks_blocked()
            await to_thread.run_sync(bell.ring, "orders")


async def test_rings_of_many_threads_are_not_lost(bell: Bell) -> None:
    """Each ring is answered; a lost one would leave the waiter until its time is over."""
    done = threading.Semaphore(0)

    def ring() -> None:
        for _ in range(200):
            bell.ring("orders")
            assert done.acquire(timeout=10)

    with bell.listen("orders") as ear:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(to_thread.run_sync, ring)
            for _ in range(200):
                with anyio.fail_after(60):
                    while not await ear.wait(LONG):
                        pass  # a wake-up that belonged to the ring before
                done.release()


async def test_a_cancelled_wait_keeps_the_ring(bell: Bell) -> None:
    with bell.listen("orders") as ear:
        with anyio.move_on_after(0.01):
            await ear.wait(LONG)
        bell.ring("orders")
        await heard(ear)


@pytest.mark.parametrize("first", ["asyncio", "trio"])
@pytest.mark.parametrize("second", ["asyncio", "trio"])
def test_a_task_in_one_event_loop_wakes_one_in_another(first: str, second: str) -> None:
    bell, listening = Bell(), threading.Event()
    found: list[Any] = []

    async def listen() -> None:
        with bell.listen("orders") as ear:
            listening.set()
            with anyio.move_on_after(10):
                found.append(await ear.wait(LONG))

    async def ring() -> None:
        bell.ring("orders")

    thread = threading.Thread(target=anyio.run, args=(listen,), kwargs={"backend": first})
    thread.start()
    assert listening.wait(10)
    anyio.run(ring, backend=second)
    thread.join(10)
    assert found == [True]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_listener_whose_event_loop_is_gone_is_passed_over(loop: str) -> None:
    bell = Bell()
    left: list[Ear] = []

    async def listen() -> None:
        ear = bell.listen("orders")
        ear.__enter__()  # and never leaves
        left.append(ear)

    thread = threading.Thread(target=anyio.run, args=(listen,), kwargs={"backend": loop})
    thread.start()
    thread.join(10)
    bell.ring("orders")
    bell.ring("orders")
    assert bell.listened("orders")
