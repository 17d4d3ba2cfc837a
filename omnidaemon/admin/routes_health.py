"""`/health`, `/livez`, `/readyz` and `/metrics`: how the whole is doing, and what it has done."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.responses import Response

from omnidaemon.admin.answers import AgentNumbers, Alive, HealthAnswer, Instead, json_answer
from omnidaemon.admin.endpoints import Ask, OptionalName, Section, Tenant
from omnidaemon.exposition import MOST_AGENTS, fleet_families, registry, rendered

health = Section("health")

_EXPOSITIONS = ("text/plain", "application/openmetrics-text")


class MetricsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose counters."""

    topic: OptionalName | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    tenant_id: Tenant | None = None


class ExpositionQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The same; at most `limit` agents have series of their own, and the rest share theirs."""

    topic: OptionalName | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = MOST_AGENTS
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


@health("GET", "/metrics", scope="read", tenants=True, others=dict.fromkeys(_EXPOSITIONS, str))
async def get_metrics(ask: Ask, query: MetricsQuery) -> dict[str, dict[str, AgentNumbers]]:
    """What agents have done, by topic and agent; for Prometheus with `Accept: text/plain`.

    Of one tenant's tasks, those that have ended alone: what runs is known per agent only.
    """
    if any(kind in ask.request.headers.get("accept", "") for kind in _EXPOSITIONS):
        await _exposed(ask, query.topic, min(query.limit, MOST_AGENTS), query.tenant_id)
    found = await ask.fleet.metrics(
        query.topic or None, limit=query.limit, tenant_id=ask.tenant(query.tenant_id)
    )
    return msgspec.convert(found, dict[str, dict[str, AgentNumbers]])


@health(
    "GET",
    "/metrics/prometheus",
    scope="read",
    tenants=True,
    others=dict.fromkeys(_EXPOSITIONS, str),
)
async def prometheus(ask: Ask, query: ExpositionQuery) -> str:
    """The same for Prometheus, and how far agents are; OpenMetrics if that is accepted."""
    return await _exposed(ask, query.topic, query.limit, query.tenant_id)


async def _exposed(ask: Ask, topic: str | None, most: int, tenant_id: str | None) -> str:
    numbers = await ask.fleet.numbers(topic or None, tenant_id=ask.tenant(tenant_id))
    found = registry(lambda: fleet_families(numbers, most))
    text, media_type = rendered(found, ask.request.headers.get("accept", ""))
    raise Instead(Response(text, headers={"Content-Type": media_type}))
