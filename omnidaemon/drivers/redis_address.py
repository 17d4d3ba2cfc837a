"""What a Redis URL says, and how a server is found and connected to by it.

One server (`redis://`, `rediss://`, `unix://`), the primary that sentinels name
(`redis+sentinel://`), or the nodes of a cluster (`redis+cluster://`). redis-py connects (TLS,
passwords) and parses; it repeats nothing, because a repeated command that was applied is applied
twice.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from omnidaemon.errors import ConfigurationError

CONNECT_SECONDS = 5.0
_SENTINEL_SECONDS = 2.0
_OTHERS_SECONDS = 0.2
"""How long the other sentinels are waited for once one has answered: one may know better."""

_URL = re.compile(
    r"(rediss?)(?:\+(sentinel|cluster))?://([^/?#]*)([^?#]*)(?:\?([^#]*))?", re.DOTALL
)


class LinkLostError(Exception):
    """The server cannot be reached.

    Attributes:
        sent: True if the command may have been executed.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Node(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Abrupt:
    """What is put in front of redis-py's connections: it ends them at once, whoever asks for it.

    TLS would first ask for a goodbye, which one who is away never says, and a program that ends
    would leave the socket behind. redis-py itself ends a connection when a read is cancelled.
    """

    _writer: asyncio.StreamWriter | None

    async def disconnect(self, *how: Any, **more: Any) -> None:
        """See redis-py."""
        if self._writer is not None:
            self._writer.transport.abort()
        await super().disconnect(*how, **more)  # type: ignore[misc]


class Address:
    """What a URL says.

    Attributes:
        kind: Whether it names one server, sentinels, or nodes of a cluster.
        nodes: The sentinels, or some nodes of the cluster; empty for one server.
        name: The server and database, without passwords.
        prefix: What all keys start with: the URL's `prefix=`, "omni" by default.
    """

    def __init__(self, url: str) -> None:
        found = _URL.fullmatch(url)
        several = found is not None and found[2] is not None
        self.kind: Literal["server", "sentinel", "cluster"] = "server"
        self.nodes: tuple[Node, ...] = ()
        self._service = ""
        self._sentinel_options: dict[str, Any] = {}
        place, _, question = url.partition("?")
        query = dict(parse_qsl(question))
        self.prefix = query.pop("prefix", "omni")
        if found is not None and several:
            place = self._read_several(found, query)
        try:
            options: dict[str, Any] = dict(parse_url(f"{place}?{urlencode(query)}"))
        except ValueError as error:
            # The URL is not repeated: it may hold a password.
            raise ConfigurationError(f"this is no usable Redis URL: {error}") from None
        kind = options.pop("connection_class", Connection)
        self._kind: Callable[..., AbstractConnection] = type(kind.__name__, (Abrupt, kind), {})
        self._options = options
        self.name = self._name()

    def _read_several(self, found: re.Match[str], query: dict[str, str]) -> str:
        """Takes what redis-py has no words for; returns the URL of a single server of the kind."""
        scheme, kind, netloc, path, _ = found.groups()
        self.kind = "sentinel" if kind == "sentinel" else "cluster"
        who, at, hosts = netloc.rpartition("@")
        port = 26379 if kind == "sentinel" else 6379
        self.nodes = tuple(_node(host, port) for host in hosts.split(",") if host)
        if not self.nodes:
            raise ConfigurationError(f"this {scheme}+{kind}:// URL names no host")
        first, _, rest = path.strip("/").partition("/")
        if kind == "cluster":
            if path.strip("/") not in ("", "0") or query.get("db", "0") != "0":
                raise ConfigurationError(
                    "a Redis cluster has database 0 alone: take the number off the URL"
                )
            if "{" in self.prefix or "}" in self.prefix:
                raise ConfigurationError(
                    "in a Redis cluster braces say where a key lies: take them off the prefix"
                )
            return f"{scheme}://{who}{at}{self.nodes[0]}"
        if not first or not (rest == "" or rest.isdigit()):
            raise ConfigurationError(
                "a sentinel URL names the service behind its hosts, and perhaps a database:"
                f" {scheme}+sentinel://host1:26379,host2:26379/mymaster/0"
            )
        self._service = unquote(first)
        for name in ("username", "password"):
            if f"sentinel_{name}" in query:
                self._sentinel_options[name] = query.pop(f"sentinel_{name}")
        return f"{scheme}://{who}{at}{self.nodes[0]}/{rest or 0}"

    def _name(self) -> str:
        options = self._options
        # Sorted: programs may name the same hosts in another order.
        hosts = ",".join(sorted(map(str, self.nodes)))
        if self.kind == "cluster":
            return f"redis+cluster:{hosts}/{self.prefix}"
        if self.kind == "sentinel":
            where = f"redis+sentinel:{hosts}/{self._service}"
        else:
            where = "redis:" + (
                options.get("path")
                or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
            )
        return f"{where}/{options.get('db', 0)}/{self.prefix}"

    async def connect(self, node: Node | None = None) -> Any:
        """A connection to the node, else to the server or primary that the URL leads to.

        Raises:
            LinkLostError: It cannot be reached now.
            ConfigurationError: No retry can help.
        """
        if self.kind == "sentinel":
            node = await self._primary()
        connection = self._connection(node, self._options)
        try:
            # Until it is usable: what the server is asked first must be answered as well.
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect()
                if self.kind == "sentinel" and (await _ask(connection, "ROLE"))[0] != b"master":
                    raise ConnectionError(f"{node} is a replica, though the sentinels name it")
        except TimeoutError as error:
            await connection.disconnect(nowait=True)
            raise LinkLostError(
                f"{self.name} cannot be reached: no answer for {CONNECT_SECONDS:.0f} s", sent=False
            ) from error
        except AuthenticationError as error:
            raise ConfigurationError(
                f"{self.name} refuses the user or password: {error}"
            ) from error
        except (RedisError, OSError) as error:
            await connection.disconnect(nowait=True)
            raise LinkLostError(f"{self.name} cannot be reached: {error}", sent=False) from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _connection(self, node: Node | None, options: dict[str, Any]) -> Any:
        """A connection, not connected yet; redis-py has no types for all that one does."""
        if node is not None:
            options = options | {"host": node.host, "port": node.port}
        return self._kind(
            **options,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,  # who waits counts the time; this would also end quiet reads
            socket_connect_timeout=CONNECT_SECONDS,
        )

    async def _primary(self) -> Node:
        """The primary that the sentinels name; of several answers the one of the last failover.

        A sentinel that was cut off names an old one, and perhaps names it first.
        """
        loop = asyncio.get_running_loop()
        waiting = {loop.create_task(self._ask_sentinel(node)) for node in self.nodes}
        asked = list(waiting)
        until = loop.time() + _SENTINEL_SECONDS
        found: list[tuple[int, Node]] = []
        reasons: list[str] = []
        try:
            while waiting and loop.time() < until:
                done, waiting = await asyncio.wait(
                    waiting,
                    timeout=until - loop.time(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    try:
                        found.append(task.result())
                    except (RedisError, OSError) as error:
                        reasons.append(str(error) or type(error).__name__)
                if found:
                    until = min(until, loop.time() + _OTHERS_SECONDS)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        if not found:
            reason = "; ".join(dict.fromkeys(reasons)) or f"no answer in {_SENTINEL_SECONDS:.0f} s"
            raise LinkLostError(
                f"{self.name}: no sentinel names the primary of {self._service!r}: {reason}",
                sent=False,
            )
        return max(found)[1]

    async def _ask_sentinel(self, sentinel: Node) -> tuple[int, Node]:
        apart = ("db", "username", "password")
        options = {name: value for name, value in self._options.items() if name not in apart}
        connection = self._connection(sentinel, options | self._sentinel_options)
        try:
            await connection.connect()
            flat = await _ask(connection, "SENTINEL", "MASTER", self._service)
            # Not the address among these: while a failover is under way, it is the old one.
            where = await _ask(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        except ResponseError as error:
            raise ConnectionError(f"sentinel {sentinel} says: {error}") from error
        finally:
            await connection.disconnect(nowait=True)
        known = dict(zip(flat[::2], flat[1::2], strict=True))
        return int(known[b"config-epoch"]), Node(where[0].decode(), int(where[1]))


async def _ask(connection: Any, *command: str) -> Any:
    """One command on a connection that nobody else uses."""
    await connection.send_command(*command, check_health=False)
    return await connection.read_response(disable_decoding=True)


def _node(text: str, default_port: int) -> Node:
    """Of "host", "host:port" or "[address]:port"."""
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::(\d{1,5}))?", text)
    if found is None:
        raise ConfigurationError(
            "a host of the Redis URL cannot be read: write host:port, separated by commas"
        )
    return Node(unquote(found[1] or found[2]), int(found[3] or default_port))
