"""`/health`, `/livez`, `/readyz` and `/metrics`: how the whole is doing, and what it has done."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.responses import Response

from omnidaemon.admin.answers import AgentNumbers, Alive, HealthAnswer, Instead, json_answer
from omnidaemon.admin.endpoints import Ask, OptionalName, Section, Tenant

health = Section("health")

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_FAMILIES = (
    ("tasks_processed", "counter", "Runs that succeeded."),
    ("tasks_failed", "counter", "Runs that failed, each attempt."),
    ("tasks_received", "gauge", "Runs that have ended, and those in progress."),
    ("avg_processing_time_sec", "gauge", "Mean seconds per run."),
)


class MetricsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose counters."""

    topic: OptionalName | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    tenant_id: Tenant | None = None


@health("GET", "/health", scope="read", others={503: HealthAnswer})
async def get_health(ask: Ask) -> HealthAnswer:
    """Which workers live, and whether the backends answer; with 503 if they do not."""
    found = await ask.fleet.health()
    answer = msgspec.convert(found.public(), HealthAnswer)
    if found.errors:
        raise Instead(json_answer(answer, 503))
    return answer


@health("GET", "/livez", scope=None, tenants=True)
async def livez(ask: Ask) -> Alive:  # noqa: ARG001  all endpoints take it
    """This process answers; says nothing of the backends."""
    return Alive("alive")


@health("GET", "/readyz", scope=None, tenants=True)
async def readyz(ask: Ask) -> Alive:
    """The backends answer, so requests can be served."""
    await ask.app.transport.check()
    await ask.app.store.check()
    return Alive("ready")


@health("GET", "/metrics", scope="read", tenants=True, others={"text/plain": str})
async def get_metrics(ask: Ask, query: MetricsQuery) -> dict[str, dict[str, AgentNumbers]]:
    """What agents have done, by topic and agent; for Prometheus with `Accept: text/plain`.

    Of one tenant's tasks, those that have ended alone: what runs is known per agent only.
    """
    if "text/plain" in ask.request.headers.get("accept", ""):
        await prometheus(ask, query)
    found = await _counted(ask, query)
    return msgspec.convert(found, dict[str, dict[str, AgentNumbers]])


@health("GET", "/metrics/prometheus", scope="read", tenants=True, others={"text/plain": str})
async def prometheus(ask: Ask, query: MetricsQuery) -> str:
    """The same for Prometheus."""
    raise Instead(Response(_exposition(await _counted(ask, query)), media_type=_PROMETHEUS))


async def _counted(ask: Ask, query: MetricsQuery) -> dict[str, dict[str, dict[str, float]]]:
    return await ask.fleet.metrics(
        query.topic or None, limit=query.limit, tenant_id=ask.tenant(query.tenant_id)
    )


def _exposition(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The text format; names of topics and agents hold nothing that it would escape."""
    lines = []
    for name, kind, text in _FAMILIES:
        family = f"omnidaemon_{name}{'_total' if kind == 'counter' else ''}"
        lines += [f"# HELP {family} {text}", f"# TYPE {family} {kind}"]
        lines += [
            f'{family}{{topic="{topic}",agent="{agent}"}} {numbers[name]}'
            for topic, agents in found.items()
            for agent, numbers in agents.items()
        ]
    return "\n".join([*lines, ""])
