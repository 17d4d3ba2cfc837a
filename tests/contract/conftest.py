"""The backends that the laws are tried on, and a few words for events.

Every test takes the fixture `backend` and goes through it for whatever depends on time: the
embedded backends read a clock that jumps, and a server really sleeps, with short leases.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import anyio
import pytest

from omnidaemon import stores, transports
from omnidaemon.drivers import redis, redis_replies
from omnidaemon.messages import (
    Ack,
    Action,
    Delivery,
    GroupInfo,
    Message,
    Settlement,
    TopicInfo,
    Verdict,
)
from omnidaemon.stores.base import Store
from omnidaemon.transports.base import Limits, Subscription, Transport
from tests.redis.servers import Cluster, RedisServer, binaries


class Setting(NamedTuple):
    """A kind of backend and the event loop it is tried on."""

    kind: str
    loop: str

    def __str__(self) -> str:
        return f"{self.kind}-{self.loop}"


SETTINGS = [
    Setting("memory", "asyncio"),
    Setting("memory", "trio"),
    Setting("sqlite", "asyncio"),
    Setting("sqlite", "trio"),
    Setting("sqlite+fast", "asyncio"),
    Setting("redis-7.0", "asyncio"),
    Setting("redis-6.2", "asyncio"),
    Setting("redis-7.0-cluster", "asyncio"),
]
STORE_SETTINGS = [*SETTINGS, Setting("json", "asyncio"), Setting("json", "trio")]
"""Some backends are stores alone."""


ACK = Ack()


class JumpingClock:
    """The real time, and what was skipped: who waits goes on waiting, and leases end at once."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def __call__(self) -> float:
        return time.time() + self.skipped


class Backend:
    """One backend, empty at the start of a test.

    Attributes:
        lease: Seconds of a short lease; tests count in it, because on a server it really passes.
    """

    lease = 60.0

    def __init__(self, url: str) -> None:
        self._url = url
        self._clock = JumpingClock()
        self._made: list[Transport | Store] = []

    def transport(self, **limits: Any) -> Transport:
        """Another transport on the backend, as another process would have."""
        made = transports.connect(self._url, limits=Limits(**limits), clock=self._clock)
        self._made.append(made)
        return made

    def store(self) -> Store:
        """Another store on the backend."""
        made = stores.connect(self._url, clock=self._clock)
        self._made.append(made)
        return made

    async def elapse(self, seconds: float) -> None:
        """Lets the time pass by which leases, retries, delays and expiry go."""
        self._clock.skipped += seconds

    def only_if_time_can_be_skipped(self) -> None:
        """Skips a test that needs days, where they would have to pass."""

    def only_if_topics_are_stored_in_one_step(self) -> None:
        """Skips a test of a law that a cluster cannot keep: all of several topics, or none."""

    async def close(self) -> None:
        """Closes everything made here."""
        for made in self._made:
            await made.close()

    # Words

    @staticmethod
    def messages(*ids: str, topic: str = "orders", delay: float = 0.0) -> list[Message]:
        """A message with each id; its body is made of it."""
        return [Message(topic, name, f"body of {name}".encode(), delay) for name in ids]

    @staticmethod
    def settlements(
        deliveries: Iterable[Delivery], action: Action = ACK, **rest: Any
    ) -> list[Settlement]:
        """The same settlement for each delivery."""
        return [Settlement(delivery, action, **rest) for delivery in deliveries]

    async def settle(
        self,
        subscription: Subscription,
        deliveries: Iterable[Delivery],
        action: Action = ACK,
        **rest: Any,
    ) -> Sequence[Verdict]:
        """Settles all of the deliveries alike."""
        return await subscription.settle(self.settlements(deliveries, action, **rest))

    @staticmethod
    async def drain(subscription: Subscription, limit: int = 100) -> list[Delivery]:
        """Everything that the consumer can have now."""
        found: list[Delivery] = []
        while some := await subscription.receive(limit, wait=0):
            found += some
        return found

    async def topic(self, name: str = "orders") -> TopicInfo:
        """What the topic holds."""
        (info,) = [info for info in await self.transport().topics() if info.name == name]
        return info

    async def group(self, name: str = "mail", topic: str = "orders") -> GroupInfo:
        """How far the group is."""
        (info,) = [info for info in await self.transport().groups(topic) if info.name == name]
        return info


class RedisBackend(Backend):
    """A server, whose time really passes: leases are short, and nothing can be skipped."""

    lease = 1.0

    def transport(self, **limits: Any) -> Transport:
        """See above."""
        made = transports.connect(self._url, limits=Limits(**limits))
        self._made.append(made)
        return made

    def store(self) -> Store:
        """See above."""
        made = stores.connect(self._url)
        self._made.append(made)
        return made

    async def elapse(self, seconds: float) -> None:
        """See above."""
        await anyio.sleep(seconds)

    def only_if_time_can_be_skipped(self) -> None:
        """See above."""
        pytest.skip("days would have to pass")


class ClusterBackend(RedisBackend):
    """A cluster, where every topic may lie on another node."""

    def only_if_topics_are_stored_in_one_step(self) -> None:
        """See above; what holds instead stands in tests/redis/test_cluster.py."""
        pytest.skip("in a cluster topics lie in different slots, and no step spans two")


def ids(found: Iterable[Any]) -> list[str]:
    """The events' ids, in order."""
    return [one.id for one in found]


@pytest.fixture(params=SETTINGS, ids=str)
def setting(request: pytest.FixtureRequest) -> Setting:
    """Which backend, on which event loop."""
    setting: Setting = request.param
    return setting


@pytest.fixture
def anyio_backend(setting: Setting) -> str:
    """The setting's event loop."""
    return setting.loop


@pytest.fixture(scope="session")
def redis_servers(
    tmp_path_factory: pytest.TempPathFactory, no_server: Callable[[str], NoReturn]
) -> Iterator[Callable[[str], RedisServer | Cluster]]:
    """Starts the server of a version when it is first asked for."""
    started: dict[str, RedisServer | Cluster] = {}

    def server(name: str) -> RedisServer | Cluster:
        version, _, cluster = name.partition("-")
        if version not in binaries():
            no_server(f"there is no redis-server {version}")
        if name not in started:
            folder = tmp_path_factory.mktemp(f"redis-{name}")
            kind = Cluster if cluster else RedisServer
            made = kind(binaries()[version], folder)
            try:
                made.start()
            except BaseException:
                made.stop()
                raise
            started[name] = made
        return started[name]

    yield server
    for one in started.values():
        one.stop()


@pytest.fixture
def backend(
    setting: Setting,
    tmp_path: Path,
    redis_servers: Callable[[str], RedisServer | Cluster],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Backend]:
    """The setting's backend, closed afterwards from another event loop than the test's."""
    made: Backend
    if setting.kind.startswith("redis-"):
        server = redis_servers(setting.kind.removeprefix("redis-"))
        kind = ClusterBackend if isinstance(server, Cluster) else RedisBackend
        if setting.kind == "redis-6.2":  # and as without hiredis, which most have and few must
            monkeypatch.setattr(redis_replies, "reader_made", None)
            monkeypatch.setattr(redis, "_pack", None)
        made = kind(f"{server.url}?prefix=t{secrets.token_hex(4)}")
        yield made
        anyio.run(made.close, backend=setting.loop)
        return
    path = f"//{tmp_path}" if setting.kind == "memory" else str(tmp_path / "laws.db")
    made = Backend(f"{setting.kind}:{path}")
    yield made
    anyio.run(made.close, backend=setting.loop)
