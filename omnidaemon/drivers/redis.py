"""A connection to Redis that many tasks share: commands of one turn of the loop leave together.

Nothing here blocks in Redis, so that one connection per event loop (and node of a cluster) serves
any number of subscriptions, and a cancelled wait leaves a connection in order.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

from redis.exceptions import BusyLoadingError, NoScriptError, RedisError, ResponseError

from omnidaemon.drivers.redis_address import Address, Node
from omnidaemon.drivers.redis_address import LinkLostError as LinkLostError
from omnidaemon.drivers.redis_errors import explain, is_elsewhere, passes
from omnidaemon.drivers.redis_replies import Replies
from omnidaemon.drivers.redis_scripts import Script

Pack = Callable[[tuple[Any, ...]], Any]
try:  # in C, and packs four times as fast
    from hiredis import pack_command as _in_c
except ImportError:
    _pack: Pack | None = None
else:
    _pack = cast(Pack, _in_c)

SILENT_SECONDS = 10.0
"""A command that is not answered for so long is on a dead connection."""


class Call:
    """A command on its way."""

    __slots__ = ("future", "sent_at")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.sent_at = time.monotonic()


class Lane:
    """One connection; made connected by `open_lane`, of no use any more once `lost`."""

    def __init__(self, address: Address, connection: Any) -> None:
        self.lost = False
        self._address = address
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        # redis-py's own way out is a coroutine, so that every command would cost a task's turn.
        self._writer: asyncio.StreamWriter = connection._writer
        self._outgoing: list[bytes] = []
        self._waiting: deque[Call] = deque()
        self._replica: RedisError | None = None
        works = [self._listen_for_silence]
        if not Replies.take_over(connection, self._answer, self._end_and_disconnect):
            works.append(self._read)
        self._tasks = [
            asyncio.create_task(self._guard(work), name="omnidaemon-redis") for work in works
        ]

    def send(self, *command: Any) -> asyncio.Future[Any]:
        """Sends a command; the future holds the reply, and may be abandoned."""
        future = self._loop.create_future()
        if self.lost:
            future.set_exception(LinkLostError(f"{self._address.name} is gone", sent=False))
            return future
        if not self._outgoing:  # all commands of this turn of the loop leave together
            self._loop.call_soon(self._write)
        if _pack is not None:
            self._outgoing.append(_pack(command))
        else:
            self._outgoing += self._connection.pack_command(*command)
        self._waiting.append(Call(future))
        return future

    async def close(self) -> None:
        """Ends the connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._end("the connection was closed")
        await self._connection.disconnect(nowait=True)

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        reason = "the connection was closed"
        try:
            await work()
        except (OSError, RedisError) as error:
            reason = str(error) or type(error).__name__
        finally:
            if not self.lost:
                self._end(reason)
                await self._connection.disconnect(nowait=True)

    def _end_and_disconnect(self, reason: str) -> None:
        if not self.lost:
            self._end(reason)
            disconnect = self._connection.disconnect(nowait=True)
            self._tasks = [asyncio.create_task(disconnect, name="omnidaemon-redis")]

    def _end(self, reason: str) -> None:
        if self.lost:
            return
        self.lost = True
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for call in self._waiting:
            if not call.future.done():
                call.future.set_exception(
                    LinkLostError(f"{self._address.name}: {reason}", sent=True)
                )
                # Nobody may be waiting any more, and an unseen exception would be a warning.
                call.future.exception()
        self._waiting.clear()

    def _write(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        # Closed and not lost: the reader is about to find out, and tells all who wait.
        if not self.lost and not self._writer.is_closing():
            self._writer.write(b"".join(outgoing))

    async def _read(self) -> None:
        read = self._connection.read_response
        while True:
            try:
                reply = await read(
                    disable_decoding=True, timeout=math.inf, disconnect_on_error=False
                )
            except (ResponseError, BusyLoadingError) as error:
                reply = error
            self._answer(reply)

    def _answer(self, reply: Any) -> None:
        """Gives the reply to who has waited longest; raises what ends the connection."""
        if self.lost:
            return  # who waited was told
        refused = isinstance(reply, RedisError)
        if refused and not isinstance(reply, (ResponseError, BusyLoadingError)):
            raise reply
        future = self._waiting.popleft().future
        if refused:
            if is_elsewhere(reply):
                self._replica = reply
            if not future.done():  # else who waited was cancelled
                future.set_exception(self._refusal(reply) if passes(reply) else reply)
                future.exception()
        elif not future.done():
            future.set_result(reply)
        if self._replica is not None and not self._waiting:
            raise self._replica  # the next connection may lead to the primary

    def _refusal(self, error: RedisError) -> LinkLostError:
        return LinkLostError(f"{self._address.name}: {explain(error)}", sent=False)

    async def _listen_for_silence(self) -> None:
        while True:
            await asyncio.sleep(SILENT_SECONDS / 4)
            if not self._waiting:
                # Or who comes next on a dead connection would wait to find out.
                _ = self.send("PING")
            elif time.monotonic() - self._waiting[0].sent_at > SILENT_SECONDS:
                raise TimeoutError(f"no answer for {SILENT_SECONDS:.0f} s")


async def open_lane(address: Address, node: Node | None = None) -> Lane:
    """Connects; raises LinkLostError, or ConfigurationError where no retry can help."""
    return Lane(address, await address.connect(node))


async def run_on(lane: Lane, script: Script, keys: list[str], *arguments: bytes) -> Any:
    """Runs a script on this connection and no other."""
    return await answer_of(lane, start(lane, script, keys, *arguments), script, keys, *arguments)


def start(lane: Lane, script: Script, keys: list[str], *arguments: bytes) -> asyncio.Future[Any]:
    """Sends a script; what is sent after it runs after it, unless the server lost the script."""
    return lane.send("EVALSHA", script.digest, len(keys), *keys, *arguments)


async def answer_of(
    lane: Lane, started: asyncio.Future[Any], script: Script, keys: list[str], *arguments: bytes
) -> Any:
    """The answer of a script that was sent."""
    try:
        return await started
    except NoScriptError:
        pass  # the server was restarted, or somebody has flushed its scripts
    return await lane.send("EVAL", script.text, len(keys), *keys, *arguments)


class Link:
    """One event loop's way to a server: connects when needed, and again after a loss."""

    def __init__(self, address: Address, node: Node | None = None) -> None:
        self._address = address
        self._node = node
        self._lane: Lane | None = None
        self._opening = asyncio.Lock()

    async def lane(self, _key: str = "") -> Lane:
        """The connection: the same for all keys, as long as it is not one to a cluster."""
        lane = self._lane
        if lane is not None and not lane.lost:
            return lane
        async with self._opening:
            lane = self._lane
            if lane is None or lane.lost:
                lane = self._lane = await open_lane(self._address, self._node)
            return lane

    @property
    def is_open(self) -> bool:
        """Whether it is connected now."""
        return self._lane is not None and not self._lane.lost

    async def call(self, *command: Any) -> Any:
        """Runs a command."""
        return await (await self.lane()).send(*command)

    async def run(self, script: Script, keys: list[str], *arguments: bytes) -> Any:
        """Runs a script."""
        return await run_on(await self.lane(), script, keys, *arguments)

    async def check(self) -> None:
        """Returns if the server answers."""
        await self.call("PING")

    async def connect(self) -> Any:
        """Another connection, for pub/sub."""
        return await self._address.connect(self._node)

    async def follow(self, _error: BaseException | None, _turn: int) -> bool:
        """Whether another node takes what this one has refused: there is none."""
        return False

    async def close(self) -> None:
        """Lets go of the connection."""
        lane, self._lane = self._lane, None
        if lane is not None:
            await lane.close()
