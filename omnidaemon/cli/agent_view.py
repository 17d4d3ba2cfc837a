"""How agents are shown: as a tree by topic, as a table, one per line, and one in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import click

from omnidaemon.cli.output import (
    STYLES,
    clock,
    many,
    on_terminal,
    plain,
    print_facts,
    print_table,
    print_tree,
    span,
)
from omnidaemon.views import AgentState


def print_agents(agents: Sequence[AgentState], form: str) -> None:
    """Prints the agents in one of FORMATS."""
    FORMATS[form](agents)


def _print_tree(agents: Sequence[AgentState]) -> None:
    width = max(len(agent.name) for agent in agents)
    print_tree(
        [
            (topic, [_branch(agent, width) for agent in found])
            for topic, found in groupby(agents, key=lambda agent: agent.topic)
        ]
    )


def _branch(agent: AgentState, width: int) -> list[tuple[str, str]]:
    """The agent's line in the tree, in pieces with their styles."""
    pieces = [(plain(agent.name).ljust(width), ""), (_state(agent), STYLES[agent.status])]
    group = agent.group
    if group is not None:
        # Nobody will take it up by itself.
        stuck = "yellow" if agent.status != "running" else ""
        for count, what, style in (
            (group.dead, "dead", "bold red"),
            (group.lag, "unread", stuck),
            (group.leased, "in flight", "cyan"),
            (group.waiting, "waiting for a retry", stuck or "yellow"),
        ):
            if count:
                pieces.append((f"{count:,} {what}", style))
        if group.consumers:
            pieces.append((many(group.consumers, "worker"), ""))
    if agent.record is not None and agent.record.description:
        pieces.append((plain(agent.record.description.partition("\n")[0]), "dim"))
    return pieces


def _state(agent: AgentState) -> str:
    return "no worker" if agent.status == "stopped" else agent.status


def _print_table(agents: Sequence[AgentState]) -> None:
    rows = []
    for agent in agents:
        group = agent.group
        counts = (
            (group.consumers, group.lag, group.leased, group.waiting, group.dead)
            if group is not None
            else (0, None, None, None, None)
        )
        rows.append((agent.topic, agent.name, _state(agent), *counts))
    print_table(
        [
            ("topic", "text"),
            ("agent", "text"),
            ("state", "status"),
            ("workers", "number"),
            ("lag", "number"),
            ("in flight", "number"),
            ("waiting", "number"),
            ("dead", "alarm"),
        ],
        rows,
    )


def _print_compact(agents: Sequence[AgentState]) -> None:
    for agent in agents:
        state = _state(agent)
        dead = agent.group.dead if agent.group is not None else 0
        click.echo(
            f"{plain(agent.topic)}/{plain(agent.name)} "
            + (click.style(state, fg=STYLES[agent.status]) if on_terminal() else state)
            + (click.style(f", {dead:,} dead", fg="red", bold=True) if dead else "")
        )


FORMATS: dict[str, Callable[[Sequence[AgentState]], None]] = {
    "tree": _print_tree,
    "table": _print_table,
    "compact": _print_compact,
}


def print_agent(agent: AgentState) -> None:
    """Prints all that is known of one agent."""
    record, group = agent.record, agent.group
    facts: list[tuple[str, object]] = [
        ("agent", agent.name),
        ("topic", agent.topic),
        ("state", _state(agent)),
    ]
    if record is not None:
        facts += [
            ("description", record.description),
            ("tools", ", ".join(record.tools)),
            ("app", record.app),
            ("at a time", f"{record.consumers} in each worker"),
            ("retries", f"{record.retries}{'' if record.dead_letter else ', then dropped'}"),
            ("timeout", None if record.timeout is None else span(record.timeout)),
            ("lease", span(record.lease)),
            ("registered", clock(record.registered_at)),
        ]
    else:
        facts.append(("registered", "no: no worker has written it down since it was cleared"))
    if group is not None:
        facts += [
            ("workers", group.consumers),
            ("last seen", "now" if group.consumers else group.seen and clock(group.seen)),
            ("lag", f"{group.lag:,}"),
            ("in flight", f"{group.leased:,}"),
            ("waiting", f"{group.waiting:,}"),
            ("dead", _dead(agent, group.dead)),
        ]
    else:
        facts.append(("group", "deleted: nothing is kept for it"))
    print_facts(facts)


def _dead(agent: AgentState, dead: int) -> str:
    if not dead:
        return "0"
    return f"{dead:,}; see: omnidaemon bus dlq --topic {agent.topic} --agent {agent.name}"
