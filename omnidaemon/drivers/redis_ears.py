"""Wakes tasks by Redis's pub/sub: one connection per event loop, however many wait.

A message may be missed while the connection is down. Everybody is woken when it is back, and who
waits looks by itself now and then; nothing depends on a message.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError, ResponseError

from omnidaemon.drivers.bell import Bell
from omnidaemon.drivers.redis import SILENT_SECONDS
from omnidaemon.drivers.redis_address import LinkLostError
from omnidaemon.errors import ConfigurationError

_PAUSE_MOST = 1.0
_CONFIRM_SECONDS = 2.0
_KEPT = 16  # channels that nobody listens to any more, and somebody may again soon


class Ears:
    """The channels that tasks of one event loop listen to."""

    def __init__(self, connect: Callable[[], Awaitable[Any]]) -> None:
        self.bell = Bell()
        self.up = False
        self._connect = connect
        self._channels: Counter[str] = Counter()
        self._left: dict[str, None] = {}
        self._confirmed: dict[str, asyncio.Event] = {}
        self._task: asyncio.Task[None] | None = None
        self._outgoing: list[bytes] = []
        self._something = asyncio.Event()
        self._connection: Any = None
        self._heard_at = 0.0
        self._away = False
        self._news: dict[str, bytes] = {}

    async def attend(self, channel: str) -> None:
        """Listens to the channel; what is published after this returned rings, while `up`.

        A message without content rings the channel, any other what `ring_of` says for each word.
        What follows its first line is news for those who wait for that word.
        """
        self._channels[channel] += 1
        self._left.pop(channel, None)
        if channel not in self._confirmed:
            self._confirmed[channel] = asyncio.Event()
            self._send("SUBSCRIBE", channel)
        if self._task is None or self._task.done():
            self._away = False
            self._task = asyncio.create_task(self._listen(), name="omnidaemon-redis-ears")
        confirmed = self._confirmed[channel]
        if confirmed.is_set() or self._away:
            return
        try:
            async with asyncio.timeout(_CONFIRM_SECONDS):  # without it, one looks by oneself
                await confirmed.wait()
        except TimeoutError:
            pass
        except BaseException:
            self.leave(channel)
            raise

    def leave(self, channel: str) -> None:
        """Undoes one `attend`."""
        self._channels[channel] -= 1
        if self._channels[channel]:
            return
        del self._channels[channel]
        self._left[channel] = None
        if len(self._left) > _KEPT:
            oldest = next(iter(self._left))
            del self._left[oldest], self._confirmed[oldest]
            self._send("UNSUBSCRIBE", oldest)

    def take_news(self, ring: str) -> bytes | None:
        """What came last with this ring, once; None if nothing did, or another has taken it."""
        return self._news.pop(ring, None)

    def forget_news(self, ring: str) -> None:
        """Drops what nobody has taken, unless somebody still waits for the ring."""
        if not self.bell.listened(ring):
            self._news.pop(ring, None)

    async def close(self) -> None:
        """Ends the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _send(self, *command: str) -> None:
        if self.up:
            self._outgoing += self._connection.pack_command(*command)
            self._something.set()

    async def _listen(self) -> None:
        pause = 0.05
        while True:
            try:
                self._connection = await self._connect()
                pause = 0.05
                self.up = True
                self._away = False
                if self._confirmed:
                    self._send("SUBSCRIBE", *self._confirmed)
                self.bell.ring_all()
                await self._serve()
            except (LinkLostError, ConfigurationError, RedisError, OSError):
                pass  # tried again; what is wrong with it, the connection for commands says
            finally:
                self.up = False
                self._away = True
                self._outgoing = []
                for confirmed in self._confirmed.values():
                    confirmed.set()  # who waits for it need not wait for what is away
                    confirmed.clear()
                if self._connection is not None:
                    with suppress(RedisError, OSError):
                        await self._connection.disconnect(nowait=True)
                self.bell.ring_all()
            await asyncio.sleep(pause * (0.5 + random.random()))
            pause = min(_PAUSE_MOST, pause * 2)

    async def _serve(self) -> None:
        self._heard_at = time.monotonic()
        writing = asyncio.create_task(self._write())
        try:
            while True:
                try:
                    # No deadline: the writer sends a PING now and then, and ends what is silent.
                    message = await self._connection.read_response(
                        disable_decoding=True, timeout=math.inf
                    )
                except ResponseError:
                    continue
                self._heard_at = time.monotonic()
                if not isinstance(message, list):
                    continue
                channel = message[1].decode() if message[1] else ""
                if message[0] == b"message":
                    words, _, news = message[2].partition(b"\n")
                    rings = [ring_of(channel, word) for word in words.decode().split()] or [channel]
                    if self._news:  # older ones would be taken for what this ring is about
                        for ring in rings:
                            self._news.pop(ring, None)
                    if news and self.bell.listened(rings[0]):
                        self._news[rings[0]] = news
                    self.bell.ring(*rings)
                elif message[0] == b"subscribe" and channel in self._confirmed:
                    self._confirmed[channel].set()
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SILENT_SECONDS / 4):
                    await self._something.wait()
            if time.monotonic() - self._heard_at > SILENT_SECONDS:
                await self._connection.disconnect(nowait=True)
                return
            self._something.clear()
            outgoing, self._outgoing = self._outgoing, []
            outgoing = outgoing or self._connection.pack_command("PING")
            try:
                await self._connection.send_packed_command(outgoing, check_health=False)
            except (RedisError, OSError):
                await self._connection.disconnect(nowait=True)
                return


def ring_of(channel: str, word: str) -> str:
    """What rings when a message on the channel has this word."""
    return f"{channel} {word}"
