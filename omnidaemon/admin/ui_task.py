"""One task: why it failed, first of all; its runs, its event, what it returned and its family."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct
from starlette.responses import Response

from omnidaemon.admin.answers import Refused
from omnidaemon.admin.ui_pages import Pages, Visit
from omnidaemon.envelope import INTERNAL, Envelope, check_id
from omnidaemon.errors import PayloadError, TaskNotFound
from omnidaemon.letters import Letters
from omnidaemon.lineage import Lineage
from omnidaemon.records import Attempt, RunRecord
from omnidaemon.tasks import Task, TaskStatus, states
from omnidaemon.views import AgentState, Letter, StoredEvent, read_event

task_pages = Pages("", "")

_OVER = ("succeeded", "dead", "cancelled")
SHOWN_MOST = 100_000
"""Characters of a content or a result that a page shows; an API call gives the whole."""


class Bar(Struct, frozen=True):
    """A run on the timeline.

    Attributes:
        run: The attempt.
        waited: Seconds from the end of the run before it.
        left: Where it begins, in percent of the whole.
        width: How long it took, in percent of the whole.
    """

    run: Attempt
    waited: float | None
    left: float
    width: float


class AgentPart(Struct, frozen=True):
    """What one agent made of the task.

    Attributes:
        name: The agent.
        status: Where it stands.
        run: Its latest run.
        bars: All of its runs that are known, the oldest first.
        letter: Its dead letter.
        result: What it returned, as text.
    """

    name: str
    status: TaskStatus
    run: RunRecord | None
    bars: list[Bar]
    letter: Letter | None
    result: str


@task_pages("GET", "/tasks/{task_id}", scope="read", tenants=True)
async def show_task(visit: Visit) -> Response:
    """One task."""
    task = await _task(visit)
    letters = {
        letter.agent: letter
        for letter in await Letters(visit.app).of_task(task)
        if visit.caller.tenant in (None, letter.event and letter.event.tenant_id)
    }
    event, origin = await _event(visit, task, list(letters.values()))
    tree = await Lineage(visit.app).tree(task.id, tenant_id=visit.caller.tenant)
    parts = [
        _part(task, name, status, letters.get(name))
        for name, status in sorted(states(task.places, task.runs).items())
        if name
    ]
    parts.sort(key=lambda part: part.status not in ("dead", "failed"))
    over = task.status in _OVER
    return visit.render(
        "task.html",
        task=task,
        parts=parts,
        event=event,
        origin=origin,
        content=_content(event),
        known=_known(task, event.event if event else None),
        internal=task.topic.startswith(INTERNAL),
        tree=tree,
        over=over,
        held={} if over else await _held(visit, task.topic, parts),
        deletable=may_change(visit),
    )


async def _held(visit: Visit, topic: str, parts: list[AgentPart]) -> dict[str, AgentState]:
    """Agents that have it to run and do not: paused ones, and those that no worker runs."""
    if visit.caller.tenant is not None:  # how agents are is not for one tenant to know
        return {}
    waiting = {part.name for part in parts if part.status in ("pending", "failed")}
    return {
        state.name: state
        for state in await visit.fleet.agents(topic)
        if state.name in waiting and state.status != "running"
    }


def may_change(visit: Visit) -> bool:
    """As in the API: letters are changed by who may see all tenants'."""
    return visit.may("admin") and visit.caller.tenant is None


async def _task(visit: Visit) -> Task:
    task_id = visit.request.path_params["task_id"]
    try:
        check_id(task_id)
        task = await visit.app.tasks.get(task_id)
    except (PayloadError, TaskNotFound):
        raise Refused(
            404, f"no task {task_id[:200]!r} is known here: results are kept for a limited time"
        ) from None
    bound = visit.caller.tenant
    if bound is not None and await visit.app.tasks.tenants(task_id) - {bound}:
        raise Refused(403, f"task {task_id!r} is not known to be your key's tenant's")
    return task


async def _event(visit: Visit, task: Task, letters: list[Letter]) -> tuple[StoredEvent | None, str]:
    """The event, and who keeps it."""
    found = await visit.app.transport.find(task.topic, task.id)
    if found is not None:
        return read_event(found), "topic"
    for letter in letters:
        where = (letter.position, letter.task_id, letter.buried, letter.event, letter.body)
        return StoredEvent(*where), "letter"
    return None, ""


def _content(event: StoredEvent | None) -> str:
    if event is None:
        return ""
    return _cut(event.body or "") if event.event is None else pretty(event.event.content)


def pretty(value: Any) -> str:
    """A value as JSON that people read."""
    return _cut(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _cut(text: str) -> str:
    if len(text) <= SHOWN_MOST:
        return text
    return f"{text[:SHOWN_MOST]}\n… {len(text) - SHOWN_MOST:,} characters more"


def _known(task: Task, envelope: Envelope | None) -> dict[str, str | None]:
    """What the event says, or its records where it is not kept any more."""
    newest = max(task.runs.values(), key=lambda run: run.finished_at, default=None)
    names = ("tenant_id", "correlation_id", "causation_id", "source")
    return {name: getattr(envelope or newest, name, None) for name in names}


def _part(task: Task, name: str, status: TaskStatus, letter: Letter | None) -> AgentPart:
    run = task.runs.get(name)
    if run is None:
        return AgentPart(name, status, None, [], letter, "")
    latest = Attempt(
        *(run.attempts, run.replays, run.status, run.started_at, run.finished_at, run.cause),
        *(run.retry_at, run.worker, run.crashes),
    )
    attempts = [*run.history, latest]
    result = ""
    if run.status == "succeeded" and bytes(run.result) != b"null":
        result = _cut(msgspec.json.format(bytes(run.result), indent=2).decode())
    return AgentPart(name, status, run, _bars(attempts), letter, result)


def _bars(attempts: list[Attempt]) -> list[Bar]:
    start, end = attempts[0].started_at, attempts[-1].finished_at
    whole = max(end - start, 1e-9)
    found: list[Bar] = []
    for number, run in enumerate(attempts):
        before = attempts[number - 1] if number else None
        found.append(
            Bar(
                run,
                None if before is None else max(0.0, run.started_at - before.finished_at),
                max(0.0, min(99.0, 100 * (run.started_at - start) / whole)),
                max(1.0, min(100.0, 100 * run.seconds / whole)),
            )
        )
    return found


# What is done about it


@task_pages("POST", "/tasks/{task_id}/replay", scope="admin")
async def replay_task(visit: Visit) -> Response:
    """Hands the task's dead letter back to the agent that gave it up."""
    task = await _task(visit)
    agent = visit.form.get("agent", "")
    try:
        await Letters(visit.app).replay_one(task.topic, agent, task.id)
    except TaskNotFound:
        # Somebody was quicker, perhaps in another tab: the task as it is now says most.
        if agent not in states(task.places, task.runs):
            raise
        notice = f"Nothing was done: {agent[:200]} has no dead letter of this task any more."
        return visit.redirect(f"/tasks/{task.id}", notice=notice)
    return visit.redirect(
        f"/tasks/{task.id}", notice=f"Replayed: {agent} has it again; its outcome shows below."
    )


@task_pages("POST", "/tasks/{task_id}/discard", scope="admin")
async def discard_letter(visit: Visit) -> Response:
    """Removes the task's dead letter."""
    task = await _task(visit)
    agent = visit.form.get("agent", "")
    await Letters(visit.app).discard_one(task.topic, agent, task.id)
    notice = f"The dead letter of {agent} is deleted."
    try:
        await visit.app.tasks.get(task.id)
    except TaskNotFound:  # nothing else was known of it
        return visit.redirect("/letters", notice=notice)
    return visit.redirect(f"/tasks/{task.id}", notice=notice)


@task_pages("GET", "/tasks/{task_id}/edit", scope="admin")
async def edit_letter(visit: Visit) -> Response:
    """The form in which a dead letter's content is mended."""
    task = await _task(visit)
    agent = visit.query.get("agent", "")
    letter = await Letters(visit.app).find(task.topic, agent, task.id)
    if letter is None:
        raise Refused(404, f"agent {agent[:200]!r} has no dead letter of this task (any more)")
    if letter.event is None:
        raise Refused(409, "this dead letter is no event that can be mended; it can be replayed")
    content = _whole(letter.event.content)
    if msgspec.json.decode(content) != letter.event.content:
        raise Refused(
            409,
            "this dead letter's content holds what JSON has no form for, as bytes, so that editing "
            "would change it; it can be replayed as it is",
        )
    return _form(visit, task, letter, content)


def _whole(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _form(
    visit: Visit, task: Task, letter: Letter, content: str, error: str = "", status: int = 200
) -> Response:
    rows = min(30, max(8, content.count("\n") + 2))
    return visit.render(
        "task_edit.html",
        status=status,
        task=task,
        letter=letter,
        content=content,
        error=error,
        rows=rows,
    )


@task_pages("POST", "/tasks/{task_id}/edit", scope="admin")
async def replay_edited(visit: Visit) -> Response:
    """Hands the dead letter back with the content that was typed."""
    task = await _task(visit)
    agent, content = visit.form.get("agent", ""), visit.form.get("content", "")
    letters = Letters(visit.app)
    letter = await letters.find(task.topic, agent, task.id)
    try:
        await letters.replay_one(task.topic, agent, task.id, content)
    except PayloadError as error:
        if letter is None:
            raise
        return _form(visit, task, letter, content, str(error), 422)
    notice = f"Replayed with the edited content: {agent} has it again; its outcome shows below."
    return visit.redirect(f"/tasks/{task.id}", notice=notice)
