"""The dashboard at `/ui`: who may see a page, what browsers are told, and which pages there are."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import anyio
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from omnidaemon.admin.answers import Refused, status_of
from omnidaemon.admin.auth import Guard, Keys, check_origin
from omnidaemon.admin.endpoints import BODY_SECONDS, within
from omnidaemon.admin.events import Feed
from omnidaemon.admin.ui_agents import agents
from omnidaemon.admin.ui_drawing import NOTICE, THEME, THEMES, Drawing, address, base_of, is_ours
from omnidaemon.admin.ui_letters import letters
from omnidaemon.admin.ui_live import live
from omnidaemon.admin.ui_overview import overview
from omnidaemon.admin.ui_pages import Page, Pages, Visit
from omnidaemon.admin.ui_rates import Rates
from omnidaemon.admin.ui_sessions import SESSION_SECONDS, Sessions, Tries, Visitor
from omnidaemon.admin.ui_task import task_pages
from omnidaemon.admin.ui_tasks import tasks
from omnidaemon.admin.ui_try import try_it
from omnidaemon.admin.ui_workers import workers
from omnidaemon.app import App
from omnidaemon.errors import OmniDaemonError
from omnidaemon.fleet import Fleet

logger = logging.getLogger("omnidaemon.admin")

SECTIONS: tuple[Pages, ...] = (
    *(overview, tasks, letters, agents, workers, try_it),
    *(live, task_pages),
)
"""All pages, in the order of the navigation."""

COOKIE = "omnidaemon_ui"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Forms of pages that send no referrer have the origin `null`, and would be refused.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FOREVER = "public, max-age=31536000, immutable"
_FORM = "application/x-www-form-urlencoded"


class Dashboard:
    """The pages, as an ASGI app for the paths from `/ui` on.

    Args:
        app: Whose backends are shown.
        fleet: The same, in people's words.
        keys: Those who may log in; without any, nobody has to.
        guard: What every request must pass.
        feed: The newest records, read once for all who watch.

    Attributes:
        rates: The counters' samples.
    """

    def __init__(self, app: App, fleet: Fleet, keys: Keys, guard: Guard, feed: Feed) -> None:
        self._app = app
        self._fleet = fleet
        self._keys = keys
        self._guard = guard
        self._sessions = Sessions(keys, app.store)
        self._tries = Tries()
        self._drawing = Drawing()
        self.rates = Rates(app.store)
        self._shared: dict[str, Any] = {"feed": feed, "rates": self.rates}
        self._routes = Starlette(
            routes=[
                Route("/ui", lambda request: _onward(request, ""), methods=["GET"]),
                Route("/ui/static/{version}/{name}", self._static, methods=["GET"]),
                Route("/ui/login", self._log_in, methods=["GET", "POST"]),
                Route("/ui/logout", self._log_out, methods=["POST"]),
                Route("/ui/theme", self._choose_theme, methods=["POST"]),
                *(
                    Route(f"/ui{path}", self._serving(by_method), methods=list(by_method))
                    for path, by_method in _by_path().items()
                ),
            ],
            exception_handlers={HTTPException: self._http_error},
        )
        self._routes.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        request = Request(scope, receive)
        try:
            self._guard.check_place(request)
            if request.method not in ("GET", "HEAD"):
                check_origin(request)
        except Refused as refusal:
            await self._refusal(request, refusal)(scope, receive, send_guarded)
            return
        await self._routes(scope, receive, send_guarded)

    # Pages

    def _serving(self, by_method: dict[str, Page]) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            page = by_method["GET" if request.method == "HEAD" else request.method]
            return await self._safely(request, lambda: self._show(page, request))

        return serve

    async def _show(self, page: Page, request: Request) -> Response:
        visitor = await self._visitor(request)
        if visitor.caller is None:
            return self._to_login(request)
        form = await self._form(request, visitor) if page.method == "POST" else {}
        visit = self._visit(request, visitor, visitor.caller, form)
        if page.path == "/" and not SECTIONS[0].open_to(visitor.caller):
            # Not everybody may see the first page.
            for section in visit.sections:
                if section.path and section.open_to(visitor.caller):
                    return visit.redirect(section.path)
        page.check(visitor.caller)
        answer: Response = await within(page.seconds, lambda: page.function(visit))
        if not self._keys:
            # There is nothing to log in for, but forms need something that only this browser has.
            self._set_cookie(request, answer, visitor)
        return answer

    def _visit(
        self, request: Request, visitor: Visitor, caller: Any, form: dict[str, str]
    ) -> Visit:
        return Visit(
            self._app,
            self._fleet,
            visitor,
            caller,
            request,
            form,
            self._drawing,
            SECTIONS,
            bool(self._keys),
            self._shared,
        )

    def _to_login(self, request: Request) -> Response:
        if "omnidaemon-fragment" in request.headers or request.method == "POST":
            raise Refused(401, "you are not logged in, or no longer: log in and try again")
        if request.headers.get("sec-fetch-site") == "cross-site" and not _cookies(request):
            # A link from another site comes without a cookie that is same-site; the page that
            # asks for itself comes with it.
            return self._drawing.page(request, "again.html", 200, {})
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(
            address(base_of(request), "/login", next=request.scope["path"] + query), 303
        )

    async def _safely(
        self, request: Request, answer: Callable[[], Awaitable[Response]]
    ) -> Response:
        """The answer, whatever comes of it."""
        try:
            return await answer()
        except Refused as refusal:
            return self._refusal(request, refusal)
        except OmniDaemonError as error:
            return self._refusal(request, Refused(status_of(error), str(error)))
        except ClientDisconnect:
            return self._refusal(request, Refused(400, "the request broke off"))
        except Exception:  # a defect: the log has it, and the visitor learns no inner workings
            logger.exception("%s %r failed", request.method, request.scope["path"])
            text = "this is a defect of the dashboard; the log of its process says more"
            return self._refusal(request, Refused(500, text))

    def _refusal(self, request: Request, refusal: Refused) -> Response:
        values = {"status": refusal.status, "detail": str(refusal), "keyed": bool(self._keys)}
        answer = self._drawing.page(request, "refused.html", refusal.status, values)
        for name, value in (refusal.headers or {}).items():
            if name.lower() != "www-authenticate":  # the browser would ask for a password itself
                answer.headers[name] = value
        return answer

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = error.detail if error.status_code != 404 else "there is no such page"
        return self._refusal(request, Refused(error.status_code, detail, dict(error.headers or {})))

    # Forms and sessions

    async def _visitor(self, request: Request) -> Visitor:
        for cookie in _cookies(request):
            visitor = await self._sessions.visitor(cookie)
            if visitor.caller is not None:
                return visitor
        return await self._sessions.visitor(next(iter(_cookies(request)), None))

    async def _form(self, request: Request, visitor: Visitor) -> dict[str, str]:
        """What a form of ours has sent.

        Raises:
            Refused: It is none of ours, or too large.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _FORM:
            raise Refused(415, "the body must be a form's, as this page's own send it")
        most = 65_536
        if visitor.caller is not None:  # anybody may send the form for logging in
            most += 3 * self._app.settings.max_message  # a byte may take three in a form
        data = bytearray()
        with anyio.move_on_after(BODY_SECONDS) as scope:
            async for chunk in request.stream():
                data += chunk
                if len(data) > most:
                    raise Refused(413, f"the form has more than {most:,} bytes")
        if scope.cancelled_caught:
            raise Refused(400, f"the form did not come within {BODY_SECONDS:.0f} s")
        try:
            fields = parse_qsl(
                data.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=200
            )
        except ValueError:
            raise Refused(400, "the form cannot be read: its fields are not UTF-8") from None
        form = dict(fields)
        if not visitor.has_sent(form.pop("csrf", "")):
            raise Refused(403, "this form is out of date: open its page again, then send it")
        return form

    def _set_cookie(self, request: Request, answer: Response, visitor: Visitor) -> None:
        # Behind what ends TLS for us, the scheme is http; the browser tells where its page is from.
        origin = request.headers.get("origin", "")
        secure = request.url.scheme == "https" or origin.lower().startswith("https://")
        answer.set_cookie(
            _cookie_name(request, secure),
            visitor.token,
            int(SESSION_SECONDS),
            path=base_of(request),
            secure=secure,
            httponly=True,
            samesite="strict",
        )

    async def _log_in(self, request: Request) -> Response:
        return await self._safely(request, lambda: self._logged_in(request))

    async def _logged_in(self, request: Request) -> Response:
        visitor = await self._visitor(request)
        wanted = request.query_params.get("next", "")
        if visitor.caller is not None:
            return _onward(request, wanted)
        if request.method != "POST":
            return self._login_page(request, visitor, wanted)
        form = await self._form(request, visitor)
        wanted = form.get("next", "")
        address = request.client.host if request.client else ""
        wait = self._tries.wait(address)
        if wait > 0:
            text = f"Too many tries from your address: try again in {wait:.0f} s."
            answer = self._login_page(request, visitor, wanted, text, 429)
            answer.headers["Retry-After"] = f"{wait:.0f}"
            return answer
        begun = await self._sessions.begin(form.get("key", "").strip())
        if begun is None:
            self._tries.failed(address)
            logger.warning("a login to the dashboard from %s was refused: unknown key", address)
            return self._login_page(request, visitor, wanted, "Nobody has this key.", 401)
        self._tries.succeeded(address)
        response = _onward(request, wanted)
        self._set_cookie(request, response, begun)
        return response

    def _login_page(
        self, request: Request, visitor: Visitor, wanted: str, error: str = "", status: int = 200
    ) -> Response:
        values = {"csrf": visitor.csrf, "next": wanted, "error": error}
        answer = self._drawing.page(request, "login.html", status, values)
        self._set_cookie(request, answer, visitor)
        return answer

    async def _log_out(self, request: Request) -> Response:
        async def log_out() -> Response:
            visitor = await self._visitor(request)
            await self._form(request, visitor)
            await self._sessions.end(visitor)
            answer = RedirectResponse(address(base_of(request), "/login"), 303)
            secure_name = _cookie_name(request, True)
            for name in (_cookie_name(request, False), secure_name, NOTICE):
                answer.delete_cookie(
                    name,
                    path=base_of(request),
                    secure=name == secure_name,
                    httponly=True,
                    samesite="strict",
                )
            return answer

        return await self._safely(request, log_out)

    async def _choose_theme(self, request: Request) -> Response:
        async def choose() -> Response:
            visitor = await self._visitor(request)
            form = await self._form(request, visitor)
            if form.get("theme") not in THEMES:
                raise Refused(422, f"the theme is one of {', '.join(THEMES)}")
            answer = _onward(request, form.get("back", ""))
            answer.set_cookie(
                THEME,
                form["theme"],
                365 * 86_400,
                path=base_of(request),
                httponly=True,
                samesite="strict",
            )
            return answer

        return await self._safely(request, choose)

    # Assets

    async def _static(self, request: Request) -> Response:
        found = self._drawing.assets.get(request.path_params["name"])
        if found is None:
            return self._refusal(request, Refused(404, "there is no such file"))
        data, media = found
        current = request.path_params["version"] == self._drawing.version
        headers = {"Cache-Control": _FOREVER if current else "no-store"}
        return Response(data, 200, headers, media)


def _cookies(request: Request) -> list[str]:
    """The session's cookie; where there are two, the one that only https can set comes first."""
    names = (_cookie_name(request, True), _cookie_name(request, False))
    return [request.cookies[name] for name in names if name in request.cookies]


def _cookie_name(request: Request, secure: bool) -> str:
    """The session's, with the port in it: to browsers all ports of a host are one place."""
    port = request.headers.get("host", "").rpartition(":")[2]
    name = f"{COOKIE}_{port}" if port.isascii() and port.isdigit() else COOKIE
    return f"__Secure-{name}" if secure else name


def _onward(request: Request, wanted: str) -> Response:
    """To a page of ours, or to the first."""
    base = base_of(request)
    return RedirectResponse(wanted if is_ours(base, wanted) else f"{base}/", 303)


def _by_path() -> dict[str, dict[str, Page]]:
    found: dict[str, dict[str, Page]] = {}
    for section in SECTIONS:
        for page in section.pages:
            found.setdefault(page.path, {})[page.method] = page
    # A name before a parameter in its place.
    return dict(sorted(found.items(), key=lambda item: [p[:1] == "{" for p in item[0].split("/")]))
