"""A worker: one process that runs an app's agents until it is stopped."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from contextlib import AsyncExitStack
from typing import Any, Literal

import anyio

from omnidaemon.agents import Agent
from omnidaemon.app import App
from omnidaemon.errors import ConfigurationError, StoreError
from omnidaemon.outcomes import shown
from omnidaemon.records import BEAT_SECONDS, AgentRecord, Fleet, WorkerRecord
from omnidaemon.worker.consumer import SETTLE_SECONDS, AgentConsumer, Shared
from omnidaemon.worker.leases import LeaseKeeper

logger = logging.getLogger("omnidaemon.worker")

DEAD_LETTER_BEATS = 12
"""Every so many heartbeats (a minute) an agent that made dead letters is looked at."""
DEAD_LETTER_SHARE = 0.8


class Worker:
    """Runs the agents of an app in this process and event loop.

    Args:
        app: The app.
        grace: Seconds that running handlers get after `stop`; None takes the settings'.
        resume: True lifts pauses of the app's agents, as a person who starts a worker expects.
    """

    def __init__(self, app: App, *, grace: float | None = None, resume: bool = False) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._app = app
        self._grace = grace
        self._resume = resume
        self._started_at = time.time()
        self._consumers: list[AgentConsumer] = []
        self._open = 0
        self._beats = 0
        self._drained = False
        self._whole: anyio.CancelScope | None = None
        self._troubles: dict[str, str] = {}
        self.ready = anyio.Event()
        self._stopping = anyio.Event()
        self._forced = anyio.Event()
        self._ended = anyio.Event()

    def stop(self) -> None:
        """Drains: receives nothing more, lets what runs finish within the grace, then ends.

        Before the worker is ready there is nothing to drain: what starts is cancelled.
        """
        self._stopping.set()
        if not self.ready.is_set():
            self._cancel()

    def abort(self) -> None:
        """Drains without grace: what runs is cancelled and handed back, what ends slowly left."""
        self.stop()
        self._forced.set()
        if self._drained:
            self._cancel()

    def _cancel(self) -> None:
        if self._whole is not None:
            self._whole.cancel()

    async def run(self) -> None:
        """Works until stopped.

        Raises:
            ConfigurationError: The app has no agents, or a backend is not usable.
            TransportError: The transport could not be opened.
            StoreError: The store could not be opened.
        """
        app = self._app
        if not app.agents:
            raise ConfigurationError(
                f"{app!r} has no agents: decorate a function with @app.agent(topic), in the module "
                "that makes the app or one that it imports"
            )
        with anyio.CancelScope() as self._whole:
            if not self._stopping.is_set():
                await self._run(app)

    async def _run(self, app: App) -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(app.transport)
            await stack.enter_async_context(app.store)
            state = None
            if app.lifespan is not None:
                try:
                    state = await stack.enter_async_context(app.lifespan(app))
                except Exception as error:  # whatever a user's code raises
                    raise ConfigurationError(
                        f"the lifespan of {app!r} failed: {type(error).__name__}: {shown(error)}"
                    ) from error
            fleet = Fleet(app.store)
            await fleet.register(self._agent_records())
            keeper = LeaseKeeper(
                app.transport,
                beat=self._beat,
                beat_seconds=BEAT_SECONDS,
                trouble=self._trouble,
                mode=app.transport.renewal,
            )
            await self._subscribe(stack, keeper, state)
            await self._beat()
            async with anyio.create_task_group() as group:
                group.start_soon(keeper.run)
                await self._work()
                group.cancel_scope.cancel()
            self._drained = True
            if self._forced.is_set():
                self._cancel()
            try:
                await fleet.leave(self.id)
            except StoreError as error:
                logger.warning("worker %s could not sign off: %s", self.id, error)

    async def _beat(self) -> None:
        await Fleet(self._app.store).beat(self._record())
        self._beats += 1
        if self._beats % DEAD_LETTER_BEATS == 0:
            for consumer in self._consumers:
                if consumer.buried:
                    consumer.buried = False
                    await self._warn_of_dead_letters(consumer.agent)

    async def _warn_of_dead_letters(self, agent: Agent) -> None:
        most = self._app.transport.limits.dead_letters
        for group in await self._app.transport.groups(agent.topic):
            if group.name == agent.name and group.dead >= DEAD_LETTER_SHARE * most:
                logger.warning(
                    "agent %r on %r has %d of at most %d dead letters, and the oldest go first: "
                    "look at them with `omnidaemon bus dlq --topic %s`, then replay or remove them",
                    agent.name,
                    agent.topic,
                    group.dead,
                    most,
                    agent.topic,
                )

    async def _subscribe(self, stack: AsyncExitStack, keeper: LeaseKeeper, state: Any) -> None:
        """Joins all groups before any receives, so that none starts behind another's progress."""
        app = self._app
        shared = Shared(
            worker=self.id,
            transport=app.transport,
            store=app.store,
            publish=app.publish,
            trouble=self._trouble,
            middleware=app.middleware,
            state=state,
            wire=app.settings.wire,
            result_ttl=app.settings.result_ttl,
            max_message=app.settings.max_message,
        )
        for agent in app.agents:
            subscription = await stack.enter_async_context(
                app.transport.subscribe(
                    agent.topic, agent.name, lease=agent.lease, start=agent.start
                )
            )
            if self._resume:
                await app.transport.resume(agent.topic, agent.name)
            held = keeper.hold(subscription.consumer)
            self._consumers.append(AgentConsumer(agent, subscription, held, shared))
            logger.info(
                "agent %r listens to %r, %d at a time; events waiting for it: %d",
                agent.name,
                agent.topic,
                agent.consumers,
                subscription.backlog,
            )

    async def _work(self) -> None:
        self._open = len(self._consumers)
        async with anyio.create_task_group() as group:
            for consumer in self._consumers:
                group.start_soon(self._consume, consumer)
            group.start_soon(self._drain)
            self.ready.set()
            logger.info("worker %s is ready", self.id)

    async def _consume(self, consumer: AgentConsumer) -> None:
        await consumer.run()
        self._open -= 1
        if not self._open:
            self._ended.set()

    async def _drain(self) -> None:
        await self._stopping.wait()
        grace = self._app.settings.grace if self._grace is None else self._grace
        logger.info(
            "worker %s drains: %d runs get up to %.0f s to finish", self.id, self._running, grace
        )
        for consumer in self._consumers:
            consumer.stop()
        with anyio.move_on_after(grace):
            await self._either(self._ended, self._forced)
        if not self._ended.is_set():
            logger.warning(
                "worker %s hands back %d runs that have not finished", self.id, self._running
            )
            for consumer in self._consumers:
                consumer.abort()
            with anyio.move_on_after(SETTLE_SECONDS):
                await self._ended.wait()
            for consumer in self._consumers:
                consumer.give_up()
        await self._ended.wait()
        logger.info("worker %s has drained", self.id)

    async def _either(self, *events: anyio.Event) -> None:
        async with anyio.create_task_group() as group:

            async def wait(event: anyio.Event) -> None:
                await event.wait()
                group.cancel_scope.cancel()

            for event in events:
                group.start_soon(wait, event)

    @property
    def _running(self) -> int:
        return sum(consumer.running for consumer in self._consumers)

    def _trouble(self, what: str, text: str | None) -> None:
        """Remembers what fails, for the heartbeat, and logs when it starts and ends."""
        if text is None:
            if self._troubles.pop(what, None) is not None:
                logger.info("%s works again", what)
        else:
            if what not in self._troubles:
                logger.error("%s fails, and is tried again until it works: %s", what, text)
            self._troubles[what] = text

    def _record(self) -> WorkerRecord:
        state: Literal["running", "draining", "degraded"] = "running"
        troubles = dict(self._troubles)  # another thread writes while this one reads
        if self._stopping.is_set():
            state = "draining"
        elif troubles:
            state = "degraded"
        return WorkerRecord(
            id=self.id,
            app=self._app.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            beat_at=time.time(),
            state=state,
            detail="; ".join(f"{what}: {text}" for what, text in troubles.items()),
            agents=[f"{agent.topic}/{agent.name}" for agent in self._app.agents],
            running=self._running,
        )

    def _agent_records(self) -> list[AgentRecord]:
        now = time.time()
        return [
            AgentRecord(
                topic=agent.topic,
                name=agent.name,
                description=agent.description,
                tools=list(agent.tools),
                consumers=agent.consumers,
                retries=agent.policy.retries,
                timeout=agent.timeout,
                lease=agent.lease,
                app=self._app.name,
                registered_at=now,
            )
            for agent in self._app.agents
        ]
