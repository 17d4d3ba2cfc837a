"""Conditional routing: an agent looks at the content and decides where it goes on.

When: most events take the short way, and some need a second look.

Promised: the correlation id, tenant and source go along. Not promised: that the next topic gets the
event once. `ctx.send` publishes at once, and if this run is repeated (its worker was killed before
the settlement) it publishes again, so the agents that follow must bear a repeat; here the order's
id tells them. Where there is one way only, `reply_to` publishes once.

    omnidaemon worker examples.patterns.conditional_routing:app
    python -m examples.patterns.conditional_routing
"""

import anyio
from msgspec import Struct

from omnidaemon import App, Context

# --8<-- [start:agent]
app = App("conditional-routing")


class Claim(Struct):
    id: str
    euros: float
    receipts: int


def way_of(claim: Claim) -> str:
    """The topic that a claim goes on to; a plain function, so its rules are tested alone."""
    if claim.receipts == 0:
        return "claim.incomplete"
    return "claim.doubtful" if claim.euros > 500 else "claim.approved"


@app.agent("claim.filed")
async def route(claim: Claim, ctx: Context) -> str:
    """Sends the claim on, and says where to."""
    way = way_of(claim)
    await ctx.send(way, claim)
    return way


@app.agent("claim.approved")
async def pay(claim: Claim) -> str:
    return f"{claim.id}: {claim.euros:.2f} EUR are paid"


@app.agent("claim.doubtful")
async def examine(claim: Claim) -> str:
    return f"{claim.id}: somebody looks at {claim.receipts} receipts"


@app.agent("claim.incomplete")
async def ask_back(claim: Claim) -> str:
    return f"{claim.id}: please send the receipts"


# --8<-- [end:agent]


# --8<-- [start:publish]
async def main() -> None:
    claims = [Claim("C1", 42, 1), Claim("C2", 1200, 3), Claim("C3", 80, 0)]
    async with app:
        for claim in claims:
            print(f"{claim.id} -> {await app.request('claim.filed', claim, timeout=20)}")


# --8<-- [end:publish]


if __name__ == "__main__":
    anyio.run(main)
