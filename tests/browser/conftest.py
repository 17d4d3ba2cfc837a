"""A real Chromium, and a dashboard with a worker behind it to look at."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright
from starlette.applications import Starlette
from starlette.routing import Mount

from omnidaemon import App
from omnidaemon.admin import Admin, ApiServer
from omnidaemon.testing import Served, serve

ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
KEYS = (
    "reader-key:read",
    "publisher-key:publish",
    "both-key:read+publish",
    "admin-key:admin",
    "a-key:read+publish:a",
)
_boards = count(1)
SECONDS = 60.0
expect.set_options(timeout=1000 * SECONDS)
_running: list[tuple[Playwright, Browser]] = []


@pytest.fixture
def browser(no_server: Callable[[str], Any]) -> Browser:
    """The Chromium of this system, started once for all tests in this folder."""
    if not _running:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        if path is None:
            no_server("there is no chromium (Debian's package of that name has it)")
        playwright = sync_playwright().start()
        _running.append((playwright, playwright.chromium.launch(executable_path=path, args=ARGS)))
    return _running[0][1]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Ends the browser with the last test here: its loop would be in the way of others'."""
    try:
        yield
    finally:
        if _running and (nextitem is None or nextitem.path.parent != item.path.parent):
            playwright, browser = _running.pop()
            browser.close()
            playwright.stop()


class Visitors:
    """Opens pages, each in a browser profile of its own.

    Attributes:
        troubles: What any page has complained of: errors of scripts, and violated policies.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.troubles: list[str] = []

    def new(self, **options: Any) -> Page:
        """A page of somebody who has never been here."""
        context = self._browser.new_context(**{"reduced_motion": "reduce", **options})
        context.set_default_timeout(1000 * SECONDS)
        self._contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("console", self._said)
        return page

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.troubles.append(message.text)

    def close(self) -> None:
        """Closes all."""
        for context in self._contexts:
            context.close()


@pytest.fixture
def visitors(browser: Browser) -> Iterator[Visitors]:
    """Fails a test in which a page has complained."""
    found = Visitors(browser)
    try:
        yield found
    finally:
        found.close()
    assert not found.troubles


@pytest.fixture
def page(visitors: Visitors) -> Page:
    """A page of one visitor, on a desk."""
    return visitors.new(viewport={"width": 1280, "height": 800})


class Stage:
    """A dashboard with a worker behind it.

    Attributes:
        app: What the worker runs.
        url: Where the dashboard is.
        served: The worker.
    """

    def __init__(self, app: App, url: str, portal: BlockingPortal, served: Served | None) -> None:
        self.app = app
        self.url = url
        self.served = served
        self._portal = portal

    def send(self, topic: str, content: Any = None, **options: Any) -> str:
        """Publishes, and returns the task's id."""
        handle = self._portal.call(lambda: self.app.send(topic, content, **options))
        return handle.id

    def settled(self) -> None:
        """Waits until nothing is open."""
        assert self.served is not None
        self._portal.call(self.served.settled)

    def do(self, function: Callable[..., Any], *args: Any) -> Any:
        """Runs an async function in the worker's loop."""
        return self._portal.call(function, *args)

    def log_in(self, page: Page, key: str) -> None:
        """As a person does."""
        page.goto(f"{self.url}/")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(lambda url: "/login" not in url)


@contextmanager
def staged(app: App, keys: tuple[str, ...], mount: str, worker: bool) -> Iterator[Stage]:
    """See the fixture `stage`."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        url = f"memory://browser-{next(_boards)}"
        served = None
        if worker:
            served = stack.enter_context(portal.wrap_async_context_manager(serve(app, url=url)))
        admin: Any = Admin(app, auth="keys" if keys else "none", keys=keys)
        if mount:
            admin = Starlette(routes=[Mount(mount, admin)])
        listener = socket.create_server(("127.0.0.1", 0))
        server = ApiServer(app, admin, listener)
        stack.callback(server.stop)
        yield Stage(app, f"{server.url}{mount}/ui", portal, served)


@pytest.fixture
def stage() -> Iterator[Callable[..., Stage]]:
    """Sets up a dashboard: `stage(app)`, `stage(app, keys=KEYS, mount="/omni", worker=False)`."""
    with ExitStack() as stack:

        def start(
            app: App, *, keys: tuple[str, ...] = (), mount: str = "", worker: bool = True
        ) -> Stage:
            return stack.enter_context(staged(app, keys, mount, worker))

        yield start
