"""The HTTP server: routes to the APIs, answers as JSON or as server-sent events."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any

from examples.model_server import chat, gemini, responses, rules
from examples.model_server.conversation import Conversation, Reply

MODEL = "stand-in"


class ModelServer:
    """Serves while it is entered; each request has a thread.

    Args:
        port: The port on 127.0.0.1; 0 takes a free one.
        busy: So many requests, the first ones, are refused with 429 and a Retry-After of 1 second,
            as by a model that is asked too often.
        log: Prints a line for each request.

    Attributes:
        asked: The conversations that came, the oldest first.
    """

    def __init__(self, port: int = 0, *, busy: int = 0, log: bool = False) -> None:
        self.asked: list[Conversation] = []
        self._busy = busy
        self._log = log
        self._lock = threading.Lock()
        server = self

        class Handler(_Handler):
            model_server = server

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """Where it listens; OpenAI's APIs are below it in `/v1`."""
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead agents to it, and keep what they tell others at home."""
        return {
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "OPENAI_API_KEY": MODEL,
            "LLM_API_KEY": MODEL,  # OmniCoreAgent's
            "GOOGLE_GEMINI_BASE_URL": self.url,
            "GOOGLE_API_KEY": MODEL,
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "OPIK_SENTRY_ENABLE": "False",
        }

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def reply(self, api: ModuleType, body: dict[str, Any]) -> Reply | None:
        """The model's answer, or None while it is too busy for one."""
        conversation: Conversation = api.read(body)
        with self._lock:
            self.asked.append(conversation)
            refused = len(self.asked) <= self._busy
        reply = None if refused else rules.reply(conversation)
        if self._log:
            print(f"model: {conversation.asked[:60]!r} -> {_told(reply)}", flush=True)
        return reply


def _told(reply: Reply | None) -> str:
    if reply is None:
        return "too busy"
    if reply.call is None:
        return repr(reply.text[:100])
    return f"{reply.call.name}({json.dumps(reply.call.arguments)})"


class _Handler(BaseHTTPRequestHandler):
    model_server: ModelServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The list of models."""
        if self.path != "/v1/models":
            return self._json(404, {"error": {"message": f"there is no {self.path}"}})
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "examples"}
        return self._json(200, {"object": "list", "data": [model]})

    def do_POST(self) -> None:
        """An answer of the model."""
        text = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        if path == "/v1/chat/completions":
            api: ModuleType = chat
        elif path == "/v1/responses":
            api = responses
        elif path.startswith("/v1beta/models/") and path.endswith("enerateContent"):
            api = gemini
        else:
            return self._json(404, {"error": {"message": f"there is no {path}"}})
        try:
            body = json.loads(text)
            reply = self.model_server.reply(api, body)
        except (KeyError, TypeError, ValueError) as error:
            message = f"the request is not understood: {type(error).__name__}: {error}"
            return self._json(400, {"error": {"message": message, "code": 400}})
        if reply is None:
            refusal = {"message": "too many requests; try again in a second", "code": 429}
            return self._json(429, {"error": refusal}, {"Retry-After": "1"})
        if body.get("stream") or ":stream" in path:
            return self._events(api.stream(reply, body), closing=api is chat)
        return self._json(200, api.write(reply, body))

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _events(self, events: Iterator[tuple[str, Any]], *, closing: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for name, value in events:
            self.wfile.write(f"event: {name}\n".encode() if name else b"")
            self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
            self.wfile.flush()
        if closing:
            self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: Any) -> None:
        """The server has its own words for it."""
