"""`omnidaemon bus`: topics, the groups that work them off, and dead letters."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import click
import msgspec
from msgspec import Struct

from omnidaemon.app import App
from omnidaemon.cli import backend
from omnidaemon.cli.options import AGENT, LIMIT, TOPIC, json_option
from omnidaemon.cli.output import clock, emit_json, many, print_table
from omnidaemon.envelope import decode, load, wire_of
from omnidaemon.errors import AgentNotFound, DecodeError, TaskNotFound
from omnidaemon.messages import DeadLetter, GroupInfo, TopicInfo
from omnidaemon.records import iso

_ALL_DEAD = 10_000


@click.group(short_help="Look at topics, groups and dead letters; replay.")
def bus() -> None:
    """Look at topics, the groups that work them off, and dead letters."""


@bus.command("list")
@click.option("--groups", "with_groups", is_flag=True, help="A line per group of each topic.")
@json_option
def list_topics(with_groups: bool, as_json: bool) -> None:
    """List the topics: events, groups, delayed events, dead letters."""

    async def command(app: App) -> list[tuple[TopicInfo, list[GroupInfo]]]:
        topics = await app.transport.topics()
        wanted = with_groups or as_json
        return [(t, await app.transport.groups(t.name) if wanted else []) for t in topics]

    found = backend.run(command)
    if as_json:
        emit_json([_topic_json(topic, groups) for topic, groups in found])
    elif not found:
        click.echo("no topics: nothing has been published, and no agent has listened")
    elif with_groups:
        _print_groups(found)
    else:
        print_table(
            [
                ("topic", "text"),
                ("events", "number"),
                ("size", "number"),
                ("groups", "number"),
                ("delayed", "number"),
                ("dead", "number"),
            ],
            [(t.name, t.events, _size(t.size), t.groups, t.delayed, t.dead) for t, _ in found],
        )


def _topic_json(topic: TopicInfo, groups: list[GroupInfo]) -> dict[str, Any]:
    return {
        **{name: getattr(topic, name) for name in topic.__struct_fields__ if name != "groups"},
        "groups": [
            {
                **{name: getattr(group, name) for name in group.__struct_fields__},
                "seen": None if group.seen is None else iso(group.seen),
            }
            for group in groups
        ],
    }


def _print_groups(found: list[tuple[TopicInfo, list[GroupInfo]]]) -> None:
    rows: list[tuple[object, ...]] = []
    for topic, groups in found:
        rows += [
            (
                f"{topic.name}/{group.name}",
                group.lag,
                group.leased,
                group.waiting,
                group.dead,
                group.consumers,
                _seen(group),
            )
            for group in groups
        ] or [(f"{topic.name} (no agent yet)", topic.events, 0, 0, 0, 0, None)]
    print_table(
        [
            ("topic/agent", "text"),
            ("lag", "number"),
            ("running", "number"),
            ("waiting", "number"),
            ("dead", "number"),
            ("workers", "number"),
            ("seen", "text"),
        ],
        rows,
    )


def _seen(group: GroupInfo) -> str | None:
    seen = "now" if group.consumers else None if group.seen is None else clock(group.seen)
    return f"{seen or '-'}, paused" if group.paused else seen


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


class _Reason(Struct, frozen=True):
    """What the worker wrote beside a dead letter."""

    type: str = "unknown"
    message: str = ""
    traceback: str = ""
    attempts: int = 0
    crashes: int = 0
    replays: int = 0
    failed_at: float = 0.0
    worker: str = ""


def _reason(letter: DeadLetter) -> _Reason:
    try:
        return msgspec.json.decode(letter.reason, type=_Reason)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        # Buried by something else than a worker of ours: shown as it is.
        return _Reason(message=letter.reason.decode("utf-8", "backslashreplace"))


@bus.command()
@click.option("--topic", required=True, type=TOPIC, help="The topic that the letters came from.")
@click.option("--agent", type=AGENT, help="Only what this agent gave up.")
@click.option("--limit", type=LIMIT, default=10, show_default=True, help="At most so many.")
@json_option
def dlq(topic: str, agent: str | None, limit: int, as_json: bool) -> None:
    """Show dead letters, the newest first: what agents gave up, and why.

    With --json: also the traceback and the whole event.
    """

    async def command(app: App) -> list[DeadLetter]:
        letters = await app.transport.dead_letters(topic, agent, limit=limit)
        if not letters:
            await _check_known(app, topic, agent)
        return letters

    letters = backend.run(command)
    if as_json:
        emit_json([_letter_json(letter) for letter in letters])
    elif not letters:
        click.echo(f"no dead letters of topic {topic!r}" + (f", agent {agent!r}" if agent else ""))
    else:
        rows = []
        for letter in letters:
            why = _reason(letter)
            rows.append(
                (
                    clock(letter.buried),
                    letter.position,
                    letter.id,
                    letter.group,
                    why.attempts,
                    f"{why.type}: {why.message}",
                )
            )
        print_table(
            [
                ("when", "text"),
                ("nr", "id"),
                ("task", "id"),
                ("agent", "text"),
                ("runs", "number"),
                ("cause", "below"),
            ],
            rows,
        )


def _letter_json(letter: DeadLetter) -> dict[str, Any]:
    try:
        envelope = decode(letter.body)
        content = load(envelope.content, wire_of(letter.body))
        event: object = msgspec.structs.replace(envelope, content=content)
    except (DecodeError, msgspec.MsgspecError):
        event = None
    return {
        "position": letter.position,
        "task_id": letter.id,
        "topic": letter.topic,
        "agent": letter.group,
        "buried_at": iso(letter.buried),
        "cause": _reason(letter),
        "event": event,
        "body": None if event else letter.body.decode("utf-8", "backslashreplace"),
    }


async def _check_known(app: App, topic: str, agent: str | None) -> None:
    """Raises if the name is misspelt: nothing found is another answer than nothing there."""
    topics = [info.name for info in await app.transport.topics()]
    if topic not in topics:
        known = ", ".join(topics[:10]) or "none yet"
        raise AgentNotFound(f"there is no topic {topic!r}; known are: {known}")
    groups = [group.name for group in await app.transport.groups(topic)]
    if agent is not None and agent not in groups:
        known = ", ".join(groups[:10]) or "none yet"
        raise AgentNotFound(f"topic {topic!r} has no agent {agent!r}; known are: {known}")


@bus.command()
@click.option("--topic", required=True, type=TOPIC, help="The topic that the letters came from.")
@click.option(
    "--id", "ids", multiple=True, metavar="ID", help="Only this task id or nr; may be repeated."
)
@click.option("--agent", type=AGENT, help="Only what this agent gave up.")
@json_option
def replay(topic: str, ids: tuple[str, ...], agent: str | None, as_json: bool) -> None:
    """Hand dead letters back to the agents that gave them up: all, or those named."""

    async def command(app: App) -> int:
        if not ids:
            count = await app.transport.replay(topic, agent)
            if not count:
                await _check_known(app, topic, agent)
            return count
        await _check_known(app, topic, agent)
        letters = await app.transport.dead_letters(topic, agent, limit=_ALL_DEAD)
        named = {name for letter in letters for name in (letter.id, letter.position)}
        if missing := [name for name in ids if name not in named]:
            raise TaskNotFound(
                f"no dead letter {', '.join(map(repr, missing))} of topic {topic!r}; nothing is "
                f"replayed. See: omnidaemon bus dlq --topic {topic}"
            )
        # By group: a position is known within a group, and need not be so beyond.
        chosen: defaultdict[str, list[str]] = defaultdict(list)
        for letter in letters:
            if letter.id in ids or letter.position in ids:
                chosen[letter.group].append(letter.position)
        return sum([await app.transport.replay(topic, g, at) for g, at in chosen.items()])

    count = backend.run(command)
    if as_json:
        emit_json({"topic": topic, "replayed": count})
    else:
        click.echo(f"replayed {many(count, 'dead letter')} of topic {topic!r}")
