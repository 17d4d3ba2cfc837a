"""`/tasks`: publish events, and see what became of them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from omnidaemon.admin.answers import (
    Published,
    Refused,
    RunAnswer,
    TaskAnswer,
    TaskDeleted,
    TreeAnswer,
    run_answer,
    task_answer,
    tree_answer,
)
from omnidaemon.admin.endpoints import READ_SECONDS, Ask, Name, OptionalName, Section, Tenant
from omnidaemon.envelope import Envelope, new_id
from omnidaemon.errors import TaskNotFound
from omnidaemon.lineage import Lineage

tasks = Section("tasks")

_PAYLOAD = frozenset({"content", "webhook", "reply_to", "correlation_id"})
_TOPIC = r"^\s*(?!topic\s*$|omni\.)[A-Za-z0-9][A-Za-z0-9._:-]{0,199}\s*$"
NewTopic = Annotated[str, Meta(pattern=_TOPIC)]


class TaskBody(Struct, frozen=True, forbid_unknown_fields=True):
    """An event to publish.

    A payload that is an object with `content`, and beside it only `webhook`, `reply_to` and
    `correlation_id`, is taken apart; any other payload is the content itself.
    """

    topic: NewTopic
    payload: Any
    id: Name | None = None
    created_at: Annotated[float, Meta(ge=0, le=1e11)] | None = None
    tenant_id: Tenant | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    source: str | None = None
    delivery_attempts: Annotated[float, Meta(ge=1)] = 1  # taken and left: it is counted anew
    headers: dict[str, str] = {}


class _Payload(Struct, frozen=True):
    """A payload that was taken apart."""

    content: Any
    webhook: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None


class TasksQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which runs."""

    topic: OptionalName | None = None
    tenant_id: Tenant | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


@tasks("POST", "/tasks", scope="publish", tenants=True)
async def publish_task(ask: Ask, body: TaskBody) -> Published:
    """Publishes an event; it is stored when this answers."""
    payload = _taken_apart(body.payload)
    correlation_id = body.correlation_id
    if payload.correlation_id is not None:
        if correlation_id not in (None, payload.correlation_id):
            raise Refused(422, "body: correlation_id stands in it twice, with two values")
        correlation_id = payload.correlation_id
    tenant_id = ask.tenant(body.tenant_id)
    if body.id is not None:
        await _check_owner(ask, body.id)
    envelope = Envelope(
        body.topic,
        payload.content,
        body.id or new_id(),
        tenant_id=tenant_id,
        correlation_id=correlation_id,
        causation_id=body.causation_id,
        source=body.source,
        reply_to=payload.reply_to,
        webhook=payload.webhook,
        headers=body.headers,
    )
    if body.created_at is not None:
        envelope = msgspec.structs.replace(envelope, created_at=body.created_at)
    handle = await ask.app.publish(envelope, timeout=READ_SECONDS - 1)
    return Published(handle.id, handle.topic)


@tasks("POST", "/publish-tasks", scope="publish", tenants=True)
async def publish_tasks(ask: Ask, body: TaskBody) -> Published:
    """The same as `POST /tasks`, under its older name."""
    return await publish_task(ask, body)


def _taken_apart(payload: Any) -> _Payload:
    if not isinstance(payload, dict) or "content" not in payload or payload.keys() - _PAYLOAD:
        return _Payload(payload)
    try:
        return msgspec.convert(payload, _Payload)
    except msgspec.ValidationError as error:
        raise Refused(422, f"body, in payload: {error}") from None


@tasks("GET", "/tasks", scope="read", tenants=True)
async def list_tasks(ask: Ask, query: TasksQuery) -> list[RunAnswer]:
    """The newest runs, one per task and agent, newest first.

    A task that no agent has finished a run of is not among them: ask for it by its id.
    """
    tenant_id = ask.tenant(query.tenant_id)
    found = await ask.app.tasks.newest(query.topic or None, query.limit, tenant_id=tenant_id)
    return [run_answer(run) for run in found]


@tasks("GET", "/tasks/{task_id}", scope="read", tenants=True, errors=(404,))
async def get_task(ask: Ask, task_id: Name) -> TaskAnswer:
    """A task: its status, and what each agent made of it."""
    await _check_owner(ask, task_id)
    return task_answer(await ask.app.tasks.get(task_id))


@tasks("GET", "/tasks/{task_id}/tree", scope="read", tenants=True, errors=(404,))
async def get_tree(ask: Ask, task_id: Name) -> TreeAnswer:
    """What caused a task and what it caused, by causation id.

    Tasks that have not run yet are found among the newest events of their topics.
    """
    await _check_owner(ask, task_id)
    tree = await Lineage(ask.app).tree(task_id, tenant_id=ask.caller.tenant)
    return tree_answer(tree)


@tasks("DELETE", "/tasks/{task_id}", scope="admin", tenants=True, errors=(404,))
async def delete_task(ask: Ask, task_id: Name) -> TaskDeleted:
    """Removes a task's records; its event, if it still waits, is delivered all the same."""
    await _check_owner(ask, task_id)
    count = await ask.app.tasks.remove(task_id)
    if not count:
        raise TaskNotFound(f"task {task_id!r} has no records: nothing was removed")
    return TaskDeleted("deleted", task_id, count)


async def _check_owner(ask: Ask, task_id: str) -> None:
    """Refuses what a key that is bound to a tenant asks about another's task."""
    bound = ask.caller.tenant
    if bound is not None and await ask.app.tasks.tenants(task_id) - {bound}:
        raise Refused(403, f"task {task_id!r} is not known to be this key's tenant's")
