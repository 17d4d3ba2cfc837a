"""Routing by source: who published an event decides how it is read.

When: several systems report the same kind of fact on one topic, each in its own form.

Promised: `source` goes along with replies, so that later steps know where it came from. Not
promised: that it is true. It is what the publisher wrote; do not grant rights by it.

    omnidaemon worker examples.patterns.routing_by_source:app
    python -m examples.patterns.routing_by_source
"""

from collections.abc import Callable
from typing import Any

import anyio

from omnidaemon import App, Context, Reject, TaskFailed

# --8<-- [start:agent]
app = App("routing-by-source")


def from_web(order: dict[str, Any]) -> dict[str, Any]:
    return {"product": order["sku"], "cents": order["cents"]}


def from_partner(line: str) -> dict[str, Any]:
    """Partners send `lamp;29.50`."""
    product, _, euros = line.partition(";")
    whole, _, rest = euros.partition(".")
    return {"product": product, "cents": int(whole) * 100 + int(f"{rest:0<2.2}")}


READERS: dict[str, Callable[[Any], dict[str, Any]]] = {"web": from_web, "partner": from_partner}


@app.agent("order.received", reply_to="order.accepted")
async def accept(order: Any, ctx: Context) -> dict[str, Any]:
    """Brings each source's form into ours; an unknown source waits as a dead letter.

    When its reader has been added, `omnidaemon bus replay --topic order.received` runs it.
    """
    read = READERS.get(ctx.source or "")
    if read is None:
        raise Reject(f"source {ctx.source!r} is unknown; known are {', '.join(READERS)}")
    return read(order)


@app.agent("order.accepted")
async def book(order: dict[str, Any], ctx: Context) -> str:
    return f"{order['product']} for {order['cents']} cents, by {ctx.source}"


# --8<-- [end:agent]


# --8<-- [start:publish]
async def main() -> None:
    async with app:
        web = {"sku": "lamp", "cents": 2950}
        for source, order in (("web", web), ("partner", "bulb;4.99"), ("fax", "?")):
            try:
                print(await app.request("order.received", order, source=source, timeout=20))
            except TaskFailed as error:
                print(error.causes["accept"])


# --8<-- [end:publish]


if __name__ == "__main__":
    anyio.run(main)
