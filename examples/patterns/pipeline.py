"""Pipeline by reply_to: the result of one agent is the event of the next.

When: work has steps that shall be retried, scaled and replaced one by one. Each agent names the
topic of its results and knows nobody there.

Promised: a result and the event it becomes are written in the one step that settles the run, so a
step that is run twice goes on once. Not promised: that documents keep their order on the way. A
step's result is an event, so it is bound by its size (1 MB): pass on where large data lies.

    omnidaemon worker examples.patterns.pipeline:app
    python -m examples.patterns.pipeline
"""

import csv
import io

import anyio

from omnidaemon import App, Reject

SALES = "region,amount\nnorth,120.50\nsouth,80\nnorth,9.50\n"

# --8<-- [start:agent]
app = App("pipeline")


@app.agent("sales.received", reply_to="sales.parsed")
async def parse(text: str) -> list[dict[str, str]]:
    """Reads CSV; what has no such columns is a dead letter at once, a repetition would not help."""
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or not {"region", "amount"} <= rows[0].keys():
        raise Reject("the columns `region` and `amount` are needed")
    return rows


@app.agent("sales.parsed", reply_to="sales.summed")
async def add_up(rows: list[dict[str, str]]) -> dict[str, float]:
    """Adds the amounts up by region."""
    totals: dict[str, float] = {}
    for row in rows:
        totals[row["region"]] = totals.get(row["region"], 0.0) + float(row["amount"])
    return totals


@app.agent("sales.summed")
async def report(totals: dict[str, float]) -> str:
    """Writes it down for people, the largest first."""
    ranked = sorted(totals.items(), key=lambda pair: pair[1], reverse=True)
    return ", ".join(f"{region} {amount:.2f}" for region, amount in ranked)


# --8<-- [end:agent]


# --8<-- [start:publish]
async def main() -> None:
    async with app:
        first = await app.send("sales.received", SALES)
        with anyio.fail_after(20):
            # All that follows from an event carries its id as the correlation id.
            while True:
                records = await app.tasks.newest("sales.summed")
                found = [run.value for run in records if run.correlation_id == first.id]
                if found:
                    break
                await anyio.sleep(0.1)
        print(f"report: {found[0]}")


# --8<-- [end:publish]


if __name__ == "__main__":
    anyio.run(main)
