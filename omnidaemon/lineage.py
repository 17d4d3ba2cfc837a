"""What caused a task, and what it caused: a tree by causation id, as far as it is known here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from msgspec import Struct

from omnidaemon.app import App
from omnidaemon.envelope import INTERNAL, Envelope, decode
from omnidaemon.errors import DecodeError, TaskNotFound
from omnidaemon.messages import Event
from omnidaemon.outcomes import Cause
from omnidaemon.records import RunRecord
from omnidaemon.tasks import Task, TaskStatus, overall, states
from omnidaemon.together import together

ANCESTORS_MOST = 20
DEPTH_MOST = 20
TASKS_MOST = 200
CHILDREN_MOST = 50
SCANNED_TOPICS = 50
SCANNED_EVENTS = 100
"""The newest events of a topic among which children that have not run yet are looked for."""


class Kin(Struct, frozen=True):
    """A task in the tree.

    Attributes:
        task_id: The event's id.
        topic: Its topic; empty if nothing but its id is known.
        status: Where it stands; None if nothing but its id is known.
        agents: Where each of its agents stands.
        cause: Why the latest of its runs that failed did.
        at: Unix time of its first known moment, in seconds; 0 if none is known.
        children: What it caused, the oldest first.
        more: True if it caused more than is shown.
    """

    task_id: str
    topic: str
    status: TaskStatus | None
    agents: dict[str, TaskStatus]
    cause: Cause | None
    at: float
    children: list[Kin]
    more: bool = False


class Tree(Struct, frozen=True):
    """The task's family.

    Attributes:
        root: The oldest known ancestor, or the task itself.
        tasks: How many tasks are shown.
        complete: False if it goes on beyond what is shown, upwards or downwards.
        searched: How many topics' newest events were looked through for children that have not
            run yet.
    """

    root: Kin
    tasks: int
    complete: bool
    searched: int


class _Member(Struct):
    """What is known of a task, before it has its place in the tree."""

    task_id: str
    topic: str = ""
    runs: dict[str, RunRecord] = {}
    task: Task | None = None
    causation_id: str | None = None
    tenant_id: str | None = None
    at: float = 0.0


class Lineage:
    """Finds families of tasks.

    Args:
        app: Whose backends are asked.
    """

    def __init__(self, app: App) -> None:
        self._transport = app.transport
        self._tasks = app.tasks

    async def tree(self, task_id: str, *, tenant_id: str | None = None) -> Tree:
        """The task's tree; one who is bound to a tenant sees that tenant's tasks alone.

        Raises:
            TaskNotFound: The task is not known.
        """
        member = await self._member(task_id)
        if member is None:
            raise TaskNotFound(f"no task {task_id!r} here")
        line, complete = await self._ancestors(member, tenant_id)
        waiting, searched = await self._not_yet_run(tenant_id)
        growth = _Growth(self, waiting, tenant_id, {one.task_id for one in line})
        root = await growth.grown(line)
        return Tree(root, growth.count, complete and not growth.cut, searched)

    async def _member(self, task_id: str) -> _Member | None:
        """The task with its event, if any of the two is known."""
        try:
            task = await self._tasks.get(task_id)
        except TaskNotFound:
            return None
        runs = list(task.runs.values())
        newest = max(runs, key=lambda run: run.finished_at, default=None)
        if newest is not None:
            first = min(_began(run) for run in runs)
            return _Member(
                *(task_id, task.topic, task.runs, task, newest.causation_id, newest.tenant_id),
                at=first,
            )
        event = await self._transport.find(task.topic, task_id)
        head = None if event is None else head_of(event)
        if head is None:
            return _Member(task_id, task.topic, {}, task)
        return _Member(
            *(task_id, task.topic, {}, task, head.causation_id, head.tenant_id), at=head.created_at
        )

    async def _ancestors(
        self, member: _Member, tenant_id: str | None
    ) -> tuple[list[_Member], bool]:
        """The line from the oldest known ancestor to the task, and whether it is whole."""
        line, seen = [member], {member.task_id}
        while (cause := line[0].causation_id) is not None:
            if cause in seen:
                return line, True  # a circle, which ids given by hand can make
            if len(line) > ANCESTORS_MOST:
                return line, False
            seen.add(cause)
            above = await self._member(cause)
            others = tenant_id is not None and await self._tasks.tenants(cause) - {tenant_id}
            if above is not None and others:
                return line, False
            line.insert(0, above or _Member(cause))
        return line, True

    async def children(
        self, task_id: str, tenant_id: str | None = None
    ) -> tuple[list[_Member], bool]:
        """Tasks that have run and that this one caused; and whether there are more."""
        found = await self._tasks.index.caused_by(task_id, limit=4 * CHILDREN_MOST)
        by_task: defaultdict[str, dict[str, RunRecord]] = defaultdict(dict)
        for run in found.runs:
            if tenant_id in (None, run.tenant_id):
                by_task[run.task_id][run.agent] = run
        members = [
            _Member(
                *(name, run.topic, runs, None, task_id, run.tenant_id),
                at=min(map(_began, runs.values())),
            )
            for name, runs in by_task.items()
            for run in [next(iter(runs.values()))]
        ]
        return members, found.place is not None

    async def settle(self, member: _Member, tenant_id: str | None = None) -> _Member:
        """The member as it stands now, where its records alone do not tell."""
        over = all(run.status == "succeeded" for run in member.runs.values())
        if member.task is None and member.topic and not (member.runs and over):
            try:
                task = await self._tasks.get(member.task_id, member.topic)
            except TaskNotFound:
                return member  # gone since it was found: shown as it was then
            # Two tenants may use one id; then it stays as its own tenant's records have it.
            if tenant_id is None or all(run.tenant_id == tenant_id for run in task.runs.values()):
                member.task = task
        return member

    async def _not_yet_run(self, tenant_id: str | None) -> tuple[dict[str, list[_Member]], int]:
        """The newest events of all topics by what caused them, and how many topics that were."""
        infos = [info for info in await self._transport.topics() if info.events]
        # Webhooks leave no record, so this is how they are found.
        infos.sort(key=lambda info: not info.name.startswith(INTERNAL))
        names = [info.name for info in infos[:SCANNED_TOPICS]]
        browse = self._transport.browse
        browsed = await together(partial(browse, name, SCANNED_EVENTS) for name in names)
        found: defaultdict[str, list[_Member]] = defaultdict(list)
        for name, events in zip(names, browsed, strict=True):
            for event in events:
                head = head_of(event)
                if head is None or not head.causation_id:
                    continue
                if tenant_id in (None, head.tenant_id):
                    found[head.causation_id].append(
                        _Member(
                            *(event.id, name, {}, None, head.causation_id, head.tenant_id),
                            at=head.created_at,
                        )
                    )
        return found, len(names)


class _Growth:
    """A tree while it grows, a generation at a time, so that a bound cuts the youngest."""

    def __init__(
        self,
        lineage: Lineage,
        waiting: dict[str, list[_Member]],
        tenant_id: str | None,
        line: set[str],
    ) -> None:
        self._lineage = lineage
        self._waiting = waiting
        self._published = {one.task_id: one.at for some in waiting.values() for one in some}
        self._tenant = tenant_id
        self._placed = set(line)
        self._children: defaultdict[str, list[_Member]] = defaultdict(list)
        self._more: set[str] = set()
        self.count = len(line)
        self.cut = False

    async def grown(self, line: Sequence[_Member]) -> Kin:
        """The tree whose trunk is this line of ancestors."""
        for above, below in pairwise(line):
            self._children[above.task_id].append(below)
        generation: list[_Member] = list(line)
        for _ in range(DEPTH_MOST):
            if not generation:
                break
            generation = await self._next(generation)
        self.cut = self.cut or bool(generation)
        members = [line[0], *(one for some in self._children.values() for one in some)]
        await together(partial(self._lineage.settle, member, self._tenant) for member in members)
        return self._kin(line[0])

    async def _next(self, generation: Sequence[_Member]) -> list[_Member]:
        asked = await together(
            partial(self._lineage.children, member.task_id, self._tenant) for member in generation
        )
        born: list[_Member] = []
        for parent, (ran, more) in zip(generation, asked, strict=True):
            known = {member.task_id: member for member in ran}
            for member in self._waiting.get(parent.task_id, ()):
                known.setdefault(member.task_id, member)
            if more:
                self._mark_cut(parent)
            for member in sorted(known.values(), key=self._moment):
                if self._tenant not in (None, member.tenant_id) or member.task_id in self._placed:
                    continue  # another's, or a circle
                siblings = self._children[parent.task_id]
                if self.count >= TASKS_MOST or len(siblings) >= CHILDREN_MOST:
                    self._mark_cut(parent)
                    break
                self._placed.add(member.task_id)
                siblings.append(member)
                born.append(member)
                self.count += 1
        return born

    def _moment(self, member: _Member) -> float:
        """When it was published, or else began to run."""
        return self._published.get(member.task_id, member.at)

    def _mark_cut(self, parent: _Member) -> None:
        self._more.add(parent.task_id)
        self.cut = True

    def _kin(self, member: _Member) -> Kin:
        task = member.task
        runs = task.runs if task is not None else member.runs
        agents = states(task.places if task is not None else (), runs)
        failed = [run for run in runs.values() if run.cause is not None]
        latest = max(failed, key=lambda run: run.finished_at, default=None)
        status: TaskStatus | None = None
        if task is not None:
            status = task.status
        elif runs:
            status = overall(agents)
        children = sorted(self._children[member.task_id], key=self._moment)
        return Kin(
            member.task_id,
            member.topic,
            status,
            {name: state for name, state in sorted(agents.items()) if name},
            latest.cause if latest else None,
            self._moment(member),
            [self._kin(child) for child in children],
            member.task_id in self._more,
        )


def head_of(event: Event) -> Envelope | None:
    """The event's envelope, its content left as it is; None if it cannot be read."""
    try:
        return decode(event.body)
    except DecodeError:
        return None


def _began(run: RunRecord) -> float:
    return run.history[0].started_at if run.history else run.started_at
