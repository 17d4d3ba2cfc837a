"""What a handler is told about the run it is in, and its way to publish further events."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import datetime
from typing import Any, Protocol

import msgspec
from msgspec import Raw

from omnidaemon.envelope import Envelope, Wire, load, new_id
from omnidaemon.tasks import TaskHandle
from omnidaemon.telemetry.signals import carried


class Publish(Protocol):
    """Publishes an envelope; `App.publish` is one."""

    async def __call__(
        self, envelope: Envelope, *, delay: float | None = None, at: datetime | None = None
    ) -> TaskHandle:
        """As `App.publish`."""


class Context:
    """One run of one agent.

    Attributes:
        agent: The agent's name.
        attempt: Which run of this event it is, from 1.
        replays: How often the event came back from the dead letters.
        state: What the app's lifespan yielded.
        worker: The id of the worker that runs it.
    """

    __slots__ = ("_envelope", "_publish", "agent", "attempt", "replays", "state", "wire", "worker")

    def __init__(
        self,
        envelope: Envelope,
        *,
        agent: str,
        publish: Publish,
        attempt: int = 1,
        replays: int = 0,
        state: Any = None,
        worker: str = "",
        wire: Wire = "json",
    ) -> None:
        self._envelope = envelope
        self._publish = publish
        self.agent = agent
        self.attempt = attempt
        self.replays = replays
        self.state = state
        self.worker = worker
        self.wire: Wire = wire

    @property
    def raw(self) -> Raw:
        """The content's bytes as they came, in the encoding named by `wire`."""
        content = self._envelope.content
        return content if isinstance(content, Raw) else Raw(msgspec.json.encode(content))

    @property
    def content(self) -> Any:
        """The content as plain Python values."""
        return load(self.raw, self.wire)

    @property
    def envelope(self) -> Envelope:
        """The event as published, its content as plain Python values."""
        fields = {name: getattr(self._envelope, name) for name in Envelope.__struct_fields__}
        return Envelope(**{**fields, "content": self.content})

    @property
    def id(self) -> str:
        """The event's id, which is the task id."""
        return self._envelope.id

    @property
    def topic(self) -> str:
        """Where the event was published."""
        return self._envelope.topic

    @property
    def tenant_id(self) -> str | None:
        """Whose event it is."""
        return self._envelope.tenant_id

    @property
    def correlation_id(self) -> str | None:
        """What the event belongs to."""
        return self._envelope.correlation_id

    @property
    def causation_id(self) -> str | None:
        """The id of the event that caused this one."""
        return self._envelope.causation_id

    @property
    def source(self) -> str | None:
        """Who published the event."""
        return self._envelope.source

    @property
    def headers(self) -> dict[str, str]:
        """Text by name that came along; W3C trace context among it."""
        return self._envelope.headers

    async def send(
        self,
        topic: str,
        content: Any = None,
        *,
        id: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        reply_to: str | None = None,
        webhook: str | None = None,
        source: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> TaskHandle:
        """Publishes an event that this one causes.

        It carries on the correlation id (this event's id if there is none), tenant, source and
        headers, and has this event's id as its causation id; `reply_to` and `webhook` are not
        carried on. It is published at once: a run that is repeated publishes again.

        Args:
            topic: Where to.
            content: Any value that can be encoded.
            id: The event's id; a new one by default. One made of this event's, as
                `f"{ctx.id}-mail"`, is the same in every run: its receiver can tell a repeat.
            delay: Seconds until it may be delivered.
            at: The moment from which it may be delivered, with a time zone.
            reply_to: Where the agents' results are published.
            webhook: The URL to which the agents' outcomes are posted.
            source: Instead of this event's.
            headers: Besides this event's.

        Raises:
            PayloadError: The topic or the content cannot travel.
            TransportError: The event could not be stored.
        """
        event = self._envelope
        caused = Envelope(
            topic,
            content,
            new_id() if id is None else id,
            tenant_id=event.tenant_id,
            correlation_id=event.correlation_id or event.id,
            causation_id=event.id,
            source=source if source is not None else event.source,
            reply_to=reply_to,
            webhook=webhook,
            headers={**carried(event.headers), **(headers or {})},
            hops=event.hops + 1,
        )
        return await self._publish(caused, delay=delay, at=at)

    def send_blocking(self, topic: str, content: Any = None, **options: Any) -> TaskHandle:
        """`send` for handlers that are not async; to be called in the handler's own thread."""
        import anyio.from_thread  # 5 ms of every start, for few

        async def send() -> TaskHandle:
            return await self.send(topic, content, **options)

        return anyio.from_thread.run(send)


current_run: ContextVar[Context | None] = ContextVar("omnidaemon.run", default=None)
"""The run that the current task, or the thread that it has called, works for; logs name it."""
