"""A task that takes its time, and a receiver for its outcome.

`python -m examples.webhook` listens; `omnidaemon worker examples.webhook:app` runs the agent.
"""

import base64
import hmac
import os
import sys
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

import anyio

from omnidaemon import App

app = App("reports")


@app.agent("report.wanted")
async def report(order: dict[str, float]) -> dict[str, int]:
    """Writes a report; it may take hours."""
    await anyio.sleep(order.get("seconds", 5))
    return {"pages": 12}


def verified(headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    """Whether it comes from one who knows the secret, and is not older than five minutes."""
    sent = headers["webhook-timestamp"]
    if abs(time.time() - int(sent)) > 300:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = f"{headers['webhook-id']}.{sent}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(key, text, "sha256"))
    signatures = headers["webhook-signature"].encode().split()
    return any(hmac.compare_digest(expected, signature) for signature in signatures)


class Receiver(BaseHTTPRequestHandler):
    """Prints the outcomes that are ours."""

    def do_POST(self) -> None:
        """Answers 204, or 401 if the signature is not right."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        ours = verified(headers, body, os.environ["OMNIDAEMON_WEBHOOK_SECRET"])
        self.send_response(204 if ours else 401)
        self.end_headers()
        print(body.decode() if ours else "refused", flush=True)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    server = HTTPServer(("127.0.0.1", port), Receiver)
    print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
