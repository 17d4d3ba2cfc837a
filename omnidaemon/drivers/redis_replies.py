"""Reads replies straight off the socket's transport, where hiredis is installed.

redis-py's own way is a coroutine, so that a task has to wake for every reply before who waits for
it can: a quarter of a round trip's time on the loopback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.exceptions import InvalidResponse, RedisError

Made = Callable[..., Any]
try:
    from hiredis import Reader
except ImportError:
    reader_made: Made | None = None
else:
    reader_made = Reader

_UNFINISHED = object()


class Replies(asyncio.Protocol):
    """Takes the place of redis-py's protocol once a connection is set up.

    Args:
        reader: hiredis's.
        answered: Told of each reply, in order.
        ended: Told why there will be no more, once.
    """

    def __init__(
        self, reader: Any, answered: Callable[[Any], None], ended: Callable[[str], None]
    ) -> None:
        self._reader = reader
        self._answered = answered
        self._ended = ended
        self._transport: asyncio.Transport | None = None

    @classmethod
    def take_over(
        cls, connection: Any, answered: Callable[[Any], None], ended: Callable[[str], None]
    ) -> bool:
        """Reads from redis-py's connection from now on; False if it has to go on by itself."""
        if reader_made is None:
            return False
        if connection._reader.at_eof() or connection._writer.is_closing():
            return False  # nobody would be told of it again
        reader = reader_made(
            protocolError=InvalidResponse,
            replyError=connection._parser.parse_error,
            notEnoughData=_UNFINISHED,
        )
        protocol = cls(reader, answered, ended)
        protocol._transport = connection._writer.transport
        connection._writer.transport.set_protocol(protocol)
        return True

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets(False)) is not _UNFINISHED:
                self._answered(reply)
        except RedisError as error:  # no replies, or one that ends the connection
            self._ended(str(error))
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whomever."""
        self._ended(str(exc or "") or "the connection was closed")
