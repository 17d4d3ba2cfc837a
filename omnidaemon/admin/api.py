"""Admin: the ASGI app that puts the guard before the endpoints; to serve, or to mount."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Literal

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from omnidaemon.admin.answers import Refused, problem
from omnidaemon.admin.auth import Guard, Keys
from omnidaemon.admin.endpoints import Ask, Endpoint, Section, hang_up
from omnidaemon.admin.events import Feed, events
from omnidaemon.admin.openapi import document
from omnidaemon.admin.routes_agents import agents
from omnidaemon.admin.routes_bus import bus
from omnidaemon.admin.routes_health import health
from omnidaemon.admin.routes_storage import storage
from omnidaemon.admin.routes_tasks import tasks
from omnidaemon.admin.ui import Dashboard
from omnidaemon.app import App
from omnidaemon.errors import ConfigurationError
from omnidaemon.fleet import Fleet

_OWN = Section("about")


@_OWN("GET", "/openapi.json", scope=None, tenants=True)
async def openapi(ask: Ask) -> dict[str, Any]:
    """This document."""
    request = ask.request
    admin: Admin = request.scope["omnidaemon.admin"]
    return document(ENDPOINTS, keys=bool(admin.keys), server=request.scope.get("root_path", ""))


ENDPOINTS: tuple[Endpoint, ...] = tuple(
    endpoint
    for section in (agents, tasks, events, health, bus, storage, _OWN)
    for endpoint in section.endpoints
)


class Admin:
    """The admin API of an app, as an ASGI app: `api.mount("/omni", Admin(app))`.

    It reads from the app's store and transport, and so serves all of its workers. Its dashboard is
    at `/ui`.

    Args:
        app: Whose backends are looked at.
        auth: "none" lets everybody in who can reach it under a local host name, and must be
            written out; by default API keys are asked for.
        keys: Entries as in OMNIDAEMON_API_KEYS; None takes the settings'.
        hosts: Host names that are answered without keys, besides localhost, 127.0.0.1 and [::1];
            None takes the settings' OMNIDAEMON_API_HOSTS.

    Raises:
        ConfigurationError: There are no keys, and `auth` does not say that none are wanted.
        InvalidSettings: A key's entry is not usable.
    """

    def __init__(
        self,
        app: App,
        *,
        auth: Literal["keys", "none"] = "keys",
        keys: Sequence[str] | None = None,
        hosts: Sequence[str] | None = None,
    ) -> None:
        if auth not in ("keys", "none"):
            raise ConfigurationError(f'auth={auth!r} is not usable: give "keys" or "none"')
        self.app = app
        self.keys = Keys(app.settings.api_keys if keys is None else keys)
        if not self.keys and auth != "none":
            raise ConfigurationError(
                "the admin API would let everybody in: set OMNIDAEMON_API_KEYS=key:scope (scopes "
                'read, publish, admin), or write Admin(app, auth="none")'
            )
        if self.keys and auth == "none":
            raise ConfigurationError(
                'auth="none", but there are API keys: leave one of them out, or give keys=()'
            )
        self._guard = Guard(self.keys, app.settings.api_hosts if hosts is None else hosts)
        self._fleet = Fleet(app)

    @cached_property
    def _feed(self) -> Feed:
        return Feed(self.app.store)

    @cached_property
    def _dashboard(self) -> Dashboard:
        return Dashboard(self.app, self._fleet, self.keys, self._guard, self._feed)

    @cached_property
    def _routes(self) -> ASGIApp:
        app = Starlette(
            routes=[
                Route(path, self._serving(by_method), methods=list(by_method))
                for path, by_method in _by_path().items()
            ],
            exception_handlers={HTTPException: _http_problem},
            lifespan=self._sampling,
        )
        app.router.redirect_slashes = False
        return app

    @asynccontextmanager
    async def _sampling(self, _: Starlette) -> AsyncIterator[None]:
        """Where this app is served by itself, and not mounted, the plot has no gaps."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._dashboard.rates.keep_sampling)
            yield
            group.cancel_scope.cancel()

    def _serving(self, by_method: dict[str, Endpoint]) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            # What is asked for by HEAD is what GET answers; the server leaves its body out.
            endpoint = by_method["GET" if request.method == "HEAD" else request.method]
            caller = request.scope["omnidaemon.caller"]
            return await endpoint.respond(Ask(self.app, self._fleet, caller, request))

        return serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection, as ASGI says."""
        if scope["type"] == "http":
            request = HTTPConnection(scope)
            if _is_page(scope):
                await self._dashboard(scope, receive, send)
                return
            try:
                caller = self._guard.check(request, scope["method"])
            except Refused as refusal:
                headers = {**(refusal.headers or {}), **hang_up(request)}
                answer = problem(refusal.status, str(refusal), headers)
                await answer(scope, receive, send)
                return
            scope = {
                **scope,
                "omnidaemon.caller": caller,
                "omnidaemon.admin": self,
                "omnidaemon.feed": self._feed,
            }
        await self._routes(scope, receive, send)


def _is_page(scope: Scope) -> bool:
    """Whether this is the dashboard's: its sessions open nothing else, and keys open none of it."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path == "/ui" or path.startswith("/ui/")


def _by_path() -> dict[str, dict[str, Endpoint]]:
    """Together, so that a method which a path does not take is answered with those that it does."""
    found: dict[str, dict[str, Endpoint]] = {}
    for endpoint in ENDPOINTS:
        found.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    # A name before a parameter in its place: `/agents/topic/...` before `/agents/{topic}/...`.
    return dict(sorted(found.items(), key=lambda item: [p[:1] == "{" for p in item[0].split("/")]))


async def _http_problem(request: Request, error: Exception) -> Response:
    """What Starlette finds wrong: a path that is not there, a method that it does not take."""
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code == 404:
        detail = f"there is no {request.url.path!r}: see /openapi.json"
    return problem(error.status_code, detail, dict(error.headers or {}))
