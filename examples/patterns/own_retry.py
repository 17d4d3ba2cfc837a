"""Retry with own logic: the agent says when to come again, when not to, and what costs a try.

When: what fails knows more than a schedule does. A server names its own time (`Retry-After`), a
missing page will not appear by asking again, a rate limit is nobody's fault.

Promised: waits lie with the event, not in the agent, and outlast restarts. Not promised: an end to
uncharged retries; they take none of the agent's, so bound them by something else, as here by age.

    omnidaemon worker examples.patterns.own_retry:app
    python -m examples.patterns.own_retry
"""

import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import ClassVar

import anyio
import httpx

from omnidaemon import App, Backoff, Envelope, Reject, Retry, TaskFailed

# --8<-- [start:agent]
app = App("own-retry")

TOO_OLD = 3600.0


@app.agent("page.wanted", retries=6, backoff=Backoff(initial=0.5, factor=3, maximum=120))
async def fetch(url: str, event: Envelope) -> dict[str, object]:
    """Fetches a page; errors of the network are raised as they are, and retried by the backoff."""
    async with httpx.AsyncClient(timeout=20) as client:
        answer = await client.get(url)
    if answer.status_code == 429:
        if time.time() - event.created_at > TOO_OLD:
            raise Reject(f"still refused for its rate after {TOO_OLD:.0f} s")
        wait = answer.headers.get("Retry-After", "")
        # It may also be a date, RFC 9110; then the backoff decides.
        seconds = float(wait) if wait.isdecimal() else None
        raise Retry("asked to slow down", delay=seconds, charged=False)
    if 400 <= answer.status_code < 500:
        raise Reject(f"answered {answer.status_code}, and will again")
    answer.raise_for_status()
    return {"status": answer.status_code, "bytes": len(answer.content)}


# --8<-- [end:agent]


class Moody(BaseHTTPRequestHandler):
    """A server that is down at first, then busy, then well; /gone is never there."""

    answers: ClassVar = [503, 429]

    def do_GET(self) -> None:
        """Answers as its mood is."""
        found = 404 if self.path == "/gone" else self.answers.pop(0) if self.answers else 200
        self.send_response(found)
        self.send_header("Retry-After", "1")
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")


# --8<-- [start:publish]
async def main() -> None:
    with HTTPServer(("127.0.0.1", 0), Moody) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        async with app:
            print(await app.request("page.wanted", f"{here}/page", timeout=20))
            try:
                await app.request("page.wanted", f"{here}/gone", timeout=20)
            except TaskFailed as error:
                print(error.causes["fetch"])
        server.shutdown()


# --8<-- [end:publish]


if __name__ == "__main__":
    anyio.run(main)
