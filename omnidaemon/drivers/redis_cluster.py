"""The way to a Redis cluster: a connection per master, each command to the one that has its key.

A node that refuses a command names another, or says to try again: it has executed nothing, so that
is repeated here. Whatever may have been executed is not, as with one server.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from typing import Any

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from omnidaemon.drivers.redis import Link
from omnidaemon.drivers.redis_address import Address, LinkLostError, Node
from omnidaemon.drivers.redis_scripts import Script
from omnidaemon.errors import ConfigurationError

SLOTS = 16_384
_TURNS = 8
"""How often a command is sent on before its caller is told."""
_TOPOLOGY_SECONDS = 2.0


@functools.lru_cache(maxsize=10_000)
def slot_of(key: str) -> int:
    """The slot of a key: of what stands in braces in it, if anything does."""
    return int(key_slot(key.encode()))


class ClusterLink:
    """One event loop's way to the cluster."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._links: dict[Node, Link] = {}
        self._slots: list[Node | None] = [None] * SLOTS
        self._masters: set[Node] = set()
        self._nodes: set[Node] = set(address.nodes)
        self._stale = True
        self._learning = asyncio.Lock()

    async def call(self, *command: Any) -> Any:
        """Runs a command whose first argument is a key."""
        return await self._route(command[1], lambda link, ask: link.call(*command, asking=ask))

    async def run(self, script: Script, keys: list[str], *arguments: bytes) -> Any:
        """Runs a script; its keys lie in one slot."""
        return await self._route(
            keys[0], lambda link, ask: link.run(script, keys, *arguments, asking=ask)
        )

    async def check(self) -> None:
        """Returns if all masters answer."""
        self._stale = True
        await self._learn()
        for node in sorted(self._masters):
            await self._link(node).check()

    async def connect(self) -> Any:
        """Another connection, for pub/sub, to whichever node: all are told what one is told."""
        self._stale = True
        await self._learn()
        return await self._address.connect(random.choice(list(self._masters)))

    async def close(self) -> None:
        """Lets go of the connections."""
        links, self._links = list(self._links.values()), {}
        for link in links:
            await link.close()

    def _link(self, node: Node) -> Link:
        link = self._links.get(node)
        if link is None:
            link = self._links[node] = Link(self._address, node)
        return link

    async def _route(self, key: str, do: Callable[[Link, bool], Awaitable[Any]]) -> Any:
        slot = slot_of(key)
        asked: Node | None = None
        reason = ""
        for turn in range(_TURNS):
            if self._stale:
                await self._learn()
            node = asked or self._slots[slot]
            if node is None:
                self._stale = True
                raise self._lost(f"no node serves slot {slot} of {key!r}")
            asking, asked = asked is not None, None
            try:
                return await do(self._link(node), asking)
            except MovedError as error:
                self._slots[slot] = _named(error, node)
                self._stale = True  # where one slot has moved, others may have
                reason = str(error)
            except AskError as error:
                asked = _named(error, node)
                reason = str(error)
            except TryAgainError as error:
                # The slot is on its way to another node, and the keys are on both.
                reason = str(error)
                await asyncio.sleep(0.02 * 2**turn * (0.5 + random.random()))
            except ClusterDownError as error:
                self._stale = True
                raise self._lost(str(error)) from error
            except LinkLostError as error:
                self._stale = True
                if error.sent:
                    raise
                await self._learn()
                if self._slots[slot] == node:
                    raise
                reason = str(error)
        raise self._lost(f"slot {slot} of {key!r} is on the move: {reason}")

    def _lost(self, reason: str) -> LinkLostError:
        return LinkLostError(f"{self._address.name}: {reason}", sent=False)

    async def _learn(self) -> None:
        """Asks a node who serves what, unless another task has just done so."""
        async with self._learning:
            if not self._stale:
                return
            reasons: list[str] = []
            for node in self._candidates():
                try:
                    async with asyncio.timeout(_TOPOLOGY_SECONDS):
                        rows = await self._link(node).call("CLUSTER", "SLOTS")
                except ResponseError as error:
                    if "cluster support disabled" in str(error):
                        raise ConfigurationError(
                            f"{node} is no cluster: write redis:// instead of redis+cluster://"
                        ) from error
                    reasons.append(f"{node}: {error}")
                except (LinkLostError, RedisError, TimeoutError) as error:
                    reasons.append(f"{node}: {str(error) or 'no answer'}")
                else:
                    if rows:
                        await self._take(rows, node)
                        return
                    reasons.append(f"{node} serves no slots, and knows of none that does")
            raise self._lost("; ".join(reasons))

    def _candidates(self) -> list[Node]:
        """Nodes to ask: connected ones first, and the URL's last: they may be long gone."""
        connected = {node for node, link in self._links.items() if link.is_open}
        known, named = self._nodes - connected, set(self._address.nodes) - self._nodes - connected
        return [
            node
            for some in (connected, known, named)
            for node in random.sample(sorted(some), len(some))
        ]

    async def _take(self, rows: list[Any], told: Node) -> None:
        slots: list[Node | None] = [None] * SLOTS
        nodes: set[Node] = set()
        for first, last, *servers in rows:
            found = [Node(_host(host, told), port) for host, port, *_ in servers]
            nodes.update(found)
            slots[first : last + 1] = [found[0]] * (last + 1 - first)
        self._slots, self._nodes = slots, nodes
        self._masters = {node for node in slots if node is not None}
        self._stale = False
        for node in self._links.keys() - self._masters:
            await self._links.pop(node).close()


def _host(host: bytes | None, told: Node) -> str:
    """A node that does not know its own name gives none: it is where it was asked."""
    return host.decode() if host and host != b"?" else told.host


def _named(error: AskError, told: Node) -> Node:
    return Node(error.host or told.host, int(error.port))
