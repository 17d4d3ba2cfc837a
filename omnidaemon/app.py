"""The App: agents gathered under one name, and the publishing of events to them."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from itertools import count
from types import TracebackType
from typing import Any, Self

import anyio
import msgspec
from msgspec import Raw

from omnidaemon import stores, transports
from omnidaemon.agents import MAX_SECONDS, AgentRouter
from omnidaemon.blocking import BlockingSender
from omnidaemon.context import Context
from omnidaemon.envelope import Envelope, check_id, check_topic, dump, encode, new_id
from omnidaemon.errors import ConnectionLost, InvalidSettings, PayloadError
from omnidaemon.messages import Message
from omnidaemon.settings import Settings, load_settings, redact_url
from omnidaemon.stores.base import Store
from omnidaemon.tasks import TaskHandle, Tasks
from omnidaemon.telemetry.sending import sending
from omnidaemon.telemetry.signals import Signals, active
from omnidaemon.transports.base import Limits, Transport

CallNext = Callable[[Context], Awaitable[Any]]
Middleware = Callable[[Context, CallNext], Awaitable[Any]]

SEND_TIMEOUT = 5.0
_boards = count(1)


class App(AgentRouter):
    """Agents under one name, where their events wait, and the way to publish to them.

    Args:
        name: For logs and listings.
        transport: A URL such as `sqlite:///var/lib/shop.db` or `memory://`, or a Transport; None
            takes the environment's choice, and with none there the embedded SQLite file.
        store: The same for results and records; None follows the transport.
        middleware: Called around each run, the first outermost: `async def mw(ctx, call_next)`.
        lifespan: `lifespan(app)` gives an async context manager that is entered when a worker
            starts and left when it has drained; what it yields is `ctx.state`.
        settings: Instead of those of the environment, which are read when first needed.
    """

    def __init__(
        self,
        name: str = "app",
        *,
        transport: str | Transport | None = None,
        store: str | Store | None = None,
        middleware: Sequence[Middleware] = (),
        lifespan: Callable[[App], AbstractAsyncContextManager[Any]] | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        for what, given, method in (("transport", transport, "publish"), ("store", store, "write")):
            if given is not None and not isinstance(given, str) and not hasattr(given, method):
                raise InvalidSettings(  # not the value itself: it may hold a password
                    f"{what}= is a {type(given).__name__}: give a URL, as 'memory' or "
                    f"'redis://localhost:6379/0', or a {what.capitalize()}"
                )
        if settings is not None and not isinstance(settings, Settings):
            raise InvalidSettings(
                f"settings= is a {type(settings).__name__}: give Settings(...), or leave them out"
            )
        self.name = name
        self.middleware = tuple(middleware)
        self.lifespan = lifespan
        self._settings = settings
        self._given_transport = transport
        self._given_store = store
        self._transport: Transport | None = None
        self._store: Store | None = None

    def __repr__(self) -> str:
        return f"App({self.name!r}, agents={len(self.agents)})"

    @property
    def settings(self) -> Settings:
        """The settings, read from the environment and `.env` when first asked for."""
        if self._settings is None:
            self._settings = load_settings()
        return self._settings

    @property
    def transport(self) -> Transport:
        """Where events wait; connected when first used."""
        if self._transport is None:
            given = self._given_transport
            if given is None or isinstance(given, str):
                settings = self.settings
                limits = Limits(retention=settings.retention, max_backlog=settings.max_backlog)
                given = transports.connect(self._transport_url, limits=limits)
            self._transport = given
        return self._transport

    @property
    def store(self) -> Store:
        """Where results and records are kept; connected when first used."""
        if self._store is None:
            given = self._given_store
            self._store = (
                stores.connect(self._store_url) if not given or isinstance(given, str) else given
            )
        return self._store

    @cached_property
    def _transport_url(self) -> str:
        given = self._given_transport
        return _own_board(given if isinstance(given, str) else self.settings.transport_url)

    @cached_property
    def _store_url(self) -> str:
        if isinstance(self._given_store, str):
            return _own_board(self._given_store)
        if self._given_transport is None and self.settings.storage is not None:
            return _own_board(self.settings.store_url)
        if isinstance(self._given_transport, str) or self._given_transport is None:
            return self._transport_url
        return self._given_transport.backend

    @property
    def why(self) -> str:
        """One line for people: where events wait and results are kept, and what says so."""
        transport, store = self._given_transport, self._given_store
        if transport is None and store is None:
            return self.settings.why
        place = transport if isinstance(transport, str) else self.transport.backend
        kept = store if isinstance(store, str) else self.store.backend
        events = f"App({self.name!r}, transport=...): events wait in {redact_url(place)}"
        if transport is None:
            events = self.settings.why.partition(",")[0].partition(";")[0]
        if store is None:
            return f"{events}, results in it too"
        return f"{events}; store=...: results in {redact_url(kept)}"

    @property
    def event_bus(self) -> str:
        """Where events wait, as EVENT_BUS_TYPE calls it."""
        given = self._given_transport
        if given is None:
            return self.settings.event_bus
        scheme = (given if isinstance(given, str) else given.backend).partition(":")[0]
        return "redis_stream" if scheme.startswith(("redis", "unix")) else scheme

    @property
    def tasks(self) -> Tasks:
        """Published events: their state, and what came of them."""
        return Tasks(self.transport, self.store)

    @contextmanager
    def override(self, *, transport: Transport, store: Store) -> Iterator[None]:
        """Uses another transport and store for a while, as tests do."""
        before = self._transport, self._store
        self._transport, self._store = transport, store
        try:
            yield
        finally:
            self._transport, self._store = before

    async def __aenter__(self) -> Self:
        await self.transport.open()
        await self.store.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Lets go of the connections; sending again connects again."""
        if self._transport is not None:
            await self._transport.close()
        if self._store is not None:
            await self._store.close()

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
        tenant_id: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        source: str | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = SEND_TIMEOUT,
    ) -> TaskHandle:
        """Publishes an event; it is stored when this returns.

        Args:
            topic: Where to.
            content: Any value that msgspec can encode, or a pydantic model.
            id: The event's id; a new one by default.
            delay: Seconds until it may be delivered, up to a year.
            at: The moment from which it may be delivered, with a time zone.
            reply_to: The topic to which results are published.
            webhook: The URL to which each agent's outcome is posted, http or https.
            tenant_id: Whose event it is.
            correlation_id: What it belongs to.
            causation_id: The id of the event that caused it.
            source: Who publishes it.
            headers: Text by name, carried along.
            timeout: Seconds to keep trying while the broker cannot be reached.

        Raises:
            PayloadError: A value cannot travel; nothing was stored.
            BacklogFull: The topic's bound is reached; nothing was stored.
            ConnectionLost: The broker could not be reached; says whether the event may be stored.
            TransportError: The event could not be stored.
        """
        envelope = Envelope(
            topic,
            content,
            new_id() if id is None else id,
            tenant_id=tenant_id,
            correlation_id=correlation_id,
            causation_id=causation_id,
            source=source,
            reply_to=reply_to,
            webhook=webhook,
            headers=headers or {},
        )
        return await self.publish(envelope, delay=delay, at=at, timeout=timeout)

    async def publish(
        self,
        envelope: Envelope,
        *,
        delay: float | None = None,
        at: datetime | None = None,
        timeout: float = SEND_TIMEOUT,
    ) -> TaskHandle:
        """Publishes an envelope; as `send` otherwise."""
        wait = _delay(delay, at)
        signals = active()
        if signals is None:
            message = self._message(envelope, wait)
            await self._store_messages([message], timeout)
        else:
            envelopes = [_checked(envelope)]
            [message] = await self._publish_seen(signals, envelopes, wait, timeout, batch=False)
        return TaskHandle(message.id, message.topic, self.tasks)

    async def send_many(
        self,
        events: Iterable[tuple[str, Any] | Envelope],
        *,
        delay: float | None = None,
        at: datetime | None = None,
        timeout: float = SEND_TIMEOUT,
    ) -> list[TaskHandle]:
        """Publishes many events together: (topic, content) pairs or envelopes; all or none."""
        wait = _delay(delay, at)
        signals = active()
        if signals is None:
            messages = [
                self._message(event, wait)
                if isinstance(event, Envelope)
                else self._sized(self._plain(event), wait)
                for event in events
            ]
            if messages:
                await self._store_messages(messages, timeout)
        else:
            checked = [
                _checked(event) if isinstance(event, Envelope) else self._plain(event)
                for event in events
            ]
            messages = await self._publish_seen(signals, checked, wait, timeout, batch=True)
        tasks = self.tasks
        return [TaskHandle(message.id, message.topic, tasks) for message in messages]

    async def request(
        self, topic: str, content: Any = None, *, timeout: float, **options: Any
    ) -> Any:
        """Publishes an event and waits for its first result; takes what `send` takes.

        Args:
            topic: Where to.
            content: Any value that can be encoded.
            timeout: Seconds to wait for the result.
            options: As for `send`.

        Raises:
            ResultTimeout: Nothing came in time; the task goes on.
            TaskFailed: Every known group of the topic gave it up.
        """
        task_id = options.pop("id", None)
        if task_id is None:
            task_id = new_id()
        else:
            check_id(task_id)
        # Watched before it is sent, nothing is missed, and nobody need look whether it is over.
        async with self.transport.watch(task_id) as watch:
            task = await self.send(topic, content, id=task_id, **options)
            run = await self.tasks.first_success(
                watch, task.id, task.topic, timeout=timeout, watched=True
            )
        return run.value

    def blocking(self) -> BlockingSender:
        """The same for code that is not async: `with app.blocking() as sender:`."""
        return BlockingSender(self)

    async def _publish_seen(
        self, signals: Signals, envelopes: list[Envelope], delay: float, timeout: float, batch: bool
    ) -> list[Message]:
        """Publishes within a span, whose context travels along; [] for no events at all."""
        if not envelopes:
            return []
        with sending(signals, envelopes, batch=batch) as stamped:
            messages = [self._encoded(envelope, delay) for envelope in stamped]
            await self._store_messages(messages, timeout)
        return messages

    def _message(self, envelope: Envelope, delay: float) -> Message:
        return self._encoded(_checked(envelope), delay)

    def _encoded(self, envelope: Envelope, delay: float) -> Message:
        if isinstance(envelope.content, Raw):  # bytes are believed only when they have been read
            content = Raw(dump(envelope.content, self.settings.wire))
            envelope = msgspec.structs.replace(envelope, content=content)
        return self._sized(envelope, delay)

    def _plain(self, event: object) -> Envelope:
        """The same for a (topic, content) pair, which has little that needs a look."""
        if not isinstance(event, tuple | list) or len(event) != 2:
            raise PayloadError(f"{event!r:.200} is neither a (topic, content) pair nor an Envelope")
        topic, content = event
        content = Raw(dump(content, self.settings.wire))
        return Envelope(check_topic(topic), content)

    def _sized(self, envelope: Envelope, delay: float) -> Message:
        body = encode(envelope, self.settings.wire)
        if len(body) > self.settings.max_message:
            raise PayloadError(
                f"the event for topic {envelope.topic!r} has {len(body):,} bytes, and "
                f"{self.settings.max_message:,} are allowed: keep the data elsewhere and send "
                "where it is, or raise OMNIDAEMON_MAX_MESSAGE"
            )
        return Message(envelope.topic, envelope.id, body, delay)

    async def _store_messages(self, messages: list[Message], timeout: float) -> None:
        """Publishes, trying again while the broker is away; a transport stores a repeat once."""
        # Nearly always the first try stores them, and the event loop's clock costs more than this.
        began = time.perf_counter()
        deadline: float | None = None
        pause = 0.05
        may_be_stored = False
        while True:
            try:
                await self.transport.publish(*messages)
            except ConnectionLost as error:
                may_be_stored |= error.may_be_stored
                if deadline is None:
                    deadline = anyio.current_time() + timeout - (time.perf_counter() - began)
                if anyio.current_time() + pause >= deadline:
                    raise ConnectionLost(
                        f"{error}; gave up after {timeout} s, and the event "
                        f"{'may be stored' if may_be_stored else 'is not stored'}",
                        may_be_stored=may_be_stored,
                    ) from error
            else:
                return
            await anyio.sleep(pause)
            pause = min(1.0, pause * 2)


def _own_board(url: str) -> str:
    """Gives an app that asks for memory, without a name, a board that only it has."""
    if url in ("memory", "memory:", "memory://"):
        return f"memory://app-{next(_boards)}"
    return url


def _delay(delay: object, at: object) -> float:
    if delay is not None and at is not None:
        raise PayloadError("delay= and at= say the same thing: give one of them")
    if at is not None:
        if not isinstance(at, datetime) or at.utcoffset() is None:
            raise PayloadError(f"at={at!r} has no time zone: use datetime.now(UTC), for example")
        return _seconds("at", max(0.0, (at - datetime.now(UTC)).total_seconds()))
    return 0.0 if delay is None else _seconds("delay", delay)


def _seconds(what: str, value: object) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (math.isfinite(value) and 0 <= value <= MAX_SECONDS)
    ):
        raise PayloadError(f"{what}={value!r} is not usable: 0 seconds up to a year from now")
    return float(value)


def _checked(envelope: Envelope) -> Envelope:
    """Refuses at the edge what another process could not read, or nobody would look for."""
    topic = check_topic(envelope.topic)
    reply_to = None if envelope.reply_to is None else check_topic(envelope.reply_to)
    if (topic, reply_to) != (envelope.topic, envelope.reply_to):
        envelope = msgspec.structs.replace(envelope, topic=topic, reply_to=reply_to)
    check_id(envelope.id)
    for name, value in (
        ("tenant_id", envelope.tenant_id),
        ("correlation_id", envelope.correlation_id),
        ("causation_id", envelope.causation_id),
        ("source", envelope.source),
    ):
        if value is not None and not isinstance(value, str):
            raise PayloadError(f"{name}={value!r} is not text")
    if envelope.webhook is not None:
        from omnidaemon.webhook_rules import parse_target  # 8 ms of every start, for few

        parse_target(envelope.webhook)
    headers: object = envelope.headers
    if not isinstance(headers, dict) or (
        headers and not all(isinstance(text, str) for pair in headers.items() for text in pair)
    ):
        raise PayloadError(f"headers={envelope.headers!r}: names and values are text")
    return envelope
