"""The reviewer: gets each verdict as a reply, and writes down what is left to do."""

from __future__ import annotations

from collections import Counter

from examples.content_moderation.reviews import opened, store
from examples.content_moderation.state import State
from examples.content_moderation.values import REVIEWS, Action, Verdict
from omnidaemon import AgentRouter, Context

STATUS: dict[Action, str] = {"allow": "passed", "review": "open", "quarantine": "removed"}

router = AgentRouter()


def summarize(verdict: Verdict) -> str:
    """One line for the person who looks through the table, the worst first."""
    order = ("high", "medium", "low")
    counts = Counter((order.index(f.severity), f.tool, f.category) for f in verdict.findings)
    parts = [
        f"{order[rank]} {tool}/{category}{f' × {count}' if count > 1 else ''}"
        for (rank, tool, category), count in sorted(counts.items())
    ]
    if verdict.second_opinion is not None:
        parts.append(f"model {verdict.second_opinion}")
    return "; ".join(parts) or "nothing found"


@router.agent(REVIEWS, name="reviewer")
def review(verdict: Verdict, ctx: Context) -> dict[str, str]:
    """Stores the review; not async, for SQLite blocks."""
    state: State = ctx.state
    status, summary = STATUS[verdict.action], summarize(verdict)
    with opened(state.settings.database) as db:
        store(db, verdict, status, summary, tenant_id=ctx.tenant_id, source=ctx.source)
    state.counters.reviewed(status)
    return {"event_id": verdict.event_id, "status": status, "summary": summary}
