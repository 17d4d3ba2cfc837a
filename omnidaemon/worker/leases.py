"""Keeps the leases of what a worker holds, and says that the worker lives.

Where other processes can take over, this runs in a thread with an event loop of its own, so that
a handler which computes for an hour keeps its lease. Only code that holds Python's global lock
for longer than a lease starves it; then the run is fenced, and a warning says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Literal

import anyio

from omnidaemon.drivers.bell import Bell
from omnidaemon.errors import OmniDaemonError
from omnidaemon.logs import about
from omnidaemon.messages import Consumer, Delivery
from omnidaemon.transports.base import Transport

logger = logging.getLogger("omnidaemon.worker")

STOP_SECONDS = 5.0
RETRY_SECONDS = 0.5
"""How soon a renewal that failed is tried again."""


class Held:
    """What one subscription holds and must not lose: from receiving to settling.

    Attributes:
        on_lost: Told of what is another's now, in the thread that renews.
    """

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self._deliveries: dict[Hashable, Delivery] = {}
        self._missed: set[Hashable] = set()
        self.renew_at = 0.0
        self.on_lost: Callable[[Delivery], None] | None = None

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """These are held from now on."""
        for delivery in deliveries:
            self._deliveries[delivery.token] = delivery

    def drop(self, delivery: Delivery) -> None:
        """This one is settled, or another's."""
        self._deliveries.pop(delivery.token, None)

    def lost(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Which of these are truly lost: held still, and lost at the renewal before as well.

        What was settled while the renewal was on its way is not found by it either.
        """
        before, self._missed = self._missed, {delivery.token for delivery in deliveries}
        lost = [self._deliveries.get(token) for token in before & self._missed]
        found = [delivery for delivery in lost if delivery is not None]
        for delivery in found:
            self.drop(delivery)
        return found

    def all(self) -> list[Delivery]:
        """What is held now; safe to call from another thread, a list is copied in one step."""
        return list(self._deliveries.values())


class LeaseKeeper:
    """Renews leases in time, and calls `beat` every `beat_seconds`."""

    def __init__(
        self,
        transport: Transport,
        *,
        beat: Callable[[], Awaitable[None]],
        beat_seconds: float,
        trouble: Callable[[str, str | None], None],
        mode: Literal["thread", "loop"],
    ) -> None:
        self._transport = transport
        self._beat = beat
        self._beat_seconds = beat_seconds
        self._trouble = trouble
        self._mode = mode
        self._held: list[Held] = []
        self._bell = Bell()
        self._ended = Bell()
        self._stopped = False
        self._over = False
        self._failure: BaseException | None = None

    def hold(self, consumer: Consumer) -> Held:
        """A new subscription's place here; also while it runs."""
        held = Held(consumer)
        self._held.append(held)
        self._bell.ring("stop")  # who sleeps now would wake for the others' leases alone
        return held

    def let_go(self, held: Held) -> None:
        """Its subscription has ended: says no longer that it lives."""
        self._held.remove(held)

    async def run(self) -> None:
        """Keeps the leases until cancelled; raises what broke it, if something did."""
        if self._mode == "loop":
            await self._keep()
            return
        # Not anyio.to_thread: it would take a place among the threads of sync handlers, and its
        # thread would wait for the handlers' at the end.
        thread = threading.Thread(
            target=self._keep_in_thread, name="omnidaemon-leases", daemon=True
        )
        with self._ended.listen("ended") as ear:
            thread.start()
            try:
                while not self._over:
                    await ear.wait(60.0)
            finally:
                self._stopped = True
                self._bell.ring("stop")
                with anyio.move_on_after(STOP_SECONDS, shield=True):
                    while not self._over:  # or a late heartbeat would outlive the worker
                        await ear.wait(STOP_SECONDS)
        if self._failure is not None:
            raise RuntimeError("the thread that renews the leases broke") from self._failure

    def _keep_in_thread(self) -> None:
        try:
            anyio.run(self._keep)
        except BaseException as error:  # handed to the worker, which raises it
            self._failure = error
        finally:
            self._over = True
            self._ended.ring("ended")

    async def _keep(self) -> None:
        beat_at = 0.0
        looked = self._now()
        with self._bell.listen("stop") as stop:
            while not self._stopped:
                now = self._now()
                self._warn_if_starved(now - looked)
                if now >= beat_at:
                    beat_at = now + await self._try("heartbeat", self._beat, self._beat_seconds)
                for held in tuple(self._held):
                    if now >= held.renew_at:
                        held.renew_at = now + await self._renew(held)
                looked = self._now()
                next_at = min([beat_at, *(held.renew_at for held in self._held)])
                await stop.wait(max(0.0, next_at - looked))
                looked = max(looked, min(next_at, self._now()))

    def _now(self) -> float:
        # The loop's clock may be a test's; in a thread it is the machine's, also when asleep.
        return anyio.current_time() if self._mode == "loop" else time.monotonic()

    async def _renew(self, held: Held) -> float:
        """Renews what one subscription holds; returns the seconds until the next time."""
        consumer = held.consumer

        async def renew() -> None:
            for delivery in held.lost(await self._transport.renew(consumer, held.all())):
                logger.warning(
                    "agent %r on %r lost its lease of event %s: another worker has it, and this "
                    "run will settle nothing",
                    consumer.group,
                    consumer.topic,
                    delivery.id,
                    extra=about(delivery),
                )
                if held.on_lost is not None:
                    held.on_lost(delivery)

        return await self._try("leases", renew, consumer.lease / 3)

    async def _try(self, what: str, do: Callable[[], Awaitable[None]], interval: float) -> float:
        try:
            await do()
        except OmniDaemonError as error:
            self._trouble(what, str(error))
            return min(RETRY_SECONDS, interval)
        self._trouble(what, None)
        return interval

    def _warn_if_starved(self, gap: float) -> None:
        shortest = min((held.consumer.lease for held in self._held), default=gap)
        if gap > shortest:
            logger.warning(
                "leases were not renewed for %.1f s and the shortest lasts %.1f s: the process was "
                "suspended, or a handler holds Python's lock (native code, most often); such a run "
                "may happen twice and settles once. Give the agent a longer lease=",
                gap,
                shortest,
            )
