"""Load balancing against parallel, by name: same name shares the events, another name gets all.

When: always, for the name of an agent is the choice between the two. Workers that run the same
agent (this file in several terminals, or `--processes 3`) share its events; `consumers` says how
many runs each process has at a time.

Promised: within one name, one consumer at a time holds an event. Not promised: equal shares (who is
free takes the next), or an order among events that run at the same time.

    omnidaemon worker examples.patterns.load_balancing:app     # and again in a second terminal
    python -m examples.patterns.load_balancing
"""

import hashlib
import zlib
from collections import Counter

import anyio

from omnidaemon import App, Context

# --8<-- [start:agent]
app = App("load-balancing")


@app.agent("file.stored", name="digest", consumers=2)
def digest(name: str, ctx: Context) -> str:
    """Computes: in each process two at a time, and as many processes as you start."""
    return hashlib.pbkdf2_hmac("sha256", name.encode(), b"salt", 20_000).hex()[:12]


@app.agent("file.stored", name="checksum")
async def checksum(name: str) -> int:
    """Another name: every event comes here as well, whatever `digest` does with it."""
    return zlib.crc32(name.encode())


# --8<-- [end:agent]


# --8<-- [start:publish]
async def main() -> None:
    async with app:
        tasks = await app.send_many([("file.stored", f"photo-{n}.jpg") for n in range(16)])
        shares: dict[str, Counter[str]] = {"digest": Counter(), "checksum": Counter()}
        for task in tasks:
            for agent in shares:
                await task.result(agent, timeout=30)
            for agent, record in (await task.results()).items():
                shares[agent][record.worker] += 1
    for agent, by_worker in shares.items():
        parts = ", ".join(f"{count} by {worker}" for worker, count in by_worker.items())
        print(f"{agent}: {by_worker.total()} of 16 files ({parts})")


# --8<-- [end:publish]


if __name__ == "__main__":
    anyio.run(main)
