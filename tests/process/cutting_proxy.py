"""A proxy between programs and Redis that cuts, swallows and answers, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Mode = Literal["pass", "refuse", "swallow", "answer"]


class CuttingProxy:
    """Passes everything on until it is told otherwise; may be told from any thread.

    Attributes:
        port: Where it listens.
        cuts: Connections that it has cut so far.
        swallowed: Connections that came while it swallowed, and have said something.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.cuts = 0
        self.swallowed = 0
        self._target = target
        self._mode: Mode = "pass"
        self._error = b""
        self._cut_requests = 0
        self._reply_cuts: list[int] = []
        self._pairs: set[_Pair] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cutting-proxy")

    def start(self) -> None:
        """Listens."""
        self._thread.start()
        self._do(self._listen)

    def stop(self) -> None:
        """Ends every connection, and itself."""
        self._do(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut_requests(self, count: int) -> None:
        """The next requests, so many, are not passed on: their connections end instead."""
        self._cut_requests = count

    def cut_replies(self, *after: int) -> None:
        """The next replies end after so many bytes, one connection each; the rest is thrown away.

        What they answer has been executed.
        """
        self._reply_cuts = list(after)

    @property
    def to_be_cut(self) -> int:
        """Cuts that were asked for, and are still to come."""
        return self._cut_requests + len(self._reply_cuts)

    def swallow(self) -> None:
        """Nothing is passed on any more in either direction; new connections are accepted."""
        self._mode = "swallow"
        self._do(self._lose_all)

    def refuse(self) -> None:
        """Ends all connections, and each new one at once."""
        self._mode = "refuse"
        self._do(self._cut_all)

    def answer(self, error: str) -> None:
        """From now on every command is answered with this error, and none is passed on."""
        self._error = f"-{error}\r\n".encode()
        self._mode = "answer"

    def heal(self) -> None:
        """Passes everything on again; connections whose bytes were swallowed stay dead."""
        self._mode = "pass"

    def _do(self, what: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(what(), self._loop).result(10)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _cut_all(self) -> None:
        for pair in list(self._pairs):
            self.cut(pair)

    async def _lose_all(self) -> None:
        for pair in self._pairs:
            pair.dead = True
            if pair.forth is not None:
                pair.forth.close()  # the server sees an end, the program nothing

    async def _end(self) -> None:
        self._mode = "refuse"
        self._listener.close()
        await self._cut_all()
        while self._pairs:
            await asyncio.sleep(0.01)

    def cut(self, pair: _Pair) -> None:
        """Ends a connection."""
        self.cuts += 1
        pair.end()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair(reader, writer)
        self._pairs.add(pair)
        try:
            if self._mode == "refuse":
                return
            if self._mode == "pass":
                await pair.connect(self._target)
            await asyncio.gather(self._requests(pair), self._replies(pair))
        except OSError:
            pass  # one side went away
        finally:
            pair.end()
            self._pairs.discard(pair)

    async def _requests(self, pair: _Pair) -> None:
        while data := await pair.reader.read(65_536):
            if self._mode == "answer":
                pair.writer.write(self._error * _commands(data))
            elif pair.dead:
                continue
            elif self._mode == "swallow":
                self.swallowed += 1
                pair.dead = True
            elif self._cut_requests:
                self._cut_requests -= 1
                self.cut(pair)
            else:
                if pair.forth is None:
                    await pair.connect(self._target)
                assert pair.forth is not None
                pair.forth.write(data)
                await pair.forth.drain()
        pair.end()

    async def _replies(self, pair: _Pair) -> None:
        await pair.connected.wait()
        if pair.back is None:
            return
        while data := await pair.back.read(65_536):
            if pair.dead:
                continue
            if self._reply_cuts:
                pair.writer.write(data[: self._reply_cuts.pop(0)])
                self.cut(pair)
                return
            pair.writer.write(data)
            await pair.writer.drain()
        if not pair.dead:
            pair.end()


class _Pair:
    """A program's connection, and the one to Redis that goes with it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.back: asyncio.StreamReader | None = None
        self.forth: asyncio.StreamWriter | None = None
        self.connected = asyncio.Event()
        self.dead = False

    async def connect(self, port: int) -> None:
        self.back, self.forth = await asyncio.open_connection("127.0.0.1", port)
        self.connected.set()

    def end(self) -> None:
        self.connected.set()
        self.writer.close()
        if self.forth is not None:
            self.forth.close()


def _commands(data: bytes) -> int:
    """How many commands begin in these bytes: arrays, in the protocol's words."""
    return (b"\r\n" + data).count(b"\r\n*")
