"""Tasks as their publishers see them: where one stands, what came of it, and waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import anyio
import msgspec
from msgspec import Struct

from omnidaemon.envelope import decode
from omnidaemon.errors import DecodeError, ResultTimeout, TaskFailed, TaskNotFound
from omnidaemon.messages import Event, Place
from omnidaemon.outcomes import Cause
from omnidaemon.records import Results, RunRecord, read_run
from omnidaemon.run_index import RunIndex
from omnidaemon.stores.base import Store
from omnidaemon.transports.base import Transport, Watch

FIRST_LOOK_SECONDS = 0.05
"""What is over already is found out this late; few tasks are, and asking costs several trips."""
POLL_SECONDS = 5.0
"""How often a wait looks by itself, beneath the notice that normally ends it."""

TaskStatus = Literal["pending", "running", "succeeded", "failed", "dead", "cancelled"]
_OVER = ("succeeded", "dead", "cancelled")


class Task(Struct, frozen=True):
    """A task with all that its agents made of it.

    Attributes:
        id: The event's id.
        topic: Its topic.
        status: pending, running, succeeded, failed (will retry), dead or cancelled.
        runs: The latest run of each agent, by the agent's name.
        places: Where the event stands in each group.
    """

    id: str
    topic: str
    status: TaskStatus
    runs: dict[str, RunRecord]
    places: tuple[Place, ...] = ()

    @property
    def success(self) -> RunRecord | None:
        """The latest run that succeeded."""
        found = [run for run in self.runs.values() if run.status == "succeeded"]
        return max(found, key=lambda run: run.finished_at, default=None)


class Tasks:
    """Looks tasks up and waits for them; what is pending or running comes from the transport.

    Attributes:
        index: Finds runs by what they have in common.
    """

    def __init__(self, transport: Transport, store: Store) -> None:
        self._transport = transport
        self._results = Results(store)
        self.index = RunIndex(store)

    async def get(self, task_id: str, topic: str | None = None) -> Task:
        """The task as it stands; `topic` matters only if the id was used on several.

        Raises:
            TaskNotFound: No event, record or dead letter has this id (any more).
        """
        # Places first: a run that settles in between shows up in both, never in neither.
        places = await self._transport.locate(task_id, topic)
        runs = await self._results.of_task(task_id)
        if topic is None:
            topic = next((t for t in [p.topic for p in places] + [r.topic for r in runs]), "")
        places = [place for place in places if place.topic == topic]
        by_agent = {run.agent: run for run in runs if run.topic == topic}
        if not places and not by_agent:
            raise TaskNotFound(
                f"no task {task_id!r} here: check the id and the backend; results are kept for a "
                "day unless OMNIDAEMON_RESULT_TTL says otherwise"
            )
        return Task(task_id, topic, overall(states(places, by_agent)), by_agent, tuple(places))

    async def tenants(self, task_id: str) -> set[str | None]:
        """Whose events have this id; None stands for an event without a tenant, or unreadable."""
        places = await self._transport.locate(task_id)
        runs = await self._results.of_task(task_id)
        found: set[str | None] = {run.tenant_id for run in runs}
        ran = {run.topic for run in runs}
        # Also where it has run: whoever uses the id again has no record before their own run.
        for topic in {place.topic for place in places}:
            event = await self._transport.find(topic, task_id)
            if event is not None:
                found.add(_tenant(event))
            elif topic not in ran:
                found.add(None)
        return found

    async def newest(
        self, topic: str | None = None, limit: int = 100, *, tenant_id: str | None = None
    ) -> list[RunRecord]:
        """The newest run records, of one topic or of all, of one tenant or of all."""
        return await self._results.newest(topic, limit, tenant_id=tenant_id)

    async def remove(self, task_id: str) -> int:
        """Removes the task's records; returns how many there were."""
        # First what leads to them, which their content tells.
        await self.index.forget(await self._results.of_task(task_id))
        return await self._results.remove(task_id)

    async def result(
        self, task_id: str, topic: str, *, agent: str | None = None, timeout: float | None = None
    ) -> RunRecord:
        """Waits for the first success, of the given agent or of any.

        Raises:
            ResultTimeout: Nothing came within `timeout` seconds; the task goes on.
            TaskFailed: The agent, or every known group of the topic, gave it up.
            TaskNotFound: It has succeeded, and its record has expired; or it is not known at all.
        """
        async with self._transport.watch(task_id) as watch:
            return await self.first_success(watch, task_id, topic, agent=agent, timeout=timeout)

    async def first_success(
        self,
        watch: Watch,
        task_id: str,
        topic: str,
        *,
        agent: str | None = None,
        timeout: float | None = None,
        watched: bool = False,
    ) -> RunRecord:
        """The same with a watch that is there already; `watched`: it was before the event was."""
        deadline = anyio.current_time() + (float("inf") if timeout is None else timeout)
        look_at = min(deadline, anyio.current_time() + FIRST_LOOK_SECONDS)
        while True:
            runs = {} if watched else await self._runs(task_id, topic)
            watched = False
            for run in runs.values():
                if _is_success(run, topic, agent):
                    return run
            now = anyio.current_time()
            # The transport is asked seldom: it alone knows what is over and left no record.
            if now >= look_at or any(run.status == "dead" for run in runs.values()):
                look_at = now + POLL_SECONDS
                await self._raise_if_over(task_id, topic, agent)
            left = deadline - now
            if left <= 0:
                raise ResultTimeout(
                    f"task {task_id} on topic {topic!r} has no result after {timeout} s; it "
                    "goes on, ask again later" + await self._why_waiting(topic)
                )
            news = await watch.wait(min(left, max(0.0, look_at - now)))
            told = None if news is None else read_run(news)
            if told is not None and _is_success(told, topic, agent):
                return told

    async def _runs(self, task_id: str, topic: str) -> dict[str, RunRecord]:
        runs = await self._results.of_task(task_id)
        return {run.agent: run for run in runs if run.topic == topic}

    async def _raise_if_over(self, task_id: str, topic: str, agent: str | None) -> None:
        """Raises TaskFailed or TaskNotFound if nobody who was asked for can succeed any more."""
        task = await self.get(task_id, topic)
        now = states(task.places, task.runs)
        asked = {agent} if agent is not None else {name for name in now if name}
        if agent is None:
            asked |= {group.name for group in await self._transport.groups(topic)}
        if not asked or not all(now.get(name) in _OVER for name in asked):
            return
        if any(now[name] == "succeeded" for name in asked):
            if any(task.runs[n].status == "succeeded" for n in asked if n in task.runs):
                return  # it came in between
            raise TaskNotFound(
                f"task {task_id} on topic {topic!r} has succeeded, and its result has expired"
            )
        causes = {name: await self._cause(task, name) for name in sorted(asked)}
        texts = "; ".join(f"{name}: {cause}" for name, cause in causes.items())
        raise TaskFailed(
            f"task {task_id} on topic {topic!r} failed for good: {texts}", causes=causes
        )

    async def _cause(self, task: Task, agent: str) -> str:
        run = task.runs.get(agent)
        if run is not None and run.cause is not None:
            return f"{run.cause.type}: {run.cause.message}"
        for letter in await self._transport.dead_letters(task.topic, agent, event_id=task.id):
            return _cause_in(letter.reason)
        return "its group was removed"

    async def _why_waiting(self, topic: str) -> str:
        groups = await self._transport.groups(topic)
        if not groups:
            return f" (no agent has ever listened to {topic!r})"
        if not any(group.consumers for group in groups):
            return f" (no worker runs an agent of {topic!r} now)"
        return ""


def _tenant(event: Event) -> str | None:
    try:
        return decode(event.body).tenant_id
    except DecodeError:
        return None


def _is_success(run: RunRecord, topic: str, agent: str | None) -> bool:
    return run.status == "succeeded" and run.topic == topic and agent in (None, run.agent)


def _cause_in(reason: bytes) -> str:
    try:
        cause = msgspec.json.decode(reason, type=Cause)
    except msgspec.MsgspecError:  # made by something else than a worker
        return reason.decode("utf-8", "replace")
    return f"{cause.type}: {cause.message}"


def states(places: Sequence[Place], runs: dict[str, RunRecord]) -> dict[str, TaskStatus]:
    """Where each agent stands: the transport knows what is open, the records what came of it."""
    found: dict[str, TaskStatus] = {name: run.status for name, run in runs.items()}
    for place in places:
        if place.group is None and runs:
            continue  # its groups are gone; one that comes later may get it again
        name = place.group or ""
        match place.state:
            case "pending" | "running" | "dead":
                found[name] = place.state
            case "waiting":
                found[name] = "failed"
            case "settled":
                found.setdefault(name, "succeeded")  # its record has expired
    placed = {place.group for place in places}
    for name, status in found.items():
        if status == "failed" and name not in placed:
            found[name] = "cancelled"  # its group is gone, and with it the retry
    return found


def overall(found: dict[str, TaskStatus]) -> TaskStatus:
    """One status for the whole task.

    A task of which some agents have ended well and others have not begun counts as running: it
    has begun and is not over.
    """
    present = set(found.values())
    if "running" in present:
        return "running"
    if "failed" in present:
        return "failed"
    if present <= {"pending"}:
        return "pending"
    if "pending" in present:
        return "running"
    if "dead" in present:
        return "dead"
    return "cancelled" if present == {"cancelled"} else "succeeded"


class TaskHandle:
    """A published event, and the way to what comes of it.

    Attributes:
        id: The task id, which is the event's id.
        topic: Where it was published.
    """

    def __init__(self, task_id: str, topic: str, tasks: Tasks) -> None:
        self.id = task_id
        self.topic = topic
        self._tasks = tasks

    def __repr__(self) -> str:
        return f"TaskHandle({self.id!r}, topic={self.topic!r})"

    async def result(self, agent: str | None = None, *, timeout: float | None = None) -> Any:
        """What the agent returned, or the first that succeeds if no agent is named.

        Args:
            agent: Whose result.
            timeout: Seconds to wait; None waits for ever.

        Raises:
            ResultTimeout: Nothing came in time; the task goes on.
            TaskFailed: The agent, or every known group of the topic, gave it up.
        """
        run = await self._tasks.result(self.id, self.topic, agent=agent, timeout=timeout)
        return run.value

    async def results(self) -> dict[str, RunRecord]:
        """The records so far, by agent."""
        return (await self._tasks.get(self.id, self.topic)).runs

    async def status(self) -> TaskStatus:
        """Where the task stands.

        Raises:
            TaskNotFound: It is settled, and its record has expired.
        """
        return (await self._tasks.get(self.id, self.topic)).status
