"""Publishing from code that is not async: scripts, Django views, notebooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from omnidaemon.envelope import Envelope
from omnidaemon.records import RunRecord
from omnidaemon.tasks import TaskHandle, TaskStatus

T = TypeVar("T")


class Portal(Protocol):
    """What calls a coroutine function in the portal's event loop: anyio's BlockingPortal."""

    def call(self, func: Callable[..., Awaitable[T]], *args: object) -> T:
        """Runs it there, and returns what it returns."""


class Sender(Protocol):
    """The async face that the blocking one leads to; an App is one."""

    @property
    def send(self) -> Callable[..., Awaitable[TaskHandle]]:
        """As `App.send`."""

    @property
    def send_many(self) -> Callable[..., Awaitable[list[TaskHandle]]]:
        """As `App.send_many`."""


class BlockingTask:
    """A TaskHandle whose methods wait in the calling thread."""

    def __init__(self, handle: TaskHandle, portal: Portal) -> None:
        self._handle = handle
        self._portal = portal

    @property
    def id(self) -> str:
        """The task id."""
        return self._handle.id

    @property
    def topic(self) -> str:
        """Where it was published."""
        return self._handle.topic

    def result(self, agent: str | None = None, *, timeout: float | None = None) -> Any:
        """As `TaskHandle.result`."""

        async def result() -> Any:
            return await self._handle.result(agent, timeout=timeout)

        return self._portal.call(result)

    def results(self) -> dict[str, RunRecord]:
        """As `TaskHandle.results`."""
        return self._portal.call(self._handle.results)

    def status(self) -> TaskStatus:
        """As `TaskHandle.status`."""
        return self._portal.call(self._handle.status)


class BlockingSender:
    """An App's sending, for threads without an event loop; an event loop runs in one of its own.

    To be used as a context manager; its methods may be called from several threads at once.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._starting: AbstractContextManager[Portal] | None = None
        self._running: Portal | None = None

    def __enter__(self) -> Self:
        from anyio.from_thread import start_blocking_portal  # 5 ms of every start, for few

        self._starting = start_blocking_portal(name="omnidaemon-blocking")
        self._running = self._starting.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        starting, self._starting, self._running = self._starting, None, None
        if starting is not None:
            starting.__exit__(exc_type, exc, traceback)

    @property
    def _portal(self) -> Portal:
        if self._running is None:
            raise RuntimeError("use it as a context manager: `with app.blocking() as sender:`")
        return self._running

    def send(self, topic: str, content: Any = None, **options: Any) -> BlockingTask:
        """As `App.send`."""

        async def send() -> TaskHandle:
            return await self._sender.send(topic, content, **options)

        return BlockingTask(self._portal.call(send), self._portal)

    def send_many(
        self, events: Iterable[tuple[str, Any] | Envelope], **options: Any
    ) -> list[BlockingTask]:
        """As `App.send_many`."""

        async def send() -> list[TaskHandle]:
            return await self._sender.send_many(events, **options)

        portal = self._portal
        return [BlockingTask(handle, portal) for handle in portal.call(send)]

    def request(self, topic: str, content: Any = None, *, timeout: float, **options: Any) -> Any:
        """As `App.request`."""
        return self.send(topic, content, **options).result(timeout=timeout)
