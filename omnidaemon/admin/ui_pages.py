"""Pages as values: what a page takes and who may see it, and the visit that it answers.

A page is a function that takes a `Visit` and returns `visit.render("x.html", ...)`. The blocks of
its template may be asked for alone: `<section data-fragment="{{ here }}" data-name="live"
data-every="2">{% block live %}...{% endblock %}</section>` is asked for anew every two seconds, by
the same address with the header `Omnidaemon-Fragment: live`, and the function runs as ever.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import anyio
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from omnidaemon.admin.answers import Refused
from omnidaemon.admin.auth import Caller, Scope
from omnidaemon.admin.ui_drawing import NOTICE, Drawing, address, base_of, is_ours
from omnidaemon.admin.ui_sessions import Visitor
from omnidaemon.app import App
from omnidaemon.fleet import Fleet

FRAGMENT = "omnidaemon-fragment"

Method = Literal["GET", "POST"]
T = TypeVar("T")


class Page(Struct, frozen=True):
    """One method of one path below `/ui`.

    Attributes:
        method: GET, or POST by a form whose token has been checked.
        path: With its parameters in braces.
        scope: What the visitor must be allowed; None for any.
        tenants: True if one who is bound to a tenant may see it: it is confined to that tenant.
        function: Takes a Visit and returns a response.
        seconds: How long it may take.
    """

    method: Method
    path: str
    scope: Scope | None
    tenants: bool
    function: PageFunction
    seconds: float = 5.0

    def check(self, caller: Caller) -> None:
        """Raises Refused if this is not for the caller."""
        if self.scope is not None and not caller.may(self.scope):
            raise Refused(403, f"this needs a key with the scope {self.scope}")
        if caller.tenant is not None and not self.tenants:
            raise Refused(
                403, "this cannot be confined to one tenant, and your key is bound to one"
            )


class Pages:
    """The pages of one entry in the navigation.

    Args:
        title: What the entry says.
        path: Where it leads, below `/ui`; empty for pages that no entry leads to.
        icon: Its sign, one of those in parts.html.
    """

    def __init__(self, title: str, path: str, icon: str = "") -> None:
        self.title = title
        self.path = path
        self.icon = icon
        self.pages: list[Page] = []

    def __call__(
        self,
        method: Method,
        path: str,
        *,
        scope: Scope | None,
        tenants: bool = False,
        seconds: float = 5.0,
    ) -> Callable[[PageFunction], PageFunction]:
        """Registers the decorated function; see Page."""

        def register(function: PageFunction) -> PageFunction:
            self.pages.append(Page(method, path, scope, tenants, function, seconds))
            return function

        return register

    def open_to(self, caller: Caller) -> bool:
        """Whether the entry leads anywhere for this caller."""
        for page in self.pages:
            if page.path == self.path and page.method == "GET":
                allowed = page.scope is None or caller.may(page.scope)
                return allowed and (caller.tenant is None or page.tenants)
        return False


class Visit(Struct, frozen=True):
    """A request for a page, by somebody who may see it.

    Attributes:
        app: Whose backends are shown.
        fleet: The same, in people's words.
        visitor: Who asks.
        caller: What they may do.
        request: As it came.
        form: What a form has sent.
        drawing: What draws pages.
        sections: All entries of the navigation.
        keyed: Whether there are keys, and so something to log out of.
        shared: What pages keep from one request to the next, by their own names.
    """

    app: App
    fleet: Fleet
    visitor: Visitor
    caller: Caller
    request: Request
    form: Mapping[str, str]
    drawing: Drawing
    sections: Sequence[Pages]
    keyed: bool
    shared: dict[str, Any]

    @property
    def base(self) -> str:
        """The path of the dashboard as the browser knows it, under whatever it is mounted."""
        return base_of(self.request)

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters of the address; of several with one name the last."""
        return self.request.query_params

    @property
    def fragment(self) -> str | None:
        """The block that is asked for alone; None for the whole page."""
        return self.request.headers.get(FRAGMENT)

    def in_section(self, section: Pages) -> bool:
        """Whether this page belongs to the entry."""
        place = self.request.scope["path"].removeprefix(self.base) or "/"
        return place == section.path or (
            section.path != "/" and place.startswith(f"{section.path}/")
        )

    def may(self, scope: Scope) -> bool:
        """Whether the visitor's key has this scope."""
        return self.caller.may(scope)

    def tenant(self, asked: str | None = None) -> str | None:
        """The tenant to whom the page is confined; None for all.

        Raises:
            Refused: The key is bound to another.
        """
        bound = self.caller.tenant
        if bound is not None and asked and asked != bound:
            raise Refused(403, "your key is bound to another tenant")
        return bound or asked or None

    def url(self, path: str, **query: str | int | None) -> str:
        """A link within the dashboard; what is empty in the query is left out."""
        return address(self.base, path, **query)

    def render(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """The page, or the part of it that is asked for."""
        known = {
            "visit": self,
            "csrf": self.visitor.csrf,
            "may": self.may,
            "keyed": self.keyed,
            "sections": [one for one in self.sections if one.path and one.open_to(self.caller)],
        }
        return self.drawing.page(self.request, template, status, known | values, self.fragment)

    def redirect(self, path: str, *, notice: str = "", **query: str | int | None) -> Response:
        """Sends the browser to a page, after a form; the notice is shown there, once."""
        return self._sent_to(self.url(path, **query), notice)

    def back(self, path: str, *, notice: str = "") -> Response:
        """The same, to the page that the form's field `back` names, or to this one."""
        wanted = self.form.get("back", "")
        return self._sent_to(wanted if is_ours(self.base, wanted) else self.url(path), notice)

    def _sent_to(self, place: str, notice: str) -> Response:
        answer = RedirectResponse(place, 303)
        if notice:
            answer.set_cookie(
                NOTICE, quote(notice[:500]), 60, path=self.base, httponly=True, samesite="strict"
            )
        return answer


async def once_for_all(
    visit: Visit, name: str, seconds: float, look: Callable[[], Awaitable[T]]
) -> T:
    """What `look` finds, asked for once for all who want it within so many seconds.

    Args:
        visit: One of those who want it.
        name: What it is called among what pages share.
        seconds: How old it may be.
        look: Finds it; it must not depend on who asks.
    """
    lock: anyio.Lock = visit.shared.setdefault(f"{name}.lock", anyio.Lock())
    async with lock:
        at, found = visit.shared.get(name, (float("-inf"), None))
        now = time.monotonic()
        if now - at >= seconds:
            found = await look()
            visit.shared[name] = time.monotonic(), found
        kept: T = found
        return kept


PageFunction = Callable[[Visit], Awaitable[Response]]
