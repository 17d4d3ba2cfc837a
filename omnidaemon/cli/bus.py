"""`omnidaemon bus`: topics, the groups that work them off, and dead letters."""

from __future__ import annotations

import click

from omnidaemon.app import App
from omnidaemon.cli import backend
from omnidaemon.cli.bus_view import forgotten_text, print_groups
from omnidaemon.cli.dead_letters import dlq, dlq_delete, replay
from omnidaemon.cli.options import LIMIT, TOPIC, json_option
from omnidaemon.cli.output import clock, compact, emit_json, print_facts, print_table, size_text
from omnidaemon.fleet import Fleet
from omnidaemon.health import is_forgotten
from omnidaemon.messages import GroupInfo, TopicInfo
from omnidaemon.views import StoredEvent, TopicStats, group_public

_SHOWN_LETTERS = 400


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
        emit_json([TopicStats(topic, groups).public() for topic, groups in found])
    elif not found:
        click.echo("no topics: nothing has been published, and no agent has listened")
    elif with_groups:
        print_groups(_lines(found), "topic/agent")
    else:
        print_table(
            [
                ("topic", "text"),
                ("events", "number"),
                ("size", "number"),
                ("groups", "number"),
                ("delayed", "number"),
                ("dead", "alarm"),
            ],
            [(t.name, t.events, size_text(t.size), t.groups, t.delayed, t.dead) for t, _ in found],
        )


def _lines(found: list[tuple[TopicInfo, list[GroupInfo]]]) -> list[tuple[str, GroupInfo | None]]:
    lines: list[tuple[str, GroupInfo | None]] = []
    for topic, groups in found:
        lines += [(f"{topic.name}/{group.name}", group) for group in groups]
        if not groups:
            lines.append((f"{topic.name} (no agent yet)", None))
    return lines


stream_option = click.option(
    "--stream", "--topic", "topic", required=True, type=TOPIC, help="The topic."
)


@bus.command()
@stream_option
@click.option("--limit", type=LIMIT, default=10, show_default=True, help="At most so many.")
@click.option(
    "--delayed", is_flag=True, help="Those whose delay is not over, by when they are due."
)
@json_option
def inspect(topic: str, limit: int, delayed: bool, as_json: bool) -> None:
    """Show the newest events of a topic, newest first.

    With --json: the whole envelopes.
    """
    events = backend.run(lambda app: Fleet(app).events(topic, limit=limit, delayed=delayed))
    if as_json:
        emit_json([event.public() for event in events])
    elif not events:
        click.echo(f"topic {topic!r} holds no {'delayed ' if delayed else ''}events")
    else:
        print_table(
            [
                ("due" if delayed else "stored", "text"),
                ("nr", "id"),
                ("task", "id"),
                ("tenant", "text"),
                ("content", "below"),
            ],
            [
                (
                    clock(event.due or event.stored),
                    event.position,
                    event.task_id,
                    event.event and event.event.tenant_id,
                    _content(event),
                )
                for event in events
            ],
        )


def _content(event: StoredEvent) -> str:
    if event.event is None:
        return f"(no event: {event.body!r:.200})"
    return compact(event.event.content, _SHOWN_LETTERS)


@bus.command()
@stream_option
@json_option
def groups(topic: str, as_json: bool) -> None:
    """Show how far each agent of a topic is.

    A group that no worker has served for a day keeps the events of its topic: it is named, with the
    command that deletes it.
    """
    found = backend.run(lambda app: Fleet(app).groups(topic))
    if as_json:
        emit_json([group_public(group) for group in found])
    elif not found:
        click.echo(f"no agent has listened to topic {topic!r} yet; its events wait for one")
    else:
        print_groups([(group.name, group) for group in found], "agent")
        for group in found:
            if is_forgotten(group):
                click.echo(f"\n{forgotten_text(group)}")


@bus.command()
@json_option
def stats(as_json: bool) -> None:
    """Sum up: events, groups, what waits, runs and is dead, and memory."""
    found = backend.run(lambda app: Fleet(app).stats())
    if as_json:
        emit_json(found.public())
        return
    print_facts(
        [
            ("topics", len(found.topics)),
            ("events kept", f"{found.events:,}, {size_text(found.size)}"),
            ("delayed", f"{found.delayed:,}"),
            ("groups", sum(len(topic.groups) for topic in found.topics)),
            ("lag", f"{found.lag:,}, not handed to an agent yet"),
            ("pending", f"{found.pending:,}, in flight or waiting for a retry"),
            ("dead letters", f"{found.dead:,}"),
        ]
    )
    if found.topics:
        click.echo()
        print_table(
            [
                ("topic", "text"),
                ("events", "number"),
                ("size", "number"),
                ("groups", "number"),
                ("lag", "number"),
                ("pending", "number"),
                ("delayed", "number"),
                ("dead", "alarm"),
            ],
            [
                (
                    topic.info.name,
                    topic.info.events,
                    size_text(topic.info.size),
                    len(topic.groups),
                    sum(group.lag for group in topic.groups),
                    sum(group.leased + group.waiting for group in topic.groups),
                    topic.info.delayed,
                    topic.info.dead,
                )
                for topic in found.topics
            ],
        )


for _command in (dlq, replay, dlq_delete):
    bus.add_command(_command)
