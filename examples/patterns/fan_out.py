"""Fan-out: several agents of different names get every event of a topic, each for its own purpose.

When: one fact concerns several parts of a system, which shall not know each other. A new part is a
new agent; the publisher stays as it is.

Not promised: an order among the agents, or that all succeed. Each has its own retries, result and
dead letters; one that fails does not hold the others up.

    omnidaemon worker examples.patterns.fan_out:app
    python -m examples.patterns.fan_out
"""

import anyio
from msgspec import Struct

from omnidaemon import App

# --8<-- [start:agent]
app = App("fan-out")


class Line(Struct):
    shelf: str
    product: str
    cents: int
    count: int = 1


class Order(Struct):
    id: str
    lines: list[Line]


@app.agent("order.placed")
async def invoice(order: Order) -> dict[str, object]:
    """Works out what is to be paid."""
    return {"order": order.id, "cents": sum(line.cents * line.count for line in order.lines)}


@app.agent("order.placed")
async def picking(order: Order) -> list[str]:
    """Lists what to fetch, in the order of the shelves."""
    lines = sorted(order.lines, key=lambda line: line.shelf)
    return [f"{line.shelf}: {line.count} × {line.product}" for line in lines]


@app.agent("order.placed")
async def loyalty(order: Order) -> int:
    """Counts the points, one for each full euro of a line."""
    return sum(line.cents * line.count // 100 for line in order.lines)


# --8<-- [end:agent]


# --8<-- [start:publish]
async def main() -> None:
    order = Order("A1", [Line("C3", "lamp", 2950), Line("A7", "bulb", 499, count=3)])
    async with app:
        task = await app.send("order.placed", order)
        for agent in ("invoice", "picking", "loyalty"):
            print(f"{agent}: {await task.result(agent, timeout=20)}")


# --8<-- [end:publish]


if __name__ == "__main__":
    anyio.run(main)
