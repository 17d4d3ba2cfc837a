"""Agents: what `@app.agent(...)` makes of a function, and routers that gather them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from omnidaemon.binding import Binding, Handler, _function
from omnidaemon.envelope import check_name, check_topic
from omnidaemon.errors import DuplicateAgent, InvalidSettings
from omnidaemon.messages import Start
from omnidaemon.outcomes import Backoff, RetryPolicy

F = TypeVar("F", bound=Handler)
T = TypeVar("T")

MAX_SECONDS = 366 * 86_400.0
"""No wait is longer than a year: a larger number is a slip (milliseconds, most often)."""


class Agent(Struct, frozen=True):
    """A handler registered for a topic.

    Attributes:
        topic: What it listens to.
        name: Its name, which is its group's.
        binding: The handler with its parameters worked out.
        consumers: How many runs of it one process has at a time, at most.
        policy: When failed runs are repeated.
        timeout: Seconds after which a run is cancelled and counts as failed; None for no limit.
        lease: Seconds after which a vanished worker's runs are taken over.
        start: Where its group begins when it is new.
        reply_to: Where its results are published, besides where an event asks for them.
        description: For people.
        tools: Names of the tools it uses, for people.
    """

    topic: str
    name: str
    binding: Binding
    consumers: int = 1
    policy: RetryPolicy = RetryPolicy()
    timeout: float | None = None
    lease: float = 60.0
    start: Start = "auto"
    reply_to: str | None = None
    description: str = ""
    tools: tuple[str, ...] = ()


class AgentRouter:
    """Gathers agents, to be included in an app or another router.

    Args:
        prefix: Put before the topic of each of its agents.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self._agents: dict[tuple[str, str], Agent] = {}

    @property
    def agents(self) -> list[Agent]:
        """The agents, in the order of registration."""
        return list(self._agents.values())

    def agent(
        self,
        topic: str,
        *,
        name: str | None = None,
        consumers: int = 1,
        retries: int = 3,
        backoff: Backoff | None = None,
        timeout: float | None = None,
        timeout_mode: Literal["cancel", "abandon"] = "cancel",
        lease: float = 60.0,
        retry_on: Sequence[type[BaseException]] | type[BaseException] = (Exception,),
        give_up_on: Sequence[type[BaseException]] | type[BaseException] = (),
        dead_letter: bool = True,
        start: Start = "auto",
        reply_to: str | None = None,
        description: str | None = None,
        tools: Sequence[str] = (),
    ) -> Callable[[F], F]:
        """Registers the decorated function, which stays callable as itself, for a topic.

        Args:
            topic: What it listens to.
            name: The agent's name; by default the function's qualified name. Agents of one name
                on one topic share the load, those of different names get every event each.
            consumers: Runs at a time in one process.
            retries: Runs after a failed first one; 0 means one run.
            backoff: The wait before a retry; `Backoff()` by default.
            timeout: Seconds for one run. A function that is not async cannot be cancelled in its
                thread: a timeout needs `timeout_mode="abandon"` there, and the run keeps its slot
                and lease until its thread ends, then counts as failed.
            timeout_mode: "cancel" or "abandon".
            lease: Seconds after which the runs of a vanished worker go to another one. No limit
                for a run: a worker renews the leases of what it runs.
            retry_on: Exceptions that are retried.
            give_up_on: Exceptions that are not, although `retry_on` has them.
            dead_letter: False drops what is given up, with a log line.
            start: Where a new group begins: "oldest", "new", or "auto" (the first group of a topic
                at its oldest event, a later one at the oldest that some group has not settled).
            reply_to: The topic to which each result that is not None is published, in the same step
                that settles the run; besides the one that an event itself names.
            description: For people; by default the first line of the docstring.
            tools: Names of the tools it uses, for people.

        Raises:
            ConfigurationError: A value is not usable, or a parameter cannot be bound.
        """
        if not isinstance(topic, str):  # `@app.agent` alone would register nothing, and say nothing
            raise InvalidSettings(
                f'an agent listens to a topic, and got {topic!r}: write @app.agent("orders.new")'
            )

        def register(func: F) -> F:
            binding = Binding(func)
            agent = Agent(
                topic=check_topic(self.prefix + topic, InvalidSettings),
                name=check_name(
                    _default_name(func) if name is None else name, "agent", InvalidSettings
                ),
                binding=binding,
                consumers=_whole("consumers", consumers, 1, 10_000),
                policy=RetryPolicy(
                    _whole("retries", retries, 0, 1_000_000),
                    Backoff() if backoff is None else _a("backoff", backoff, Backoff, "a Backoff"),
                    _exceptions("retry_on", retry_on),
                    _exceptions("give_up_on", give_up_on),
                    _a("dead_letter", dead_letter, bool, "True or False"),
                ),
                timeout=None if timeout is None else _seconds("timeout", timeout),
                lease=_seconds("lease", lease),
                start=_one_of("start", start, ("auto", "oldest", "new")),
                reply_to=None if reply_to is None else check_topic(reply_to, InvalidSettings),
                description=(
                    _first_line(func)
                    if description is None
                    else _a("description", description, str, "text")
                ),
                tools=_names("tools", tools),
            )
            mode = _one_of("timeout_mode", timeout_mode, ("cancel", "abandon"))
            if timeout is not None and not binding.is_async and mode != "abandon":
                raise InvalidSettings(
                    f"agent {agent.name!r} is not async, and a thread cannot be cancelled: make it "
                    'async, drop timeout=, or accept timeout_mode="abandon"'
                )
            self._add(agent)
            return func

        return register

    def remove(self, topic: str, name: str) -> bool:
        """Takes an agent out; False if there is none. A worker that runs it goes on."""
        return self._agents.pop((topic, name), None) is not None

    def include(self, router: AgentRouter, *, prefix: str = "") -> None:
        """Takes over the router's agents, with `prefix` before their topics."""
        for agent in router.agents:
            topic = check_topic(self.prefix + prefix + agent.topic, InvalidSettings)
            self._add(msgspec.structs.replace(agent, topic=topic))

    def _add(self, agent: Agent) -> None:
        key = agent.topic, agent.name
        if key in self._agents:
            raise DuplicateAgent(
                f"agent {agent.name!r} on topic {agent.topic!r} is registered twice: give one of "
                "them another name="
            )
        self._agents[key] = agent


def _default_name(func: Handler) -> str:
    target = _function(func)
    if not hasattr(target, "__qualname__") or "<lambda>" in target.__qualname__:
        raise InvalidSettings(f"{func!r} has no name of its own: give the agent a name=")
    if getattr(target, "__name__", "") == "__call__":
        return type(func).__qualname__.rpartition("<locals>.")[2]
    return re.sub(r"[^A-Za-z0-9._:-]", "-", target.__qualname__.rpartition("<locals>.")[2])


def _first_line(func: Handler) -> str:
    doc = getattr(func, "__doc__", None) or ""
    return doc.strip().partition("\n")[0]


def _whole(what: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidSettings(f"{what}={value!r}: give a whole number from {least} to {most}")
    return value


def _seconds(what: str, value: object) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (math.isfinite(value) and 0 < value <= MAX_SECONDS)
    ):
        raise InvalidSettings(f"{what}={value!r}: give seconds, above 0 and up to a year")
    return float(value)


def _exceptions(what: str, value: object) -> tuple[type[BaseException], ...]:
    kinds = value if isinstance(value, list | tuple) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise InvalidSettings(f"{what}={value!r}: give exception classes")
    return tuple(kinds)


def _one_of(what: str, value: T, known: tuple[T, ...]) -> T:
    if value not in known:
        raise InvalidSettings(f"{what}={value!r}: give one of {', '.join(map(str, known))}")
    return value


def _a(what: str, value: T, kind: type[T], words: str) -> T:
    if not isinstance(value, kind):
        raise InvalidSettings(f"{what}={value!r}: give {words}")
    return value


def _names(what: str, value: Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(name, str) for name in value):
        raise InvalidSettings(f"{what}={value!r}: give a list of names")
    return tuple(value)
