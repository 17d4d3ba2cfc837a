"""`omnidaemon task`: publish, and see what came of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from omnidaemon.app import App
from omnidaemon.cli import backend
from omnidaemon.cli.options import (
    LIMIT,
    TOPIC,
    Seconds,
    confirm,
    json_option,
    no_constant,
    yes_option,
)
from omnidaemon.cli.output import (
    clock,
    compact,
    emit_json,
    many,
    plain,
    print_facts,
    print_table,
    span,
)
from omnidaemon.envelope import check_name
from omnidaemon.errors import PayloadError, ResultTimeout
from omnidaemon.records import RunRecord
from omnidaemon.tasks import Task, states
from omnidaemon.views import run_public, task_public

_PAYLOAD_KEYS = {"content", "reply_to", "correlation_id", "webhook"}
_WAIT_SECONDS = 60.0
_YEAR = 366 * 86_400.0


@click.group(short_help="Publish tasks and see what became of them.")
def task() -> None:
    """Publish tasks and see what became of them."""


class _Payload(Struct, frozen=True):
    """What is published: the content, and what came along with it."""

    content: Any
    reply_to: str | None = None
    correlation_id: str | None = None
    webhook: str | None = None


@task.command()
@click.option("--topic", required=True, type=TOPIC, help="Where to.")
@click.option("--payload", metavar="JSON", help="The content as JSON; - reads standard input.")
@click.option("--payload-file", metavar="FILE", help="The content as JSON, from a file.")
@click.option("--content", metavar="TEXT", help="The content as text, taken as it is.")
@click.option("--reply-to", type=TOPIC, help="The topic to which results are published.")
@click.option("--webhook", metavar="URL", help="Where each agent's outcome is posted.")
@click.option("--tenant-id", help="Whose event it is.")
@click.option("--correlation-id", help="What it belongs to.")
@click.option("--causation-id", help="The id of the event that caused it.")
@click.option("--source", help="Who publishes it.")
@click.option("--id", "task_id", help="The event's id; a new one by default.")
@click.option("--delay", type=Seconds(_YEAR), help="Deliver it after so many seconds.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it as JSON.")
@click.option(
    "--timeout", type=Seconds(_YEAR), help="Seconds to wait: 60 after the delay by default."
)
@json_option
def publish(
    topic: str,
    payload: str | None,
    payload_file: str | None,
    content: str | None,
    task_id: str | None,
    wait: bool,
    timeout: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Publish an event, and print its task id.

    A payload that is an object with `content`, and beside it only `reply_to`, `webhook` and
    `correlation_id`, is taken apart; anything else is the content itself.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait")
    read = _payload(payload, payload_file, content)
    for name in ("reply_to", "webhook", "correlation_id"):
        _merge(options, name, getattr(read, name))
    if timeout is None:
        timeout = _WAIT_SECONDS + (options["delay"] or 0.0)

    async def command(app: App) -> None:
        handle = await app.send(topic, read.content, id=task_id, **options)
        if not wait:
            if as_json:
                emit_json({"task_id": handle.id, "topic": handle.topic, "status": "pending"})
            else:
                click.echo(handle.id)
            return
        # Not on stdout, where the result alone is wanted; said first, in case nobody answers.
        click.echo(f"task {handle.id} is published, waiting for its result", err=True)
        try:
            run = await app.tasks.result(handle.id, handle.topic, timeout=timeout)
        except ResultTimeout as error:
            raise ResultTimeout(f"{error}; with: omnidaemon task result {handle.id}") from error
        emit_json(run_public(run) if as_json else run.value)

    backend.run(command)


def _merge(options: dict[str, Any], name: str, value: str | None) -> None:
    option = f"--{name.replace('_', '-')}"
    if value is not None and options[name] not in (None, value):
        raise click.UsageError(f"{option} {options[name]!r}, but the payload says {value!r}")
    options[name] = options[name] if value is None else value


def _payload(payload: str | None, file: str | None, text: str | None) -> _Payload:
    given = [option for option in (payload, file, text) if option is not None]
    if len(given) != 1:
        raise click.UsageError("give one of --payload, --payload-file and --content")
    if text is not None:
        return _Payload(text)
    value = _json(payload, file)
    if not isinstance(value, dict) or "content" not in value or value.keys() - _PAYLOAD_KEYS:
        return _Payload(value)
    fields = {name: value.get(name) for name in ("reply_to", "correlation_id", "webhook")}
    for name, text in fields.items():
        if not isinstance(text, str | None):
            raise click.UsageError(f"the payload's {name} is not text: {compact(text, 60)}")
    return _Payload(value["content"], **fields)


def _json(payload: str | None, file: str | None) -> Any:
    if file is not None:
        where, read = file, Path(file).read_bytes
    elif payload == "-":
        where, read = "standard input", sys.stdin.buffer.read
    else:
        return _decoded(payload or "", "--payload")
    try:
        text = read().decode("utf-8-sig")
    except OSError as error:
        raise click.UsageError(f"{where} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{where} is not UTF-8 text, at byte {error.start}") from error
    return _decoded(text, where)


def _decoded(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        line = text.splitlines()[error.lineno - 1] if text.strip() else ""
        start = max(0, error.colno - 40)
        shown = plain(line[start : start + 70]) if line else "(nothing)"
        raise click.UsageError(
            f"{where} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}\n"
            f"  {shown}\n  {' ' * (error.colno - 1 - start)}^"
        ) from error
    except RecursionError as error:
        raise click.UsageError(f"{where} is nested too deeply") from error
    except ValueError as error:  # a constant refused below, or digits beyond Python's limit
        raise click.UsageError(f"{where} is not usable: {error}") from error


@task.command()
@click.argument("task_id", metavar="[ID]", required=False)
@click.option("--task-id", "option_id", metavar="ID", help="The same as an option.")
@json_option
def result(task_id: str | None, option_id: str | None, as_json: bool) -> None:
    """Show a task: its status, and what each agent made of it."""
    wanted = _one_id(task_id, option_id)

    found = backend.run(lambda app: app.tasks.get(wanted))
    if as_json:
        emit_json(task_public(found))
    else:
        _print_task(found)


def _one_id(argument: str | None, option: str | None) -> str:
    if (argument is None) == (option is None):
        raise click.UsageError("give the task's id, once")
    try:
        return check_name(argument or option, "event id")
    except PayloadError as error:
        raise click.UsageError(str(error)) from error


def _print_task(found: Task) -> None:
    print_facts([("task", found.id), ("topic", found.topic), ("status", found.status)])
    for name, status in sorted(states(found.places, found.runs).items()):
        click.echo(f"\nagent {plain(name) if name else '(nobody has listened yet)'}")
        run = found.runs.get(name)
        if run is None:
            print_facts([("status", status)], indent="  ")
            continue
        facts: list[tuple[str, object]] = [
            ("status", status),
            ("runs", _runs(run)),
            ("last run", f"{clock(run.started_at)}, {span(run.seconds)}, on {run.worker}"),
        ]
        if run.cause is not None:
            facts.append(("error", f"{run.cause.type}: {run.cause.message}"))
        if run.retry_at is not None:
            facts.append(("next run", clock(run.retry_at)))
        if run.status == "succeeded":
            facts.append(("result", compact(run.value)))
        print_facts(facts, indent="  ")


def _runs(run: RunRecord) -> str:
    return f"{run.attempts}, replayed {run.replays}×" if run.replays else str(run.attempts)


@task.command("list")
@click.option("--topic", type=TOPIC, help="Only this topic's.")
@click.option("--limit", type=LIMIT, default=20, show_default=True, help="At most so many.")
@click.option("--tenant-id", help="Only this tenant's.")
@json_option
def list_tasks(topic: str | None, limit: int, tenant_id: str | None, as_json: bool) -> None:
    """List the newest runs, one line per task and agent.

    A task that no agent has finished a run of yet is not in it: see `bus list --groups`.
    """
    runs = backend.run(lambda app: app.tasks.newest(topic, limit, tenant_id=tenant_id))
    if as_json:
        emit_json([run_public(run) for run in runs])
        return
    if not runs:
        click.echo("no runs are recorded" + (f" for topic {topic!r}" if topic else ""))
        return
    print_table(
        [
            ("task", "id"),
            ("finished", "text"),
            ("status", "status"),
            ("runs", "number"),
            ("took", "number"),
            ("agent", "below"),
            ("result", "below"),
        ],
        [
            (
                run.task_id,
                clock(run.finished_at),
                run.status,
                run.attempts,
                span(run.seconds),
                f"{run.topic}/{run.agent}",
                f"{run.cause.type}: {run.cause.message}" if run.cause else compact(run.value),
            )
            for run in runs
        ],
    )


@task.command()
@click.argument("task_id", metavar="[ID]", required=False)
@click.option("--task-id", "option_id", metavar="ID", help="The same as an option.")
@yes_option
@json_option
def delete(task_id: str | None, option_id: str | None, yes: bool, as_json: bool) -> None:
    """Delete what is recorded of a task: its results and errors.

    An event that waits is still run, and what runs goes on; its outcome is recorded then.
    """
    wanted = _one_id(task_id, option_id)
    confirm(f"delete the results of task {wanted!r}", yes)

    async def command(app: App) -> int:
        removed = await app.tasks.remove(wanted)
        if not removed:
            await app.tasks.get(wanted)  # raises if there is no such task at all
        return removed

    removed = backend.run(command)
    if as_json:
        emit_json({"task_id": wanted, "deleted": removed})
    else:
        click.echo(f"deleted {many(removed, 'result')} of task {wanted}")
