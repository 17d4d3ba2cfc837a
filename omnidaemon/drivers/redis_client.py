"""What a transport and a store on Redis have in common: links per event loop, errors translated."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import msgspec
from redis.exceptions import RedisError

from omnidaemon.drivers.opened import Opened
from omnidaemon.drivers.redis import Link
from omnidaemon.drivers.redis_address import Address, LinkLostError
from omnidaemon.drivers.redis_cluster import ClusterLink
from omnidaemon.drivers.redis_ears import Ears
from omnidaemon.drivers.redis_errors import explain
from omnidaemon.drivers.redis_keys import Keys
from omnidaemon.drivers.redis_scripts import Script
from omnidaemon.errors import OmniDaemonError

pack = msgspec.msgpack.Encoder().encode


class Loop:
    """What one event loop has: its link, its ears, and what else is kept per loop."""

    def __init__(self, address: Address) -> None:
        self.loop = asyncio.get_running_loop()
        self.process = os.getpid()
        self.link = ClusterLink(address) if address.kind == "cluster" else Link(address)
        self.ears = Ears(self.link.connect)
        self.rest: dict[str, Any] = {}

    async def close(self) -> None:
        """Lets go of the connections."""
        await self.ears.close()
        await self.link.close()


class Client(Opened):
    """Opens, closes and asks the server that its URL names.

    Attributes:
        backend: Where the data is, without passwords.
        keys: The names of keys.
        apart: True in a cluster: topics lie apart from each other and from the records, and no
            script sees two of them.
    """

    failure: ClassVar[type[OmniDaemonError]]

    def __init__(self, url: str) -> None:
        self._address = Address(url)
        self.backend = self._address.name
        self.apart = self._address.kind == "cluster"
        self.keys = Keys(self._address.prefix, cluster=self.apart)
        self._loops: dict[int, Loop] = {}

    async def open(self) -> None:
        """See the contract."""
        await self.check()

    async def check(self) -> None:
        """See the contract."""
        async with self.translated():
            await self.here.link.check()

    async def close(self) -> None:
        """See the contract."""
        here = asyncio.get_running_loop()
        loops, self._loops = list(self._loops.values()), {}
        for one in loops:
            if one.process != os.getpid() or one.loop.is_closed():
                continue
            if one.loop is here:
                await one.close()
            elif one.loop.is_running():
                asyncio.run_coroutine_threadsafe(one.close(), one.loop)

    @property
    def here(self) -> Loop:
        """What the running event loop has."""
        loop = asyncio.get_running_loop()
        found = self._loops.get(id(loop))
        if found is None or found.loop is not loop or found.process != os.getpid():
            # Another may be closed by now: its connections went with it.
            for key, one in list(self._loops.items()):
                if one.loop.is_closed():
                    self._loops.pop(key, None)
            found = self._loops[id(loop)] = Loop(self._address)
        return found

    async def call(self, *command: Any) -> Any:
        """Runs a command."""
        async with self.translated():
            return await self.here.link.call(*command)

    async def run(
        self, script: Script, keys: list[str], blobs: Sequence[bytes] = (), /, **arguments: Any
    ) -> Any:
        """Runs a script."""
        async with self.translated():
            return await self.here.link.run(script, keys, pack(arguments), *blobs)

    @asynccontextmanager
    async def translated(self) -> AsyncIterator[None]:
        """Raises the driver's errors as ours."""
        try:
            yield
        except LinkLostError as error:
            raise self._lost(error) from error
        except RedisError as error:
            raise self.failure(explain(error)) from error

    def _lost(self, error: LinkLostError) -> OmniDaemonError:
        return self.failure(str(error))


def text(value: Any) -> str:
    """A name as Redis gives it back."""
    return value.decode() if isinstance(value, bytes) else str(value)
