"""Silences: where nobody could renew, the living keep what they hold, on a clock that stands still.

Redis has a clock of its own; what holds there stands in tests/redis/test_traps.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from omnidaemon import transports
from omnidaemon.messages import Ack, Delivery, Message, Settlement
from omnidaemon.transports.base import Transport

pytestmark = pytest.mark.anyio
boards = count()


class Clock:
    """Time that stands until it is moved."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The transport's."""
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
async def transport(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[Transport]:
    """A transport by that clock."""
    place = f"//silence{next(boards)}" if request.param == "memory" else f"//{tmp_path}/x.db"
    async with transports.connect(f"{request.param}:{place}", clock=clock) as made:
        yield made


def messages(*ids: str) -> list[Message]:
    return [Message("orders", one, b"{}") for one in ids]


def acks(deliveries: Sequence[Delivery]) -> list[Settlement]:
    return [Settlement(delivery, Ack()) for delivery in deliveries]


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.id for delivery in deliveries]


@pytest.mark.parametrize("silence", [1.5, 100.0])
async def test_a_machine_that_stood_still_ends_no_lease_of_the_living(
    transport: Transport, clock: Clock, silence: float
) -> None:
    await transport.publish(*messages("a"))
    async with (
        transport.subscribe("orders", "mail", lease=2) as one,
        transport.subscribe("orders", "mail", lease=2) as other,
    ):
        held = await one.receive(1, wait=0)
        assert await transport.renew(one.consumer, held) == []
        clock.now += 0.6
        assert await transport.renew(other.consumer, []) == []
        clock.now += silence
        # Both were kept from renewing: who asks first takes nothing.
        assert await other.receive(1, wait=0) == []
        assert await transport.renew(other.consumer, []) == []
        assert await transport.renew(one.consumer, held) == []
        for _ in range(2):
            clock.now += 0.9
            assert await transport.renew(other.consumer, []) == []
            assert await other.receive(1, wait=0) == []
        clock.now += 0.3  # the holder has renewed no more
        assert ids(await other.receive(1, wait=0)) == ["a"]


async def test_one_who_joins_after_a_silence_takes_over_at_once(
    transport: Transport, clock: Clock
) -> None:
    await transport.publish(*messages("a"))
    async with transport.subscribe("orders", "mail", lease=2) as one:
        held = await one.receive(1, wait=0)
        assert await transport.renew(one.consumer, held) == []
        clock.now += 2.1
        async with transport.subscribe("orders", "mail", lease=2) as heir:
            assert ids(await heir.receive(1, wait=0)) == ["a"]


async def test_a_dead_workers_events_are_taken_over_though_the_others_renew_late(
    transport: Transport, clock: Clock
) -> None:
    await transport.publish(*messages("a"))
    async with (
        transport.subscribe("orders", "mail", lease=1) as dead,
        transport.subscribe("orders", "mail", lease=1) as heir,
    ):
        held = await dead.receive(1, wait=0)
        assert await transport.renew(dead.consumer, held) == []
        taken: list[list[str]] = []
        for _ in range(3):  # more than half a lease late, which is pardoned once
            clock.now += 0.6
            await transport.renew(heir.consumer, [])
            taken.append(ids(await heir.receive(1, wait=0)))
        assert taken == [[], [], ["a"]]


async def test_a_dead_workers_events_are_taken_over_though_the_other_is_late_by_leases(
    transport: Transport, clock: Clock
) -> None:
    await transport.publish(*messages(*(f"e{n}" for n in range(10))))
    async with (
        transport.subscribe("orders", "mail", lease=60) as dead,
        transport.subscribe("orders", "mail", lease=60) as heir,
    ):
        await transport.renew(dead.consumer, await dead.receive(1, wait=0))
        taken: list[str] = []
        for _ in range(3):  # each handler holds Python's lock for longer than the lease
            held = await heir.receive(1, wait=0)
            taken += ids(held)
            clock.now += 90
            assert await transport.renew(heir.consumer, held) == []
            assert await heir.settle(acks(list(held))) == ["applied"]
        assert taken == ["e1", "e2", "e0"]


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_short_lease_ends_no_long_one_after_a_silence(
    transport: Transport, clock: Clock, leaves: bool
) -> None:
    await transport.publish(*messages("a"))
    async with (
        transport.subscribe("orders", "mail", lease=60) as long,
        transport.subscribe("orders", "mail", lease=10) as short,
    ):
        async with transport.subscribe("orders", "mail", lease=10) as other:
            held = await long.receive(1, wait=0)
            for one, its in ((long, held), (short, []), (other, [])):
                assert await transport.renew(one.consumer, its) == []
            clock.now += 100
            if not leaves:
                await transport.renew(short.consumer, [])
        for _ in range(6):  # the holder wakes a third of its lease later
            clock.now += 3
            await transport.renew(short.consumer, [])
            assert await short.receive(1, wait=0) == []
        assert await transport.renew(long.consumer, held) == []
