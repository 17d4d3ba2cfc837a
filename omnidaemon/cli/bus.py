"""`omnidaemon bus`: topics, the groups that work them off, and dead letters."""

from __future__ import annotations

from typing import Any

import click

from omnidaemon.app import App
from omnidaemon.cli import backend
from omnidaemon.cli.options import AGENT, LIMIT, TOPIC, json_option
from omnidaemon.cli.output import clock, emit_json, many, print_table
from omnidaemon.fleet import Fleet
from omnidaemon.messages import GroupInfo, TopicInfo
from omnidaemon.views import Letter, TopicStats


@click.group(short_help="Look at topics, groups and dead letters; replay.")
def bus() -> None:
    """Look at topics, the groups that work them off, and dead letters."""


@bus.command("list")
@click.option("--groups", "with_groups", is_flag=True, help="A line per group of each topic.")
@json_option
def list_topics(with_groups: bool, as_json: bool) -> None:
    """List the topics: events, groups, delayed events, dead letters."""

    async def command(app: App) -> list[tuple[TopicInfo, list[GroupInfo]]]:
        topics = await Fleet(app).topics()
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
    return TopicStats(topic, groups).public()


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


@bus.command()
@click.option("--topic", required=True, type=TOPIC, help="The topic that the letters came from.")
@click.option("--agent", type=AGENT, help="Only what this agent gave up.")
@click.option("--limit", type=LIMIT, default=10, show_default=True, help="At most so many.")
@json_option
def dlq(topic: str, agent: str | None, limit: int, as_json: bool) -> None:
    """Show dead letters, the newest first: what agents gave up, and why.

    With --json: also the traceback and the whole event.
    """

    async def command(app: App) -> list[Letter]:
        return await Fleet(app).dead_letters(topic, agent, limit=limit)

    letters = backend.run(command)
    if as_json:
        emit_json([letter.public() for letter in letters])
    elif not letters:
        click.echo(f"no dead letters of topic {topic!r}" + (f", agent {agent!r}" if agent else ""))
    else:
        rows = [
            (
                clock(letter.buried),
                letter.position,
                letter.task_id,
                letter.agent,
                letter.cause.attempts,
                f"{letter.cause.type}: {letter.cause.message}",
            )
            for letter in letters
        ]
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
        return await Fleet(app).replay(topic, ids or None, agent)

    count = backend.run(command)
    if as_json:
        emit_json({"topic": topic, "replayed": count})
    else:
        click.echo(f"replayed {many(count, 'dead letter')} of topic {topic!r}")
