"""The classic SDK: agents registered and events published by calls; a thin face over an App."""

from __future__ import annotations

import logging
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from anyio import to_thread

from omnidaemon.agents import Agent
from omnidaemon.app import App
from omnidaemon.background import Background
from omnidaemon.classic import (
    AgentConfig,
    EventEnvelope,
    PayloadBase,
    SubscriptionConfig,
    handler,
    plain,
)
from omnidaemon.errors import (
    AgentNotFound,
    ConfigurationError,
    OmniDaemonError,
    PayloadError,
    TaskNotFound,
)
from omnidaemon.fleet import Fleet
from omnidaemon.logs import make_handler
from omnidaemon.settings import LogFormat, load_settings
from omnidaemon.views import Cleanup, group_public, run_public, task_public, topic_public

__all__ = [
    "AgentConfig",
    "EventEnvelope",
    "OmniDaemonSDK",
    "PayloadBase",
    "SubscriptionConfig",
    "start_api_server",
]

if TYPE_CHECKING:
    from omnidaemon.admin import ApiServer

logger = logging.getLogger("omnidaemon.sdk")

MEMORY = "memory://sdk"


class OmniDaemonSDK:
    """Agents and events on the backends that the environment (and a `.env` file) names.

    Everything works from any process and event loop, without `start`; only running agents needs it.
    What is answered are dicts, lists, text and numbers.
    """

    def __init__(self) -> None:
        self._configs: dict[tuple[str, str], AgentConfig] = {}
        self._background: Background | None = None
        self._api: ApiServer | None = None

    @cached_property
    def app(self) -> App:
        """The App behind it, made when first needed: the environment is read then."""
        settings = load_settings()
        if settings.event_bus != "memory":
            return App("sdk", settings=settings)
        # Two SDKs of one process see the same memory, as they would see the same server.
        store = None if settings.storage in (None, "memory") else settings.store_url
        return App("sdk", transport=MEMORY, store=store, settings=settings)

    @property
    def _fleet(self) -> Fleet:
        return Fleet(self.app)

    # Events and agents

    async def publish_task(self, event_envelope: EventEnvelope) -> str:
        """Publishes an event, which is stored when this returns; returns its task id.

        Raises:
            PayloadError: A value cannot travel; nothing was stored.
            TransportError: The event could not be stored.
        """
        if not isinstance(event_envelope, EventEnvelope):
            raise PayloadError(f"{event_envelope!r:.200} is no EventEnvelope")
        return (await self.app.publish(event_envelope.envelope())).id

    async def register_agent(self, agent_config: AgentConfig) -> None:
        """Registers an agent: `start` will serve it; after that, it is served when this returns.

        A config that is registered already changes nothing; after `shutdown` another one of the
        same topic and name takes its place.

        Raises:
            DuplicateAgent: Another agent has this topic and name.
            ConfigurationError: A value is not usable.
        """
        config = agent_config
        key = config.topic, config.name
        before = self._configs.get(key)
        serving = self._serving
        if before is not None:
            if before == config:
                return
            if serving is None:
                self.app.remove(*key)
                del self._configs[key]
        self.app.agent(
            config.topic,
            name=config.name,
            consumers=config.config.consumer_count,
            retries=config.config.dlq_retry_limit,
            lease=config.config.reclaim_idle_ms / 1000,
            dead_letter=config.config.dlq_enabled,
            description=config.description,
            tools=config.tools,
        )(handler(config.callback))
        self._configs[key] = config
        if serving is not None:
            agent = next(a for a in self.app.agents if (a.topic, a.name) == key)
            self._say_registered(serving, [agent])
            await serving.add(agent)

    @property
    def _serving(self) -> Background | None:
        """What runs the agents now."""
        background = self._background
        return background if background is not None and background.running else None

    async def start(self) -> None:
        """Serves the registered agents from now on, in the background of the running event loop.

        Where nobody handles SIGTERM, it becomes a cancellation of the main task, so that
        `finally: await sdk.shutdown()` drains. Starting again changes nothing.

        Raises:
            ConfigurationError: A backend is not usable.
            TransportError: The transport could not be opened.
            StoreError: The store could not be opened.
        """
        if self._serving is not None:
            return
        _log_to_standard_error(self.app.settings.log_level, self.app.settings.log_format)
        # A person's start lifts pauses; that of a service or a supervisor does not.
        resume = sys.stdin is not None and sys.stdin.isatty()
        self._background = Background(self.app, resume=resume)
        self._say_registered(self._background, self.app.agents)
        await self._background.started()
        if self.app.settings.api_enabled:
            try:
                await self.serve_api()
            except ConfigurationError as error:
                logger.error("%s", error)  # the agents run without it

    async def serve_api(self, host: str | None = None, port: int | None = None) -> ApiServer:
        """Serves the admin API from this process; `start_api_server` says the rest."""
        from omnidaemon.admin import serve_api  # with packages that not everybody has

        self._api = serve_api(self.app, host=host, port=port)
        return self._api

    def _say_registered(self, background: Background, agents: list[Agent]) -> None:
        for agent in agents:
            logger.info(
                "[Runner %s] Registered agent '%s' on topic '%s'",
                background.id,
                agent.name,
                agent.topic,
            )
        topics = ", ".join(sorted({agent.topic for agent in self.app.agents})) or "none yet"
        logger.info("[Runner %s] Listening to topics: %s", background.id, topics)

    async def shutdown(self) -> None:
        """Lets what runs finish (within OMNIDAEMON_GRACE), hands back the rest, lets go of all.

        Without `start`, and when called again, there is little to do. Using the SDK again connects
        again.
        """
        background, self._background = self._background, None
        api, self._api = self._api, None
        try:
            if background is not None:
                await background.stop()
        finally:
            if api is not None and api.app is self.app:
                await to_thread.run_sync(api.stop)  # it waits for streams that are open
            await self.app.close()

    # Results

    async def get_result(self, task_id: str) -> dict[str, Any] | None:
        """What came of a task: the latest success in `result`, each agent's run in `agents`.

        None while no agent has succeeded or given it up, and for a task that is not known.
        """
        try:
            task = await self.app.tasks.get(task_id)
        except TaskNotFound:
            return None
        if not any(run.status in ("succeeded", "dead") for run in task.runs.values()):
            return None
        return self._dict(task_public(task))

    async def list_results(
        self, topic: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """The newest runs, one per task and agent, of one topic or of all."""
        return [self._dict(run_public(run)) for run in await self.app.tasks.newest(topic, limit)]

    async def delete_result(self, task_id: str) -> bool:
        """Removes what is kept of the task's runs; False if there was nothing."""
        return bool(await self.app.tasks.remove(task_id))

    # Agents of all processes

    async def list_agents(self) -> dict[str, list[dict[str, Any]]]:
        """All agents by topic, with how far they are."""
        found: dict[str, list[dict[str, Any]]] = {}
        for agent in await self._fleet.agents():
            found.setdefault(agent.topic, []).append(self._dict(agent.public()))
        return found

    async def get_agent(self, topic: str, agent_name: str) -> dict[str, Any] | None:
        """One agent; None if there is none of this name."""
        try:
            return self._dict((await self._fleet.agent(topic, agent_name)).public())
        except AgentNotFound:
            return None

    async def unsubscribe_agent(self, topic: str, agent_name: str) -> bool:
        """Pauses an agent, wherever it runs; its events queue. AgentNotFound if it is unknown."""
        await self._fleet.pause(topic, agent_name)
        return True

    async def resume_agent(self, topic: str, agent_name: str) -> bool:
        """Undoes `unsubscribe_agent`. AgentNotFound if it is unknown."""
        await self._fleet.resume(topic, agent_name)
        return True

    async def delete_agent(
        self,
        topic: str,
        agent_name: str,
        delete_group: bool = True,
        delete_dlq: bool = False,
    ) -> dict[str, Any]:
        """Removes an agent, its group with what waits in it, and if told its dead letters.

        Raises:
            AgentNotFound: There is no such agent.
        """
        registered_here = self._forget(topic, agent_name)
        try:
            gone = await self._fleet.delete_agent(
                topic, agent_name, group=delete_group, dead_letters=delete_dlq
            )
        except AgentNotFound:
            if not registered_here:
                raise
            gone = Cleanup(topic, agent_name)  # it had not been started yet
        return self._dict(gone)

    async def delete_topic(self, topic: str) -> list[dict[str, Any]]:
        """Removes a topic with its events, agents and dead letters. AgentNotFound if unknown."""
        here = [agent.name for agent in self.app.agents if agent.topic == topic]
        for name in here:
            self._forget(topic, name)
        try:
            return [self._dict(gone) for gone in await self._fleet.delete_topic(topic)]
        except AgentNotFound:
            if not here:
                raise
            return [self._dict(Cleanup(topic, name)) for name in here]  # not started yet

    def _forget(self, topic: str, name: str) -> bool:
        """Drops a registration of this process, so that the name is free; False if it was."""
        self._configs.pop((topic, name), None)
        if self._serving is not None:
            self._serving.drop(topic, name)
        return self.app.remove(topic, name)

    # Topics and dead letters

    async def list_streams(self) -> list[dict[str, Any]]:
        """All topics: their events, groups, delayed events and dead letters."""
        return [topic_public(topic) for topic in await self._fleet.topics()]

    async def inspect_stream(self, stream: str, limit: int = 10) -> list[dict[str, Any]]:
        """The newest events of a topic, newest first."""
        found = await self._fleet.events(stream, limit=limit)
        return [self._dict(event.public()) for event in found]

    async def list_groups(self, stream: str) -> list[dict[str, Any]]:
        """The groups of a topic: one per agent, with its lag."""
        return [group_public(group) for group in await self._fleet.groups(stream)]

    async def inspect_dlq(
        self, topic: str, limit: int = 10, agent_name: str | None = None
    ) -> list[dict[str, Any]]:
        """The newest dead letters of a topic, with their cause."""
        found = await self._fleet.dead_letters(topic, agent_name, limit=limit)
        return [self._dict(letter.public()) for letter in found]

    async def replay_dlq(
        self, topic: str, ids: list[str] | None = None, agent_name: str | None = None
    ) -> int:
        """Hands dead letters back to their agents: all, or those with these task ids."""
        return await self._fleet.replay(topic, ids, agent_name)

    async def delete_dlq(
        self, topic: str, ids: list[str] | None = None, agent_name: str | None = None
    ) -> int:
        """Removes dead letters: all, or those with these task ids; returns how many."""
        return await self._fleet.discard(topic, ids, agent_name)

    async def get_bus_stats(self) -> dict[str, Any]:
        """Lengths, groups, what is pending, lag and dead letters."""
        return self._dict((await self._fleet.stats()).public())

    # Health, numbers, records

    async def health(self) -> dict[str, Any]:
        """Which workers live, and whether the backends answer; `runner_id` is one's own first."""
        found = self._dict((await self._fleet.health()).public())
        if self._serving is not None:
            found["runner_id"] = self._serving.id
        return found

    async def metrics(
        self, topic: str | None = None, limit: int | None = None
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Tasks received, processed and failed, and their mean time, by topic and agent."""
        return await self._fleet.metrics(topic, limit=limit)

    async def storage_health(self) -> dict[str, Any]:
        """Whether the store answers."""
        store = self.app.store
        try:
            await store.check()
        except OmniDaemonError as error:
            return {"healthy": False, "backend": store.backend, "error": str(error)}
        return {"healthy": True, "backend": store.backend, "error": None}

    async def clear_agents(self) -> int:
        """Removes the agents' records; those that run are written down again."""
        return await self._clear("agents")

    async def clear_results(self) -> int:
        """Removes all results."""
        return await self._clear("results")

    async def clear_metrics(self) -> int:
        """Begins all counters anew."""
        return await self._clear("metrics")

    async def _clear(self, what: Literal["agents", "results", "metrics"]) -> int:
        return (await self._fleet.clear(what))[what]

    async def clear_all(self) -> dict[str, int]:
        """Removes all of these and the configuration; returns how many, by their kind."""
        return await self._fleet.clear("all")

    async def save_config(self, key: str, value: Any) -> None:
        """Keeps a value for other processes to read."""
        await self._fleet.set_config(key, value)

    async def get_config(self, key: str, default: Any = None) -> Any:
        """The value kept under the key, or `default`."""
        return await self._fleet.get_config(key, default)

    async def list_config(self) -> dict[str, Any]:
        """All values by key."""
        return await self._fleet.list_config()

    @staticmethod
    def _dict(value: Any) -> dict[str, Any]:
        found: dict[str, Any] = plain(value)
        return found


async def start_api_server(
    sdk: OmniDaemonSDK, port: int | None = None, host: str | None = None
) -> ApiServer:
    """Serves the admin API of the SDK's backends in the background, until its `shutdown`.

    There is one per process: a second call joins the first.

    Args:
        sdk: Whose backends are looked at.
        port: By default OMNIDAEMON_API_PORT, 8765; 0 takes a free one.
        host: By default OMNIDAEMON_API_HOST, 127.0.0.1.

    Returns:
        The server; it has `url` and `stop()`.

    Raises:
        MissingExtra: The packages of the extra `api` are not installed.
        InvalidSettings: It would be open to other machines without keys, or a key is not usable.
        ConfigurationError: The address cannot be listened on.
    """
    return await sdk.serve_api(host, port)


def _log_to_standard_error(level: str, form: LogFormat) -> None:
    """Shows what the worker says, where the program has not set logging up in its own way."""
    ours = logging.getLogger("omnidaemon")
    if not ours.hasHandlers():
        ours.addHandler(make_handler(form))
        ours.setLevel(level)
