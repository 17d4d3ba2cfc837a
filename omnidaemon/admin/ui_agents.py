"""Agents: what listens to which topic and how far it is; paused, resumed and deleted from here."""

from __future__ import annotations

import anyio
from msgspec import Struct
from starlette.responses import Response

from omnidaemon.admin.ui_pages import Pages, Visit, once_for_all
from omnidaemon.admin.ui_rates import Counted, Rates
from omnidaemon.messages import GroupInfo
from omnidaemon.records import AgentMetrics, AgentRecord
from omnidaemon.views import AgentState

agents = Pages("Agents", "/agents", "agents")

MOST_ROWS = 500
_RUNS = 20
_LOOKED = 200
"""Runs of a topic looked at for those of one of its agents."""


class Row(Struct, frozen=True):
    """An agent, its group, its counters; what is not known of it is as if there were none."""

    state: AgentState
    metrics: AgentMetrics
    rates: Counted

    @property
    def record(self) -> AgentRecord:
        """As it was registered."""
        return self.state.record or AgentRecord(self.state.topic, self.state.name)

    @property
    def group(self) -> GroupInfo:
        """How far it is."""
        topic, name = self.state.topic, self.state.name
        return self.state.group or GroupInfo(topic, name, 0, 0, 0, 0, 0, 0.0, False, None)

    @property
    def error_rate(self) -> float:
        """The share of its runs that failed, 0 to 1."""
        runs = self.metrics.processed + self.metrics.failed
        return self.metrics.failed / runs if runs else 0.0

    @property
    def path(self) -> str:
        """Its page."""
        return path_of(self.state.topic, self.state.name)


def path_of(topic: str, name: str) -> str:
    """The page of an agent."""
    return f"/agents/{topic}/{name}"


@agents("GET", "/agents", scope="read")
async def show_agents(visit: Visit) -> Response:
    """All agents, or those of a topic."""
    rows = await _rows(visit)
    topics = sorted({row.state.topic for row in rows})
    topic = visit.query.get("topic", "")
    wanted = visit.query.get("q", "").strip().lower()
    chosen = [
        row
        for row in rows
        if topic in ("", row.state.topic)
        and (wanted in f"{row.state.topic}/{row.state.name}".lower())
    ]
    return visit.render(
        "agents.html",
        rows=chosen[:MOST_ROWS],
        count=len(chosen),
        all=len(rows),
        topics=topics,
        topic=topic,
        wanted=visit.query.get("q", ""),
    )


@agents("GET", "/agents/{topic}/{name}", scope="read")
async def show_agent(visit: Visit) -> Response:
    """One agent, with what it did last."""
    topic, name = _named(visit)
    row = await _row(visit, topic, name)
    found = await visit.app.tasks.index.newest(topic, limit=_LOOKED)
    runs = [run for run in found.runs if run.agent == name][:_RUNS]
    return visit.render("agent.html", row=row, runs=runs, looked=found.looked)


@agents("POST", "/agents/{topic}/{name}/pause", scope="admin")
async def pause_agent(visit: Visit) -> Response:
    """Pauses it, wherever it runs."""
    topic, name = _named(visit)
    await visit.fleet.pause(topic, name)
    _forget(visit)
    return visit.back(path_of(topic, name), notice=f"{name} is paused; its events queue.")


@agents("POST", "/agents/{topic}/{name}/resume", scope="admin")
async def resume_agent(visit: Visit) -> Response:
    """Lets it go on."""
    topic, name = _named(visit)
    await visit.fleet.resume(topic, name)
    _forget(visit)
    return visit.back(path_of(topic, name), notice=f"{name} goes on, with what has queued.")


@agents("GET", "/agents/{topic}/{name}/delete", scope="admin")
async def ask_to_delete(visit: Visit) -> Response:
    """Says what would be deleted."""
    return visit.render("agent_delete.html", row=await _row(visit, *_named(visit)))


@agents("POST", "/agents/{topic}/{name}/delete", scope="admin", seconds=30.0)
async def delete_agent(visit: Visit) -> Response:
    """Deletes it, once its name has been typed."""
    topic, name = _named(visit)
    if visit.form.get("confirm", "").strip() != name:
        row = await _row(visit, topic, name)
        error = f"Type {name} to say that you mean it."
        return visit.render("agent_delete.html", status=422, row=row, error=error)
    letters = "letters" in visit.form
    await visit.fleet.delete_agent(topic, name, group="group" in visit.form, dead_letters=letters)
    _forget(visit)
    return visit.redirect("/agents", notice=f"{name} on {topic} is deleted.")


def _named(visit: Visit) -> tuple[str, str]:
    return visit.request.path_params["topic"], visit.request.path_params["name"]


async def _rows(visit: Visit) -> list[Row]:
    rates: Rates = visit.shared["rates"]

    async def look() -> list[Row]:
        states: list[AgentState] = []

        async def at_agents() -> None:
            states.extend(await visit.fleet.agents())

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(at_agents)
                group.start_soon(rates.sample)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # either says what is the matter
        return [_joined(state, rates) for state in states]

    return await once_for_all(visit, "agents", 1.0, look)


async def _row(visit: Visit, topic: str, name: str) -> Row:
    for row in await _rows(visit):
        if (row.state.topic, row.state.name) == (topic, name):
            return row
    # Internal ones are in no list; what is not known at all says so here.
    return _joined(await visit.fleet.agent(topic, name), visit.shared["rates"])


def _joined(state: AgentState, rates: Rates) -> Row:
    key = (state.topic, state.name)
    metrics = rates.latest.get(key, AgentMetrics())
    return Row(state, metrics, rates.per_second().get(key, Counted()))


def _forget(visit: Visit) -> None:
    """What has just been changed shall be seen on the page that comes next."""
    for name in ("agents", "glance"):
        visit.shared.pop(name, None)
