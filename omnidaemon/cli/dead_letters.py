"""`omnidaemon bus dlq`, `replay` and `dlq-delete`: what agents gave up, and what becomes of it."""

from __future__ import annotations

import sys

import click

from omnidaemon.app import App
from omnidaemon.cli import backend
from omnidaemon.cli.options import AGENT, LIMIT, TOPIC, confirm, json_option, yes_option
from omnidaemon.cli.output import clock, emit_json, many, print_table
from omnidaemon.fleet import Fleet
from omnidaemon.letters import Letters

topic_option = click.option(
    "--topic", required=True, type=TOPIC, help="The topic that the letters came from."
)
agent_option = click.option("--agent", type=AGENT, help="Only what this agent gave up.")
ids_option = click.option(
    "--id", "ids", multiple=True, metavar="ID", help="Only this task id or nr; may be repeated."
)


@click.command()
@topic_option
@agent_option
@click.option("--limit", type=LIMIT, default=10, show_default=True, help="At most so many.")
@json_option
def dlq(topic: str, agent: str | None, limit: int, as_json: bool) -> None:
    """Show dead letters, the newest first: what agents gave up, and why.

    With --json: also the traceback and the whole event.
    """
    letters = backend.run(lambda app: Fleet(app).dead_letters(topic, agent, limit=limit))
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


@click.command()
@topic_option
@ids_option
@agent_option
@click.option(
    "--content",
    metavar="JSON",
    help="Mend the one that --id names: its new content; - reads standard input.",
)
@json_option
def replay(
    topic: str, ids: tuple[str, ...], agent: str | None, content: str | None, as_json: bool
) -> None:
    """Hand dead letters back to the agents that gave them up: all, or those named."""
    if content is not None and len(ids) != 1:
        raise click.UsageError("--content mends one dead letter: name its task by one --id")
    text = sys.stdin.buffer.read() if content == "-" else content

    async def hand_back(app: App) -> int:
        if text is None:
            return await Fleet(app).replay(topic, ids or None, agent)
        await Letters(app).replay_one(topic, agent, ids[0], text)
        return 1

    count = backend.run(hand_back)
    if as_json:
        emit_json({"topic": topic, "replayed": count})
    else:
        click.echo(f"replayed {many(count, 'dead letter')} of topic {topic!r}")


@click.command("dlq-delete")
@topic_option
@ids_option
@click.option("--all", "everything", is_flag=True, help="All of them, or all of --agent.")
@agent_option
@yes_option
@json_option
def dlq_delete(
    topic: str,
    ids: tuple[str, ...],
    everything: bool,
    agent: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete dead letters for good: those named by --id, or --all."""
    if bool(ids) == everything:
        raise click.UsageError("say which: --id ID, as often as needed, or --all")

    def what() -> str:
        count = len(set(ids))
        if everything:
            groups = backend.run(lambda app: Fleet(app).groups(topic))
            count = sum(group.dead for group in groups if agent in (None, group.name))
        whose = f" of agent {agent!r}" if agent else ""
        return f"delete {many(count, 'dead letter')} of topic {topic!r}{whose} for good"

    confirm(what, yes)
    count = backend.run(lambda app: Fleet(app).discard(topic, ids or None, agent))
    if as_json:
        emit_json({"topic": topic, "deleted": count})
    else:
        click.echo(f"deleted {many(count, 'dead letter')} of topic {topic!r}")
