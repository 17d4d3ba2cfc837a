"""`omnidaemon agent`: who listens to which topic; pausing, resuming and deleting agents."""

from __future__ import annotations

from typing import Any

import click

from omnidaemon.app import App
from omnidaemon.cli import backend
from omnidaemon.cli.agent_view import FORMATS, print_agent, print_agents
from omnidaemon.cli.options import AGENT, TOPIC, confirm, json_option, yes_option
from omnidaemon.cli.output import emit_json, many
from omnidaemon.fleet import Fleet
from omnidaemon.views import AgentState, Cleanup

topic_option = click.option("--topic", required=True, type=TOPIC, help="What it listens to.")
name_option = click.option("--name", required=True, type=AGENT, help="The agent's name.")


@click.group(short_help="List, pause, resume and delete agents.")
def agent() -> None:
    """Look at agents, and pause, resume or delete them, wherever they run."""


@agent.command("list")
@click.option("--topic", type=TOPIC, help="Only this topic's.")
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    default="tree",
    show_default=True,
    help="How they are shown.",
)
@json_option
def list_agents(topic: str | None, form: str, as_json: bool) -> None:
    """List all agents: their state, and what waits, runs and is dead.

    In every form an agent is paused, has no worker (none serves it), or is running.
    """

    async def command(app: App) -> list[AgentState]:
        return await Fleet(app).agents(topic)

    found = backend.run(command)
    if as_json:
        emit_json([state.public() for state in found])
    elif not found:
        click.echo("no agents: none has been run yet" + (f" on topic {topic!r}" if topic else ""))
    else:
        print_agents(found, form)


@agent.command()
@topic_option
@name_option
@json_option
def get(topic: str, name: str, as_json: bool) -> None:
    """Show one agent: how it was registered, and how far it is."""

    async def command(app: App) -> AgentState:
        return await Fleet(app).agent(topic, name)

    found = backend.run(command)
    if as_json:
        emit_json(found.public())
    else:
        print_agent(found)


@agent.command()
@topic_option
@name_option
@json_option
def unsubscribe(topic: str, name: str, as_json: bool) -> None:
    """Pause an agent: it gets nothing more, wherever it runs, and its events queue."""

    async def command(app: App) -> None:
        await Fleet(app).pause(topic, name)

    backend.run(command)
    if as_json:
        emit_json({"status": "unsubscribed", "topic": topic, "agent": name})
    else:
        click.echo(
            f"agent {name!r} of topic {topic!r} is paused, and its events queue; to go on: "
            f"omnidaemon agent resume --topic {topic} --name {name}"
        )


@agent.command()
@topic_option
@name_option
@json_option
def resume(topic: str, name: str, as_json: bool) -> None:
    """Let a paused agent go on with what has queued."""

    async def command(app: App) -> AgentState:
        fleet = Fleet(app)
        await fleet.resume(topic, name)
        return await fleet.agent(topic, name)

    found = backend.run(command)
    if as_json:
        emit_json({"status": "resumed", "topic": topic, "agent": name})
        return
    who = f"agent {name!r} of topic {topic!r}"
    if found.group is not None and not found.group.consumers:
        click.echo(f"{who} is not paused any more, but no worker runs it now")
    else:
        click.echo(f"{who} goes on")


@agent.command()
@topic_option
@name_option
@click.option("--delete-dlq", is_flag=True, help="Its dead letters too.")
@click.option("--no-cleanup", is_flag=True, help="Keep its group and what waits in it.")
@yes_option
@json_option
def delete(
    topic: str, name: str, delete_dlq: bool, no_cleanup: bool, yes: bool, as_json: bool
) -> None:
    """Delete an agent: its record, and its group with the events that wait in it.

    Dead letters stay unless --delete-dlq is given. A worker that runs the agent goes on with its
    other agents; started again, it makes the agent again. With --no-cleanup only the record goes,
    and a worker that runs the agent writes it again.
    """

    def what() -> str:
        state = backend.run(lambda app: Fleet(app).agent(topic, name))
        return _deletion(state, delete_dlq, no_cleanup)

    confirm(what, yes)

    async def command(app: App) -> Cleanup:
        return await Fleet(app).delete_agent(
            topic, name, group=not no_cleanup, dead_letters=delete_dlq
        )

    done = backend.run(command)
    if as_json:
        emit_json({"status": "deleted", "topic": topic, "agent": name, "cleanup": _cleanup(done)})
    else:
        click.echo(f"agent {name!r} of topic {topic!r} is deleted: {_removed(done)}")


def _deletion(state: AgentState, delete_dlq: bool, no_cleanup: bool) -> str:
    """What will happen, with the numbers that make a person think again."""
    parts = [f"delete agent {state.name!r} of topic {state.topic!r}"]
    group = state.group
    if group is not None and not no_cleanup:
        waiting = group.lag + group.leased + group.waiting
        parts.append(f"and its group, with {many(waiting, 'event')} not done yet")
    if group is not None and delete_dlq:
        parts.append(f"and {many(group.dead, 'dead letter')}")
    return " ".join(parts)


def _cleanup(done: Cleanup) -> dict[str, bool]:
    return {
        "storage_deleted": done.storage_deleted,
        "consumer_group_deleted": done.group_deleted,
        "dlq_deleted": done.dlq_deleted,
    }


def _removed(done: Cleanup) -> str:
    parts = [
        ("its record", done.storage_deleted),
        ("its group with what waited in it", done.group_deleted),
        ("its dead letters", done.dlq_deleted),
    ]
    return ", ".join(part for part, gone in parts if gone) or "nothing was left of it"


@agent.command("delete-topic")
@click.option("--topic", required=True, type=TOPIC, help="The topic.")
@yes_option
@json_option
def delete_topic(topic: str, yes: bool, as_json: bool) -> None:
    """Delete a topic with its events, agents and dead letters."""

    def what() -> str:
        agents = backend.run(lambda app: Fleet(app).agents(topic))
        waiting = sum(a.group.lag + a.group.leased + a.group.waiting for a in agents if a.group)
        dead = sum(a.group.dead for a in agents if a.group)
        return (
            f"delete topic {topic!r}, {many(len(agents), 'agent')}, {many(waiting, 'event')} not "
            f"done yet and {many(dead, 'dead letter')}"
        )

    confirm(what, yes)
    done = backend.run(lambda app: Fleet(app).delete_topic(topic))
    if as_json:
        emit_json({"status": "deleted", "topic": topic, "agents": [_named(one) for one in done]})
    else:
        names = ", ".join(one.agent for one in done) or "none"
        click.echo(f"topic {topic!r} is deleted; its agents were: {names}")


def _named(done: Cleanup) -> dict[str, Any]:
    return {"agent": done.agent, "cleanup": _cleanup(done)}
