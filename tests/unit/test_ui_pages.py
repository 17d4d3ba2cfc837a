"""The dashboard's pages as their server draws them: who sees what, and what a form may do."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest

from omnidaemon import App
from omnidaemon.admin import Admin, serve_api
from omnidaemon.admin.ui import SECTIONS
from omnidaemon.admin.ui_pages import Page
from omnidaemon.posting import Answer, Post
from omnidaemon.testing import Served, serve
from tests.unit.admin_client import KEYS, shop

pytestmark = pytest.mark.anyio

PAGES = [page for section in SECTIONS for page in section.pages if page.path != "/events"]
GETS = [page for page in PAGES if page.method == "GET"]
CHANGES = [page for page in PAGES if page.method == "POST"]
SCOPES = {
    "reader-key": {"read"},
    "publisher-key": {"publish"},
    "both-key": {"read", "publish"},
    "admin-key": {"read", "publish", "admin"},
}


@pytest.fixture
def anyio_backend() -> str:
    """Nothing here depends on the loop."""
    return "asyncio"


class Visitor:
    """A browser without JavaScript: it keeps cookies, and sends what forms hold."""

    def __init__(self, admin: Any, host: str = "localhost", base: str = "") -> None:
        self.base = base
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(admin), base_url=f"http://{host}"
        )

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """Opens a page of the dashboard."""
        return await self.http.get(f"{self.base}/ui{path}", headers=headers)

    async def csrf(self, path: str = "/login") -> str:
        """The token in a page's forms."""
        answer = await self.get(path)
        found = re.search(r'name="csrf" value="(\w+)"', answer.text)
        assert found is not None, answer.text
        return found[1]

    async def post(self, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
        """Sends a form."""
        return await self.http.post(f"{self.base}/ui{path}", data=fields, headers=headers)

    async def log_in(self, key: str, **fields: str) -> httpx.Response:
        """Sends the form for logging in."""
        return await self.post("/login", {"csrf": await self.csrf(), "key": key, **fields})


@asynccontextmanager
async def visiting(
    key: str | None = None, app: App | None = None
) -> AsyncIterator[tuple[Served, Visitor]]:
    """A worker of the shop, and somebody who has logged in."""
    app = app or shop()
    async with serve(app) as served:
        keys = {"keys": KEYS} if key else {"auth": "none"}
        visitor = Visitor(Admin(app, **keys))  # type: ignore[arg-type]
        async with visitor.http:
            if key:
                assert (await visitor.log_in(key)).status_code == 303
            yield served, visitor


def place(page: Page) -> str:
    """Its path, of something that the shop has."""
    names = {"{topic}": "orders", "{name}": "charge"}
    return re.sub(r"\{\w+\}", lambda match: names.get(match[0], "nothing"), page.path)


async def test_every_page_is_drawn_whole_and_in_its_parts() -> None:
    async with visiting() as (served, visitor):
        await served.app.send("orders", "bad")
        await served.app.send("orders", "good")
        await served.settled()
        for page in GETS:
            answer = await visitor.get(place(page))
            if "nothing" in place(page):
                assert answer.status_code == 404
                continue
            assert answer.status_code == 200, answer.text
            assert answer.text.rstrip().endswith("</html>")
            for part in re.findall(r'data-name="(\w+)"', answer.text):
                again = await visitor.get(place(page), **{"Omnidaemon-Fragment": part})
                assert again.status_code == 200, again.text
                assert "<html" not in again.text


@pytest.mark.parametrize("fields", [{}, {"key": ""}, {"all": "no"}])
async def test_all_dead_letters_are_replayed_only_if_the_form_says_all(
    fields: dict[str, str],
) -> None:
    async with visiting() as (served, visitor):
        await served.app.send("orders", "bad")
        await served.settled()
        csrf = await visitor.csrf("/letters")
        answer = await visitor.post("/letters/replay", {"csrf": csrf, **fields})
        assert answer.status_code == 422
        assert "say which dead letters" in answer.text
        assert (await served.app.tasks.newest("orders"))[0].replays == 0
        answer = await visitor.post("/letters/replay", {"csrf": csrf, "all": "yes"})
        assert answer.status_code == 303
        await served.settled()
        assert (await served.app.tasks.newest("orders"))[0].replays == 1


async def test_a_task_that_waits_says_for_whom() -> None:
    async with visiting() as (served, visitor):
        assert "No worker is running" not in (await visitor.get("/")).text
        await served.app.transport.pause("orders", "charge")
        task = await served.app.send("orders", "good")
        waits = "is resumed: somebody has paused it"
        assert waits in (await visitor.get(f"/tasks/{task.id}")).text
        assert "1 event waits meanwhile" in (await visitor.get("/agents/orders/charge")).text
        await served.app.transport.resume("orders", "charge")
        await served.settled()
        assert waits not in (await visitor.get(f"/tasks/{task.id}")).text
    publisher = App(transport="memory://no-worker")
    async with serve(shop(), url="memory://no-worker"):
        visitor = Visitor(Admin(publisher, auth="none"))
        await visitor.get("/agents")
    task = await publisher.send("orders", "good")
    assert "what is published waits until one is started" in (await visitor.get("/")).text
    assert "It waits for a worker: none runs" in (await visitor.get(f"/tasks/{task.id}")).text


async def test_posts_to_webhooks_that_fail_are_told_where_somebody_looks() -> None:
    async def refuse(post: Post) -> Answer:
        return Answer(500)

    app = shop()
    async with serve(app, post=refuse) as served:
        visitor = Visitor(Admin(app, auth="none"))
        assert "post to a webhook" not in (await Visitor(Admin(app, auth="none")).get("/")).text
        await app.send("orders", "good", webhook="https://example.com/orders")
        with anyio.fail_after(60):
            while not sum(group.waiting for group in await app.transport.groups("omni.webhooks")):
                await anyio.lowlevel.checkpoint()
        assert "1 post to a webhook has failed" in (await visitor.get("/")).text
        (event,) = await app.transport.browse("omni.webhooks", 1)
        for path in ("/tasks?topic=omni.webhooks", f"/tasks/{event.id}"):
            text = (await visitor.get(path)).text
            assert "in the log of the worker" in text, path
            assert "has expired" not in text
        assert served.posts


async def test_posts_to_webhooks_that_were_given_up_are_told_on_the_overview() -> None:
    async def refuse(post: Post) -> Answer:
        return Answer(410)

    app = shop()
    async with serve(app, post=refuse) as served:
        visitor = Visitor(Admin(app, auth="none"))
        await app.send("orders", "good", webhook="https://example.com/orders")
        await served.settled()
        text = (await visitor.get("/")).text
        assert "1 post to a webhook was given up" in text
        assert 'href="/ui/letters?topic=omni.webhooks"' in text


async def test_events_that_no_agent_listens_to_are_told_on_the_overview() -> None:
    async with visiting() as (served, visitor):
        await served.app.send("odrers", "good")
        text = (await visitor.get("/")).text
        assert "Waiting for somebody" in text
        assert "1 event that no agent listens to" in text


async def test_a_count_of_failures_says_when_there_may_be_more() -> None:
    async with visiting() as (served, visitor):
        for _ in range(3):
            await served.app.send("orders", "bad")
        await served.settled()
        assert "<b>3 tasks</b>" in (await visitor.get("/")).text
        for _ in range(60):
            await served.app.send("orders", "bad")
        await served.settled()
        again = Visitor(Admin(served.app, auth="none"))  # it has looked at nothing yet
        assert "<b>60+ tasks</b>" in (await again.get("/")).text


async def test_the_dead_letters_of_one_agent_are_found_by_its_link() -> None:
    app = shop()

    @app.agent("mails", name="stamp", retries=0)
    async def stamp(content: Any) -> Any:
        raise LookupError("no stamps left")

    async with visiting(app=app) as (served, visitor):
        await served.app.send("orders", "bad")
        await served.app.send("mails", "hello")
        await served.settled()
        for query, orders, mails in (
            ("", True, True),
            ("?topic=orders", True, False),
            ("?topic=mails", False, True),
            ("?topic=mails&agent=stamp", False, True),
            ("?topic=mails&agent=mail", False, False),
            ("?topic=%3Cscript%3E", False, False),
        ):
            text = (await visitor.get(f"/letters{query}")).text
            assert ("no money" in text, "no stamps left" in text) == (orders, mails), query
            assert ("Replay all" in text) == (not query)  # it would hand back the others, too
            assert "<script>" not in text


# Who sees what


@pytest.mark.parametrize("key", SCOPES)
async def test_every_page_asks_for_its_scope(key: str) -> None:
    async with visiting(key) as (_, visitor):
        for page in GETS:
            answer = await visitor.get(place(page))
            if page.scope is None or page.scope in SCOPES[key]:
                assert answer.status_code in (200, 404), page.path
            elif page.path == "/":  # who may not see the first page begins with another
                assert answer.headers["location"] == "/ui/try"
            else:
                assert answer.status_code == 403, page.path
                assert f"the scope {page.scope}" in answer.text


@pytest.mark.parametrize("key", SCOPES)
async def test_every_change_asks_for_its_scope_whatever_the_page_shows(key: str) -> None:
    async with visiting(key) as (_, visitor):
        csrf = await visitor.csrf("/try" if key == "publisher-key" else "/agents")
        for page in CHANGES:
            answer = await visitor.post(place(page), {"csrf": csrf})
            if page.scope in SCOPES[key]:
                assert answer.status_code in (200, 303, 404, 422), page.path
            else:
                assert answer.status_code == 403, page.path
                assert "scope" in answer.text


def test_what_changes_something_is_for_admins_and_publishers_alone() -> None:
    for page in CHANGES:
        assert page.scope in ("publish", "admin"), page.path
    for page in GETS:
        assert page.scope is not None, page.path


@pytest.mark.parametrize("key", ["reader-key", "both-key", "publisher-key"])
async def test_who_may_not_pause_sees_no_button_for_it(key: str) -> None:
    async with visiting(key) as (_, visitor):
        for path in ("/agents", "/agents/orders/charge", "/"):
            answer = await visitor.get(path)
            text = answer.text
            assert "/pause" not in text
            assert "/delete" not in text
            assert answer.status_code != 200 or ('href="/ui/try"' in text) == (
                "publish" in SCOPES[key]
            )


async def test_a_key_of_one_tenant_sees_only_what_is_confined_to_it() -> None:
    async with visiting("a-key") as (_, visitor):
        for page in GETS:
            answer = await visitor.get(place(page))
            if page.path == "/":
                assert answer.status_code == 303
            elif page.tenants and page.scope != "admin":
                assert answer.status_code in (200, 404), page.path
            else:
                assert answer.status_code == 403, page.path
                assert "one tenant" in answer.text or page.scope == "admin"


async def test_who_is_not_logged_in_is_sent_to_the_login_and_back() -> None:
    visitor = Visitor(Admin(shop(), keys=KEYS))
    for page in GETS:
        answer = await visitor.get(f"{place(page)}?topic=orders")
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/ui/login?next=%2Fui%2F")
        assert "orders" in answer.headers["location"]
        part = await visitor.get(place(page), **{"Omnidaemon-Fragment": "live"})
        assert part.status_code == 401
        assert "www-authenticate" not in part.headers


# Forged forms


@pytest.mark.parametrize("key", [None, "admin-key"])
async def test_a_form_without_the_token_of_this_browser_changes_nothing(key: str | None) -> None:
    async with visiting(key) as (served, visitor):
        await visitor.get("/agents")
        fields = {"confirm": "charge", "group": "on", "topic": "orders", "content": "1"}
        for page in CHANGES:
            for csrf in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": "ü"}):
                answer = await visitor.post(place(page), {**fields, **csrf})
                assert answer.status_code == 403, page.path
                assert "out of date" in answer.text
        (group,) = await served.app.transport.groups("orders")
        assert (group.paused, group.lag, group.leased) == (False, 0, 0)
        assert [topic for topic in await served.app.transport.topics() if topic.events] == []


async def test_the_token_of_another_browser_is_none_of_this_one() -> None:
    app = shop()
    async with serve(app):
        admin = Admin(app, keys=KEYS)
        one, other = Visitor(admin), Visitor(admin)
        await one.log_in("admin-key")
        await other.log_in("admin-key")
        answer = await other.post(
            "/agents/orders/charge/pause", {"csrf": await one.csrf("/agents")}
        )
        assert answer.status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
async def test_a_form_on_another_site_changes_nothing(headers: dict[str, str]) -> None:
    async with visiting("admin-key") as (served, visitor):
        csrf = await visitor.csrf("/agents")
        for page in CHANGES:
            answer = await visitor.post(place(page), {"csrf": csrf}, **headers)
            assert answer.status_code == 403, page.path
        (group,) = await served.app.transport.groups("orders")
        assert not group.paused


async def test_only_forms_are_taken_and_none_that_is_too_large() -> None:
    async with visiting("admin-key") as (_, visitor):
        csrf = await visitor.csrf("/agents")
        as_json = await visitor.http.post("/ui/try", json={"csrf": csrf})
        assert as_json.status_code == 415
        large = {"csrf": csrf, "content": "x" * (3 * shop().settings.max_message + 100_000)}
        assert (await visitor.post("/try", large)).status_code == 413
        odd = f"csrf={csrf}&content=%ff"
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        unreadable = await visitor.http.post("/ui/try", content=odd, headers=form)
        assert unreadable.status_code == 400


# Sessions


async def test_a_session_is_no_key_for_the_api_and_a_key_opens_no_page() -> None:
    async with visiting("admin-key") as (_, visitor):
        assert (await visitor.get("/agents")).status_code == 200
        token = visitor.http.cookies["omnidaemon_ui"]
        for headers in ({"Cookie": f"omnidaemon_ui={token}"}, {"Authorization": f"Bearer {token}"}):
            assert (await visitor.http.get("/agents", headers=headers)).status_code == 401
    other = Visitor(Admin(shop(), keys=KEYS))
    answer = await other.get("/agents", Authorization="Bearer admin-key")
    assert answer.status_code == 303


async def test_the_cookie_is_kept_from_scripts_and_other_paths_and_from_http() -> None:
    visitor = Visitor(Admin(shop(), keys=KEYS))
    cookie = (await visitor.log_in("admin-key")).headers["set-cookie"]
    assert re.fullmatch(
        r"omnidaemon_ui=[\w-]{43}; HttpOnly; Max-Age=43200; Path=/ui; SameSite=strict", cookie
    )
    # The second is what comes through a proxy that ends TLS.
    for url, headers in (
        ("https://localhost", {}),
        ("http://localhost", {"Origin": "https://localhost"}),
    ):
        new = Visitor(Admin(shop(), keys=KEYS))
        answer = await new.http.get(f"{url}/ui/login", headers=headers)
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Secure-omnidaemon_ui=")
        assert cookie.endswith("; Secure")


async def test_dashboards_on_two_ports_of_one_host_keep_their_sessions_apart() -> None:
    cookies: dict[str, str] = {}
    visitors = [Visitor(Admin(shop(), keys=KEYS), f"localhost:{port}") for port in (8001, 8002)]
    for visitor in visitors:
        answer = await visitor.log_in("admin-key")
        name, _, value = answer.headers["set-cookie"].partition(";")[0].partition("=")
        cookies[name] = value
    sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    for visitor in visitors:
        visitor.http.cookies.clear()
        assert (await visitor.get("/agents", **sent)).status_code == 200


async def test_logging_in_makes_a_new_token_so_that_none_can_be_planted() -> None:
    visitor = Visitor(Admin(shop(), keys=KEYS))
    await visitor.get("/login")
    before = visitor.http.cookies["omnidaemon_ui"]
    await visitor.log_in("admin-key")
    assert visitor.http.cookies["omnidaemon_ui"] != before
    await visitor.post("/logout", {"csrf": await visitor.csrf("/agents")})
    assert (await visitor.get("/agents")).status_code == 303


async def test_after_five_wrong_keys_the_right_one_has_to_wait_as_well() -> None:
    visitor = Visitor(Admin(shop(), keys=KEYS))
    for _ in range(5):
        answer = await visitor.log_in("wrong")
        assert answer.status_code == 401
        assert "Nobody has this key" in answer.text
        assert "wrong" not in answer.text
    answer = await visitor.log_in("admin-key")
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 15


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/ui/",
        "//evil.example/ui/",
        "/ui/\\evil.example",
        "/tasks",
        "/uix",
        "javascript:alert(1)",
        "/ui/\r\nSet-Cookie: a=b",
    ],
)
async def test_the_login_leads_to_no_page_of_others(wanted: str) -> None:
    visitor = Visitor(Admin(shop(), keys=KEYS))
    answer = await visitor.log_in("admin-key", next=wanted)
    assert answer.headers["location"] == "/ui/"
    assert "set-cookie" in answer.headers
    assert "a=b" not in answer.headers["set-cookie"]


async def test_the_login_leads_to_the_page_that_was_wanted() -> None:
    visitor = Visitor(Admin(shop(), keys=KEYS))
    answer = await visitor.log_in("admin-key", next="/ui/agents?topic=orders")
    assert answer.headers["location"] == "/ui/agents?topic=orders"


async def test_a_link_from_another_site_opens_a_page_that_asks_for_itself() -> None:
    """Which is how the cookie comes along: it is not sent with what others' pages ask for."""
    visitor = Visitor(Admin(shop(), keys=KEYS))
    answer = await visitor.get("/agents?topic=a", **{"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200
    assert 'http-equiv="refresh"' in answer.text
    assert (await visitor.get("/agents?topic=a")).status_code == 303


async def test_without_keys_only_this_machine_is_answered() -> None:
    admin = Admin(shop(), auth="none")
    assert (await Visitor(admin, "evil.example").get("/")).status_code == 403
    assert (await Visitor(admin, "127.0.0.1").get("/")).status_code == 200


async def test_a_key_in_the_address_is_refused() -> None:
    visitor = Visitor(Admin(shop(), keys=KEYS))
    answer = await visitor.get("/login?next=admin-key")
    assert answer.status_code == 401
    assert "admin-key" not in answer.text


# What browsers are told


@pytest.mark.parametrize("path", ["/", "/login", "/nothing", "/agents", "/static/x/app.css"])
async def test_every_answer_has_the_policy(path: str) -> None:
    async with visiting() as (_, visitor):
        answer = await visitor.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


async def test_assets_are_kept_by_browsers_until_they_change() -> None:
    async with visiting() as (_, visitor):
        text = (await visitor.get("/")).text
        found = set(re.findall(r'(?:href|src)="(/ui/static/[^"]+)"', text))
        assert len(found) == 4
        for path in found:
            answer = await visitor.http.get(path)
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]
        assert (await visitor.get("/static/x/..%2fapi.py")).status_code == 404


async def test_no_page_has_a_script_or_a_style_of_its_own() -> None:
    async with visiting() as (served, visitor):
        await served.app.send("orders", "bad")
        await served.settled()
        for page in GETS:
            text = (await visitor.get(place(page))).text
            assert not re.search(r"<script(?! type=\"module\" src=\"/ui/static/)", text), page.path
            assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text), page.path


async def test_a_page_below_a_mount_leads_nowhere_else() -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    app = shop()
    async with serve(app):
        mounted = Starlette(routes=[Mount("/omni", Admin(app, keys=KEYS))])
        visitor = Visitor(mounted, base="/omni")
        answer = await visitor.log_in("admin-key")
        assert answer.headers["location"] == "/omni/ui/"
        assert "Path=/omni/ui;" in answer.headers["set-cookie"]
        for path in ("/", "/agents", "/agents/orders/charge", "/workers", "/try"):
            text = (await visitor.get(path)).text
            links = re.findall(r'(?:href|src|action|data-fragment|data-stream)="([^"]*)"', text)
            assert links
            for link in links:
                assert link.startswith(("/omni/ui/", "#main")), link


async def test_a_backend_that_does_not_answer_is_told_on_the_overview(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from omnidaemon.errors import ConnectionLost

    async def lost(*args: Any, **options: Any) -> Any:
        raise ConnectionLost("the broker at redis://broker is away")

    async with visiting() as (served, visitor):
        for name in ("topics", "groups"):
            monkeypatch.setattr(served.app.transport, name, lost)
        answer = await visitor.get("/")
        assert answer.status_code == 200
        assert "the broker at redis://broker is away" in answer.text
        assert "degraded" in answer.text
        assert (await visitor.get("/agents")).status_code == 503
        monkeypatch.undo()


async def test_a_defect_is_logged_and_tells_the_visitor_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("secret inner workings")

    async with visiting() as (served, visitor):
        monkeypatch.setattr(served.app.transport, "find", broken)
        answer = await visitor.get("/try?topic=orders&task=x")
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "secret inner workings" in caplog.text


# Trying it out


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"topic": ""}, "Name a topic."),
        ({"topic": "a b"}, "is not usable"),
        ({"topic": "omni.x"}, "reserved"),
        ({"content": ""}, "Nothing is there"),
        ({"content": '{"a": 1'}, "at line 1, column 8"),
        ({"content": "NaN"}, "NaN is no JSON value"),
        ({"content": "[" * 100_000}, "cannot travel"),
        ({"content": "1e999"}, "content"),
        ({"content": '"\\ud800"'}, "content"),
        ({"delay": "soon"}, "Give seconds"),
        ({"delay": "-1"}, "Give seconds"),
        ({"delay": "nan"}, "Give seconds"),
        ({"delay": "1e12"}, "Give seconds"),
        ({"reply_to": "../x"}, "is not usable"),
    ],
    ids=str,
)
async def test_what_is_wrong_is_said_beside_its_field_and_nothing_is_lost(
    fields: dict[str, str], said: str
) -> None:
    async with visiting() as (served, visitor):
        csrf = await visitor.csrf("/try")
        typed = {"topic": "mails", "content": '"kept"', "tenant": "kept-too", **fields}
        answer = await visitor.post("/try", {"csrf": csrf, **typed})
        assert answer.status_code == 422
        (name,) = fields
        assert f'id="{name}-error"' in answer.text
        assert said in answer.text
        assert 'value="kept-too"' in answer.text
        assert [topic for topic in await served.app.transport.topics() if topic.events] == []


async def test_a_key_of_one_tenant_publishes_for_that_tenant_alone() -> None:
    async with visiting("a-key") as (served, visitor):
        csrf = await visitor.csrf("/try")
        fields = {"csrf": csrf, "topic": "orders", "content": "1"}
        assert (await visitor.post("/try", {**fields, "tenant": "b"})).status_code == 422
        answer = await visitor.post("/try", fields)
        assert answer.status_code == 303
        await served.settled()
        (run,) = await served.app.tasks.newest("orders")
        assert run.tenant_id == "a"
        handle = await served.app.send("orders", "other's", tenant_id="b")
        await served.settled()
        theirs = await visitor.get(f"/try?topic=orders&task={handle.id}")
        assert theirs.status_code == 403
        assert "other" not in theirs.text.replace("another", "")


# What happens, as it happens


async def events(visitor: Visitor, path: str, wanted: int) -> list[str]:
    """The first events of a stream, over a socket: the test transport waits for its end."""
    found: list[str] = []
    async with visitor.http.stream("GET", path) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        async with aclosing(answer.aiter_lines()) as lines:
            async for line in lines:
                if line.startswith("data: "):
                    found.append(line)
                    if len(found) == wanted:
                        break
    return found


async def test_the_stream_of_events_is_open_to_a_session_and_confined_to_its_tenant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = shop()
    async with serve(app) as served:
        server = serve_api(app, port=0, keys=KEYS)
        visitor = Visitor(None)
        visitor.http = httpx.AsyncClient(base_url=server.url)
        try:
            async with visitor.http:
                refused = await visitor.get("/events")
                assert refused.status_code == 303
                await visitor.log_in("a-key")
                found: list[str] = []

                async def listen() -> None:
                    found.extend(await events(visitor, "/ui/events", 1))

                async with anyio.create_task_group() as group:
                    group.start_soon(listen)
                    while not found:
                        await app.send("orders", "secret", tenant_id="b")
                        await app.send("orders", "mine", tenant_id="a")
                        await served.settled()
                        await anyio.sleep(0.05)
                assert '"tenant_id":"a"' in found[0]
                other = await visitor.get("/events?tenant_id=b")
                assert other.status_code == 403
        finally:
            await anyio.to_thread.run_sync(server.stop)


async def test_a_stream_ends_so_that_a_session_that_is_over_does_not_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("omnidaemon.admin.ui_live.STREAM_SECONDS", 0.0)
    async with visiting() as (_, visitor):
        answer = await visitor.get("/events")
        assert answer.status_code == 200
        assert answer.text.startswith(": runs as they end")
