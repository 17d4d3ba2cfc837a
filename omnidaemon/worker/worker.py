"""A worker: one process that runs an app's agents until it is stopped."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import anyio
from anyio.abc import TaskGroup

from omnidaemon.agents import Agent
from omnidaemon.app import App
from omnidaemon.envelope import INTERNAL
from omnidaemon.errors import ConfigurationError, StoreError, TransportError
from omnidaemon.outcomes import shown
from omnidaemon.posting import HttpSender, Sender
from omnidaemon.records import BEAT_SECONDS, AgentRecord, Roster, WorkerRecord, WorkerState
from omnidaemon.webhook_rules import signing_keys
from omnidaemon.webhooks import webhook_agent
from omnidaemon.worker.consumer import SETTLE_SECONDS, AgentConsumer, Shared
from omnidaemon.worker.leases import LeaseKeeper
from omnidaemon.worker.tally import Tally

logger = logging.getLogger("omnidaemon.worker")

DEAD_LETTER_BEATS = 12
"""Every so many heartbeats (a minute) an agent that made dead letters is looked at."""
DEAD_LETTER_SHARE = 0.8
JOIN_SECONDS = 1.0


class Worker:
    """Runs the agents of an app in this process and event loop.

    Args:
        app: The app.
        grace: Seconds that running handlers get after `stop`; None takes the settings'.
        resume: True lifts pauses of the app's agents, as a person who starts a worker expects.
        post: What makes one attempt to post to a webhook; over HTTP by default.
        tally: Counts what this worker settles; None if nobody asks.
    """

    def __init__(
        self,
        app: App,
        *,
        grace: float | None = None,
        resume: bool = False,
        post: Sender | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._app = app
        self._grace = grace
        self._resume = resume
        self._post = post
        self._tally = tally
        self._started_at = time.time()
        self._consumers: list[AgentConsumer] = []
        self._group: TaskGroup | None = None
        self._keeper: LeaseKeeper | None = None
        self._shared: Shared | None = None
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
            self.cancel()

    def abort(self) -> None:
        """Drains without grace: what runs is cancelled and handed back, what ends slowly left."""
        self.stop()
        self._forced.set()
        if self._drained:
            self.cancel()

    @property
    def agents(self) -> list[Agent]:
        """Those whose groups it has joined."""
        return [consumer.agent for consumer in tuple(self._consumers)]

    @property
    def running(self) -> dict[tuple[str, str], int]:
        """Runs in progress, by topic and agent; may be asked from another thread."""
        consumers = tuple(self._consumers)
        return {(one.agent.topic, one.agent.name): one.running for one in consumers}

    @property
    def state(self) -> WorkerState:
        """Running, draining, or degraded while its backends fail it."""
        if self._stopping.is_set():
            return "draining"
        return "degraded" if self._troubles else "running"

    async def add(self, agent: Agent) -> None:
        """Serves one more agent from now on; returns once its group is joined.

        To be called in the worker's loop, once it is ready. A worker that is being stopped leaves
        the agent alone.
        """
        if self._group is None:
            raise RuntimeError("the worker is not ready: add the agent to its app before")
        if not self._stopping.is_set():
            self._open += 1
            joined = anyio.Event()
            self._group.start_soon(self._serve_late, agent, joined)
            await joined.wait()

    def drop(self, topic: str, name: str) -> None:
        """Serves this agent no longer; what it runs may finish."""
        for consumer in self._consumers:
            if (consumer.agent.topic, consumer.agent.name) == (topic, name):
                consumer.stop()

    def cancel(self) -> None:
        """Ends at once, as if the task that runs it were cancelled; what runs is handed back."""
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
            roster = Roster(app.store)
            await roster.register([self._agent_record(agent) for agent in app.agents])
            self._keeper = LeaseKeeper(
                app.transport,
                beat=self._beat,
                beat_seconds=BEAT_SECONDS,
                trouble=self._trouble,
                mode=app.transport.renewal,
            )
            self._shared = self._what_is_shared(state)
            for agent in self._served():  # all join before any receives: none starts behind another
                await self._join(stack, agent)
            await self._beat()
            async with anyio.create_task_group() as group:
                group.start_soon(self._keeper.run)
                await self._work()
                group.cancel_scope.cancel()
            self._drained = True
            if self._forced.is_set():
                self.cancel()
            try:
                await roster.leave(self.id)
            except StoreError as error:
                logger.warning("worker %s could not sign off: %s", self.id, error)

    async def _beat(self) -> None:
        roster = Roster(self._app.store)
        await roster.beat(self._record())
        await self._write_down_again(roster)
        self._beats += 1
        if self._beats % DEAD_LETTER_BEATS == 0:
            for consumer in tuple(self._consumers):
                if consumer.buried:
                    consumer.buried = False
                    await self._warn_of_dead_letters(consumer.agent)

    async def _write_down_again(self, roster: Roster) -> None:
        """Registers what was cleared, but not what was deleted: its group is gone as well."""
        agents = {
            (agent.topic, agent.name): agent
            for agent in self.agents
            if not agent.topic.startswith(INTERNAL)
        }
        for topic, name in await roster.missing(agents):
            if any(group.name == name for group in await self._app.transport.groups(topic)):
                await roster.register([self._agent_record(agents[topic, name])])

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

    def _what_is_shared(self, state: Any) -> Shared:
        app = self._app
        return Shared(
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
            tally=self._tally,
        )

    async def _join(self, stack: AsyncExitStack, agent: Agent) -> AgentConsumer:
        """Joins the agent's group until the stack is left."""
        assert self._keeper is not None  # `_run` has made them
        assert self._shared is not None
        transport = self._app.transport
        subscription = await stack.enter_async_context(
            transport.subscribe(agent.topic, agent.name, lease=agent.lease, start=agent.start)
        )
        if self._resume:
            await transport.resume(agent.topic, agent.name)
        held = self._keeper.hold(subscription.consumer)
        ours = agent.topic.startswith(INTERNAL)
        shared = replace(self._shared, middleware=()) if ours else self._shared
        consumer = AgentConsumer(agent, subscription, held, shared)
        self._consumers.append(consumer)
        logger.log(
            logging.DEBUG if ours and not subscription.backlog else logging.INFO,
            "agent %r listens to %r, %d at a time; events waiting for it: %d",
            agent.name,
            agent.topic,
            agent.consumers,
            subscription.backlog,
        )
        return consumer

    def _served(self) -> list[Agent]:
        """The app's agents, and what delivers webhooks."""
        settings = self._app.settings
        if not settings.webhooks:
            return self._app.agents
        post = self._post or HttpSender(settings.webhook_allow)
        return [*self._app.agents, webhook_agent(post, signing_keys(settings.webhook_secrets))]

    async def _work(self) -> None:
        self._open = len(self._consumers)
        async with anyio.create_task_group() as self._group:
            for consumer in self._consumers:
                self._group.start_soon(self._consume, consumer)
            self._group.start_soon(self._drain)
            self.ready.set()
            logger.info("worker %s is ready", self.id)

    async def _consume(self, consumer: AgentConsumer) -> None:
        await self._run_one(consumer)
        self._close_one()

    async def _run_one(self, consumer: AgentConsumer) -> None:
        assert self._keeper is not None  # `_run` has made it
        await consumer.run()
        self._consumers.remove(consumer)
        self._keeper.let_go(consumer.held)

    async def _serve_late(self, agent: Agent, joined: anyio.Event) -> None:
        """Serves an agent that came when the worker was running; tries until it can join."""
        what = f"{agent.topic}/{agent.name}"
        async with AsyncExitStack() as stack:
            consumer = None
            while consumer is None and not self._stopping.is_set():
                try:
                    roster = Roster(self._app.store)
                    await roster.register([self._agent_record(agent)])
                    await roster.beat(self._record())
                    consumer = await self._join(stack, agent)
                except (TransportError, StoreError) as error:
                    self._trouble(what, f"joining: {error}")
                    with anyio.move_on_after(JOIN_SECONDS):
                        await self._stopping.wait()
            joined.set()
            if consumer is not None:
                self._trouble(what, None)
                if self._stopping.is_set():
                    consumer.stop()  # the drain has not seen it
                await self._run_one(consumer)
        self._close_one()

    def _close_one(self) -> None:
        self._open -= 1
        if not self._open and self._stopping.is_set():
            self._ended.set()

    async def _drain(self) -> None:
        await self._stopping.wait()
        if not self._open:
            self._ended.set()
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
        troubles = dict(self._troubles)  # another thread writes while this one reads
        return WorkerRecord(
            id=self.id,
            app=self._app.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            beat_at=time.time(),
            state=self.state,
            detail="; ".join(f"{what}: {text}" for what, text in troubles.items()),
            agents=[f"{agent.topic}/{agent.name}" for agent in self._app.agents],
            running=self._running,
            leases=sum(len(consumer.held.all()) for consumer in self._consumers),
            slots=sum(agent.consumers for agent in self._app.agents),
        )

    def _agent_record(self, agent: Agent) -> AgentRecord:
        return AgentRecord(
            topic=agent.topic,
            name=agent.name,
            description=agent.description,
            tools=list(agent.tools),
            consumers=agent.consumers,
            retries=agent.policy.retries,
            timeout=agent.timeout,
            lease=agent.lease,
            dead_letter=agent.policy.dead_letter,
            app=self._app.name,
            registered_at=time.time(),
        )
