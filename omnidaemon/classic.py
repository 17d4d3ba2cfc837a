"""The values of the classic SDK: events, agent configurations, and what its callbacks get."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from msgspec import UNSET, Struct, field

from omnidaemon.binding import _function
from omnidaemon.context import Context
from omnidaemon.envelope import Envelope, check_name, check_topic, new_id
from omnidaemon.errors import InvalidSettings, OmniDaemonError, PayloadError

T = TypeVar("T", bound=Struct)
Callback = Callable[[dict[str, Any]], Any]

_LONGEST = 200
_NOT_GIVEN = cast(int, UNSET)


class PayloadBase(Struct):
    """What an event carries.

    Attributes:
        content: A dict, text, or any value that msgspec can encode.
        webhook: The URL to which the outcome is posted.
        reply_to: The topic to which a result that is not None is published.
        correlation_id: Becomes the event's, unless that has its own.
    """

    content: Any
    webhook: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None


class EventEnvelope(Struct):
    """An event to publish.

    Attributes:
        topic: Where to.
        payload: What it carries: a PayloadBase, or a dict with its fields.
        id: The event's id, also called task id; a new UUID by default.
        created_at: Unix time, in seconds.
        tenant_id: Whose event it is.
        correlation_id: What it belongs to; by default the payload's.
        causation_id: The id of the event that caused it.
        source: Who publishes it.
        delivery_attempts: 1; what a callback gets is the run that it is in.

    Raises:
        PayloadError: The topic is not usable, or the payload is none.
    """

    topic: str
    payload: PayloadBase
    id: str = field(default_factory=new_id)
    created_at: float = field(default_factory=time.time)
    tenant_id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    source: str | None = None
    delivery_attempts: int = 1

    def __post_init__(self) -> None:
        self.topic = check_topic(self.topic)
        self.payload = _made(PayloadBase, "payload", self.payload, PayloadError)
        if self.correlation_id is None:
            self.correlation_id = self.payload.correlation_id

    def envelope(self) -> Envelope:
        """The same event as the runtime carries it."""
        payload = self.payload
        return Envelope(
            self.topic,
            payload.content,
            self.id,
            self.created_at,
            tenant_id=self.tenant_id,
            correlation_id=self.correlation_id or payload.correlation_id,
            causation_id=self.causation_id,
            source=self.source,
            reply_to=payload.reply_to,
            webhook=payload.webhook,
        )


class SubscriptionConfig(Struct):
    """How an agent takes its events.

    Attributes:
        consumer_count: Runs at a time in one process.
        dlq_retry_limit: Runs after a failed first one, before it becomes a dead letter; 0 means
            one run. 3 by default.
        reclaim_idle_ms: Milliseconds after which the runs of a vanished worker go to another one.
        max_retries: Another name of `dlq_retry_limit`.
        dlq_enabled: False drops what is given up, with a log line.

    Raises:
        InvalidSettings: The two names of the retry limit contradict each other.
    """

    consumer_count: int = 1
    dlq_retry_limit: int = _NOT_GIVEN
    reclaim_idle_ms: float = 60_000
    max_retries: int = _NOT_GIVEN
    dlq_enabled: bool = True

    def __post_init__(self) -> None:
        limits: tuple[Any, Any] = (self.dlq_retry_limit, self.max_retries)
        given = {limit for limit in limits if limit is not _NOT_GIVEN and limit is not None}
        if len(given) > 1:
            raise InvalidSettings(
                f"dlq_retry_limit={self.dlq_retry_limit} and max_retries={self.max_retries} are "
                "two names of one limit: give one of them"
            )
        self.dlq_retry_limit = self.max_retries = given.pop() if given else 3


class AgentConfig(Struct):
    """An agent to register.

    Attributes:
        topic: What it listens to.
        callback: Called with one dict per event: a function, async or not (then it runs in a
            thread), a partial, or an object that can be called.
        name: Agents of one name on one topic share the load, those of different names get every
            event each. By default made of the callback's module and name and the topic, so that
            several processes of one program share the load.
        description: For people.
        tools: Names of the tools it uses, for people.
        config: How it takes its events: a SubscriptionConfig, or a dict with its fields.

    Raises:
        InvalidSettings: The topic, the name, the callback or the config is not usable.
    """

    topic: str
    callback: Callback
    name: str = ""
    description: str = ""
    tools: list[str] = field(default_factory=list)
    config: SubscriptionConfig = field(default_factory=SubscriptionConfig)

    def __post_init__(self) -> None:
        self.topic = check_topic(self.topic, InvalidSettings)
        if not callable(self.callback):
            raise InvalidSettings(f"callback={self.callback!r}: give what can be called")
        self.name = check_name(
            self.name or default_name(self.callback, self.topic), "agent", InvalidSettings
        )
        self.config = _made(SubscriptionConfig, "config", self.config, InvalidSettings)


def _made(kind: type[T], what: str, value: object, error: type[OmniDaemonError]) -> T:
    if isinstance(value, kind):
        return value
    if isinstance(value, Mapping):
        try:
            return kind(**value)
        except TypeError as unknown:
            raise error(f"{what}={value!r:.200}: {unknown}") from unknown
    raise error(f"{what}={value!r:.200}: give a {kind.__name__}")


def default_name(callback: Callback, topic: str) -> str:
    """A name that is the same in every process that runs the same program."""
    target = _function(callback)
    if getattr(target, "__name__", "") == "__call__":
        target = type(callback)
    module = getattr(target, "__module__", None) or ""
    name = getattr(target, "__qualname__", None) or type(callback).__qualname__
    text = f"{_program() if module == '__main__' else module}.{name}:{topic}"
    text = re.sub(r"[^A-Za-z0-9._:-]+", "-", text.replace("<locals>.", ""))
    text = re.sub(r"^[^A-Za-z0-9]+", "", text)
    if len(text) > _LONGEST:
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        text = f"{text[: _LONGEST - len(digest) - 1]}-{digest}"
    return text


def _program() -> str:
    """What `__main__` is called elsewhere: two programs' callbacks are not the same agent."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None and spec.name != "__main__":  # python -m shop.agents
        return str(spec.name).removesuffix(".__main__")
    if not file:
        return "main"  # typed in
    return Path(file).stem if spec is None else Path(file).parent.name


def handler(callback: Callback) -> Callable[[Context], Any]:
    """The callback as a handler of an App, which is given the whole event as one flat dict."""
    if inspect.iscoroutinefunction(_function(callback)):

        async def run_async(ctx: Context) -> Any:
            return await callback(flat(ctx))

        return run_async

    def run(ctx: Context) -> Any:
        return callback(flat(ctx))

    return run


def flat(ctx: Context) -> dict[str, Any]:
    """The event of a run as one dict: the envelope's fields, the payload's, and the run's."""
    event = ctx.envelope
    return {
        "content": event.content,
        "id": event.id,
        "task_id": event.id,
        "topic": event.topic,
        "tenant_id": event.tenant_id,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "source": event.source,
        "webhook": event.webhook,
        "reply_to": event.reply_to,
        "created_at": event.created_at,
        "delivery_attempts": ctx.attempt,
        "agent": ctx.agent,
    }


def plain(value: Any) -> Any:
    """The value as dicts, lists, text and numbers, as JSON has them."""
    return msgspec.to_builtins(value)
