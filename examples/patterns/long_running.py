"""Long work with a webhook: nobody waits; the outcome is posted to whoever asked.

When: the work takes minutes or hours, and the one who wants it is another service.

Promised: the lease is renewed while the agent runs, however long it takes, so nobody else begins
the same work; if the worker dies, another one begins it again, from the start. The outcome is
posted at least once: a receiver recognises a repeat by its `webhook-id`. Not promised: progress
that survives a crash; cut very long work into events of its own.

    OMNIDAEMON_WEBHOOK_ALLOW=127.0.0.1 omnidaemon worker examples.patterns.long_running:app
    python -m examples.patterns.long_running

The setting lets the worker post to this machine, which it refuses otherwise. A receiver on a
network checks the signature too: examples/webhook.py.
"""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer

import anyio
import anyio.to_thread

from omnidaemon import App

# --8<-- [start:agent]
app = App("long-running")


@app.agent("primes.wanted", consumers=2)
def count_primes(below: int) -> dict[str, int]:
    """Counts prime numbers; not async, so it runs in a thread and blocks nobody."""
    sieve = bytearray([1]) * max(below, 2)
    sieve[:2] = b"\0\0"
    for n in range(2, int(below**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, len(sieve), n)))
    return {"below": below, "primes": sum(sieve)}


# --8<-- [end:agent]


# --8<-- [start:publish]
class Receiver(BaseHTTPRequestHandler):
    """What another service would have: it keeps each outcome once."""

    outcomes: dict[str, dict[str, object]]

    def do_POST(self) -> None:
        """Answers 204, which ends the delivery; any other answer has it tried again."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.outcomes.setdefault(self.headers["webhook-id"], body)
        self.send_response(204)
        self.end_headers()


async def main(below: int = 10_000_000) -> None:
    outcomes: dict[str, dict[str, object]] = {}
    receiver = type("Receiver", (Receiver,), {"outcomes": outcomes})
    with HTTPServer(("127.0.0.1", 0), receiver) as server:
        hook = f"http://127.0.0.1:{server.server_port}/primes"
        async with app:
            task = await app.send("primes.wanted", below, webhook=hook)
            print(f"{task.id} is published; waiting for the post to {hook}")
        while not outcomes:
            await anyio.to_thread.run_sync(server.handle_request)
    for outcome in outcomes.values():
        print(f"{outcome['status']}: {outcome['result']}")


# --8<-- [end:publish]


if __name__ == "__main__":
    anyio.run(main)
