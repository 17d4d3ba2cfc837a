"""Try it: publish an event by hand, and watch what comes of it."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
from msgspec import Struct
from starlette.responses import Response

from omnidaemon.admin.answers import Refused
from omnidaemon.admin.endpoints import READ_SECONDS
from omnidaemon.admin.ui_pages import Pages, Visit
from omnidaemon.agents import MAX_SECONDS
from omnidaemon.envelope import Envelope, check_topic, decode, load, new_id, wire_of
from omnidaemon.errors import DecodeError, PayloadError, TaskNotFound
from omnidaemon.tasks import Task, states

try_it = Pages("Try it", "/try", "try")

_SAMPLE = '{\n  "name": "Ada"\n}'
_FIELDS = ("topic", "content", "tenant", "correlation", "reply_to", "delay")


class Typed(Struct, frozen=True):
    """What stands in the form, as it was typed."""

    topic: str = ""
    content: str = _SAMPLE
    tenant: str = ""
    correlation: str = ""
    reply_to: str = ""
    delay: str = ""


class Outcome(Struct, frozen=True):
    """What one agent made of the event.

    Attributes:
        agent: Its name; empty if nobody has got the event yet.
        status: Where it stands.
        result: What it returned, as indented JSON; None if it has not.
        error: Why it failed.
        seconds: How long its run took.
        attempts: How often it ran.
        retry_at: When it runs again, in Unix time.
    """

    agent: str
    status: str
    result: str | None = None
    error: Any = None
    seconds: float | None = None
    attempts: int = 0
    retry_at: float | None = None


@try_it("GET", "/try", scope="publish", tenants=True)
async def show_form(visit: Visit) -> Response:
    """The form, and what came of what it has sent."""
    task_id = visit.query.get("task", "")
    topic = visit.query.get("topic", "")
    if not task_id:
        return await _page(visit, Typed(topic=topic))
    typed = Typed(topic=topic)
    if visit.fragment is None and visit.may("read"):
        typed = await _sent(visit, topic, task_id) or typed
    return await _page(visit, typed, task_id=task_id)


@try_it("POST", "/try", scope="publish", tenants=True)
async def publish(visit: Visit) -> Response:
    """Publishes what was typed, or says beside each field what is wrong with it."""
    typed = Typed(**{name: visit.form.get(name, "") for name in _FIELDS})
    errors: dict[str, str] = {}
    envelope, delay = _read(visit, typed, errors)
    if not errors:
        try:
            sent = await visit.app.publish(envelope, delay=delay, timeout=READ_SECONDS - 1)
        except PayloadError as error:
            errors["content"] = str(error)
        else:
            return visit.redirect("/try", topic=sent.topic, task=sent.id)
    return await _page(visit, typed, errors=errors, status=422)


def _read(visit: Visit, typed: Typed, errors: dict[str, str]) -> tuple[Envelope, float | None]:
    for name, text in (("topic", typed.topic), ("reply_to", typed.reply_to)):
        if name == "topic" or text.strip():
            try:
                check_topic(text)
            except PayloadError as error:
                errors[name] = "Name a topic." if not text.strip() else str(error)
    content = _content(typed.content, errors)
    delay = _delay(typed.delay, errors)
    tenant = None
    try:
        tenant = visit.tenant(typed.tenant.strip())
    except Refused as refusal:
        errors["tenant"] = str(refusal)
    envelope = Envelope(
        typed.topic.strip(),
        content,
        new_id(),
        tenant_id=tenant,
        correlation_id=typed.correlation.strip() or None,
        reply_to=typed.reply_to.strip() or None,
        source="dashboard",
    )
    return envelope, delay


def _content(text: str, errors: dict[str, str]) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        errors["content"] = (
            'Nothing is there: type a JSON value, as {} or "text".'
            if not text.strip()
            else f"This is not JSON: {error.msg}, at {where}."
        )
    except (ValueError, RecursionError) as error:
        errors["content"] = f"This cannot travel: {error}."
    return None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _delay(text: str, errors: dict[str, str]) -> float | None:
    if not text.strip():
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_SECONDS:
        errors["delay"] = "Give seconds from 0 up to a year, as 30 or 0.5."
        return None
    return seconds


async def _page(
    visit: Visit,
    typed: Typed,
    *,
    task_id: str = "",
    errors: dict[str, str] | None = None,
    status: int = 200,
) -> Response:
    outcomes: list[Outcome] = []
    task = None
    watched = bool(task_id) and visit.may("read")
    if watched:
        task = await _task(visit, task_id, visit.query.get("topic") or None)
        outcomes = _outcomes(task) if task else []
    topics: list[str] = []
    # Which topics there are is not known by tenant.
    if visit.fragment is None and visit.may("read") and visit.caller.tenant is None:
        topics = [topic.name for topic in await visit.fleet.topics()]
    return visit.render(
        "try.html",
        status=status,
        typed=typed,
        errors=errors or {},
        task_id=task_id,
        task=task,
        watched=watched,
        outcomes=outcomes,
        over=task is not None and task.status in ("succeeded", "dead", "cancelled"),
        topics=topics,
        bound=visit.caller.tenant,
    )


async def _task(visit: Visit, task_id: str, topic: str | None) -> Task | None:
    bound = visit.caller.tenant
    if bound is not None and await visit.app.tasks.tenants(task_id) - {bound}:
        raise Refused(403, f"task {task_id!r} is not known to be your key's tenant's")
    try:
        return await visit.app.tasks.get(task_id, topic)
    except TaskNotFound:
        return None


def _outcomes(task: Task) -> list[Outcome]:
    found = []
    for agent, status in sorted(states(task.places, task.runs).items()):
        run = task.runs.get(agent)
        if run is None:
            found.append(Outcome(agent, status))
            continue
        found.append(
            Outcome(
                agent,
                status,
                indented(run.value) if run.status == "succeeded" else None,
                run.cause,
                run.seconds,
                run.attempts,
                run.retry_at,
            )
        )
    return found


def indented(value: Any) -> str:
    """A value as JSON to read."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


async def _sent(visit: Visit, topic: str, task_id: str) -> Typed | None:
    """What was typed for this event, read from the event itself; None if it is kept no more."""
    if not topic:
        return None
    event = await visit.app.transport.find(topic, task_id)
    if event is None:
        return None
    try:
        envelope = decode(event.body)
        content = load(envelope.content, wire_of(event.body))
    except (DecodeError, msgspec.MsgspecError):
        return None
    if visit.caller.tenant not in (None, envelope.tenant_id):
        return None
    return Typed(
        envelope.topic,
        indented(content),
        envelope.tenant_id or "",
        envelope.correlation_id or "",
        envelope.reply_to or "",
    )
