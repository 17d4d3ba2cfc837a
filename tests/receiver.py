"""A receiver of webhooks: an HTTP server on a free port whose answers a test decides."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

SECONDS = 60.0  # machines that run tests are shared, and stand still at times


class Received(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """An answer; `body` may go on for ever, and `hang` sends nothing at all."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Iterator[bytes] = b""
    hang: bool = False


class Receiver:
    """Runs while it is entered.

    Args:
        answer: Gives the reply to the request with that number, from 1.
        tls: Makes it speak TLS.
        host: The address that it listens on.
    """

    def __init__(
        self,
        answer: Callable[[int], Reply] = lambda _: Reply(),
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.requests: list[Received] = []
        self.closing = threading.Event()
        self.sent = 0
        self._answer = answer
        self._changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._handle(self)

            def do_GET(self) -> None:
                receiver._handle(self)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 100
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, *_: Any) -> None:
                """A client that went away is what some tests are about."""

        self._server = Server((host, 0), Handler)
        self.port = self._server.server_port
        self.url = f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{self.port}"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self, count: int = 1, seconds: float = SECONDS) -> list[Received]:
        """Waits until so many requests have come, in a thread that may wait."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, seconds), (
                f"{len(self.requests)} of {count} requests came within {seconds} s"
            )
            return list(self.requests)

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        with self._changed:
            headers = {name.lower(): value for name, value in handler.headers.items()}
            self.requests.append(Received(handler.command, handler.path, headers, body))
            reply = self._answer(len(self.requests))
            self._changed.notify_all()
        handler.close_connection = True
        if reply.hang:
            self.closing.wait()
            return
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        for chunk in [reply.body] if isinstance(reply.body, bytes) else reply.body:
            handler.wfile.write(chunk)
            self.sent += len(chunk)
