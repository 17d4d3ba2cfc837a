"""The way to a Redis cluster: a connection per master, each command to the one that has its key.

A node that refuses a command names another, or says to try again: it has executed nothing, so that
is repeated here. Whatever may have been executed is not, as with one server.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from omnidaemon.drivers.redis import Lane, Link, run_on
from omnidaemon.drivers.redis_address import Address, LinkLostError, Node
from omnidaemon.drivers.redis_scripts import Script
from omnidaemon.errors import ConfigurationError

SLOTS = 16_384
_CLASSES: dict[type[Exception], str] = {
    MovedError: "MOVED",
    AskError: "ASK",
    TryAgainError: "TRYAGAIN",
    ClusterDownError: "CLUSTERDOWN",
}
_TURNS = 8
"""How often a command is sent again before its caller is told."""
_TOPOLOGY_SECONDS = 2.0


@functools.lru_cache(maxsize=10_000)
def slot_of(key: str) -> int:
    """The slot of a key: of what stands in braces in it, if anything does."""
    return int(key_slot(key.encode()))


class Refusal(NamedTuple):
    """What a node says that has not executed a command, for reasons of the cluster.

    Attributes:
        code: MOVED, ASK, TRYAGAIN or CLUSTERDOWN.
        node: Which it names instead; None if it names none, or does not know where that is.
    """

    code: str
    node: Node | None

    @classmethod
    def of(cls, error: BaseException | None) -> Refusal | None:
        """The refusal that an error is; None for any other."""
        if not isinstance(error, ResponseError):
            return None
        # Parsers differ in whether they have classes for these, and take the code off the text.
        code, _, rest = str(error).partition(" ")
        if type(error) in _CLASSES:
            code, rest = _CLASSES[type(error)], str(error)
        if code not in _CLASSES.values():
            return None
        host, _, port = rest.rpartition(" ")[2].rpartition(":")
        return cls(code, Node(host, int(port)) if host and code in ("MOVED", "ASK") else None)


class ClusterLink:
    """One event loop's way to the cluster."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._links: dict[Node, Link] = {}
        self._slots: list[Node | None] = [None] * SLOTS
        self._masters: set[Node] = set()
        self._nodes: set[Node] = set(address.nodes)
        self._informed: Node | None = None
        self._stale = True
        self._learning = asyncio.Lock()

    async def call(self, *command: Any) -> Any:
        """Runs a command whose first argument is a key."""
        return await self._route(command[1], lambda lane, _: lane.send(*command))

    async def run(self, script: Script, keys: list[str], *arguments: bytes) -> Any:
        """Runs a script; its keys lie in one slot."""

        def do(lane: Lane, asking: bool) -> Awaitable[Any]:
            if asking:  # holds for one command: there must be no second try
                return lane.send("EVAL", script.text, len(keys), *keys, *arguments)
            return run_on(lane, script, keys, *arguments)

        return await self._route(keys[0], do)

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

    async def lane(self, key: str, /) -> Lane:
        """The connection to the master that has the key."""
        slot = slot_of(key)
        for _ in range(2):
            if self._stale:
                await self._learn()
            node = self._slots[slot]
            if node is None:
                self._stale = True
                raise self._lost(f"no node serves slot {slot} of {key!r}")
            try:
                return await self._link(node).lane()
            except LinkLostError:
                self._stale = True
                await self._learn()
                if self._slots[slot] == node:
                    self._stale = True  # nobody has taken its place yet
                    raise
        raise self._lost(f"the masters of slot {slot} change too fast")

    async def follow(self, error: BaseException | None, turn: int, /) -> bool:
        """Whether a command that was refused so may be sent again now; `turn` counts from 0."""
        if turn >= _TURNS:
            return False
        refusal = Refusal.of(error)
        if refusal is None:
            return False
        match refusal.code:
            case "MOVED":
                self._informed = refusal.node  # others may not know yet
                self._stale = True  # where one slot has moved, more may have
            case "CLUSTERDOWN":
                self._stale = True
                return False
            case _:
                # The slot is on its way to another node, and its keys are on both.
                await asyncio.sleep(0.02 * 2**turn * (0.5 + random.random()))
        return True

    async def _route(self, key: str, do: Callable[[Lane, bool], Awaitable[Any]]) -> Any:
        asked: Node | None = None
        turn = 0
        while True:
            if asked is None:
                lane = await self.lane(key)
            else:
                lane = await self._link(asked).lane()
                _ = lane.send("ASKING")  # holds for the next command, which nothing comes before
            try:
                return await do(lane, asked is not None)
            except ResponseError as error:
                refusal = Refusal.of(error)
                if refusal is None:
                    raise
                asked = refusal.node if refusal.code == "ASK" and turn < _TURNS else None
                if asked is None and not await self.follow(error, turn):
                    raise self._lost(str(error)) from error
            turn += 1

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
        informed = set() if self._informed is None else {self._informed}
        self._informed = None
        return [
            node
            for some in (informed, connected, known, named)
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
