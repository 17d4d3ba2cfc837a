"""Multi-tenant filter: one topic for all customers, agents that look whose event it is.

When: tenants share the agents and differ in settings, or one tenant has an agent more.

Promised: `tenant_id` goes along with replies, with `ctx.send`, and into the results, which can be
listed by tenant. Not promised: isolation. Every agent of the topic is handed every tenant's events,
and an agent that passes one over has still been given it. Where tenants must not see each other,
give each a topic, a prefix or a broker of its own; API keys can be bound to a tenant.

    omnidaemon worker examples.patterns.multi_tenant:app
    python -m examples.patterns.multi_tenant
"""

import anyio
from msgspec import Struct

from omnidaemon import App, Context, Reject

# --8<-- [start:agent]
app = App("multi-tenant")


class Plan(Struct, frozen=True):
    greeting: str
    longest: int


PLANS = {"acme": Plan("Dear colleague", 40), "globex": Plan("Hi", 16)}


@app.agent("message.written")
async def format_message(text: str, ctx: Context) -> str:
    """Serves every tenant, by its own settings; without a known tenant nothing is guessed."""
    plan = PLANS.get(ctx.tenant_id or "")
    if plan is None:
        raise Reject(f"there is no plan for tenant {ctx.tenant_id!r}")
    return f"{plan.greeting}, {text}"[: plan.longest]


@app.agent("message.written")
async def archive_for_acme(text: str, ctx: Context) -> dict[str, object] | None:
    """Serves one tenant; for the others it succeeds with nothing, and so replies nothing."""
    if ctx.tenant_id != "acme":
        return None
    return {"archived": ctx.id, "characters": len(text)}


# --8<-- [end:agent]


# --8<-- [start:publish]
async def main() -> None:
    async with app:
        for tenant in ("acme", "globex"):
            task = await app.send("message.written", "the lift is broken", tenant_id=tenant)
            for agent in ("format_message", "archive_for_acme"):
                print(f"{tenant}, {agent}: {await task.result(agent, timeout=20)}")
        records = await app.tasks.newest("message.written", tenant_id="globex")
        print(f"globex has {len(records)} results, all its own")


# --8<-- [end:publish]


if __name__ == "__main__":
    anyio.run(main)
