"""The frame around all pages: logging in, the colours, the keyboard, narrow screens."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page

from omnidaemon import App
from tests.browser.conftest import KEYS, Stage, Visitors

Start = Callable[..., Stage]


def quiet() -> App:
    """An app without agents."""
    return App("quiet", transport="memory")


def test_without_keys_the_dashboard_is_there_at_once(stage: Start, page: Page) -> None:
    here = stage(quiet(), worker=False)
    page.goto(here.url)
    assert page.url == f"{here.url}/"
    assert page.get_by_role("heading", level=1).inner_text() == "Overview"
    assert page.get_by_role("button", name="Log out").count() == 0


def test_a_key_opens_the_page_that_was_asked_for_and_logging_out_closes_it(
    stage: Start, page: Page
) -> None:
    here = stage(quiet(), keys=KEYS, worker=False)
    page.goto(f"{here.url}/?a=1")
    assert "/login?next=" in page.url
    page.get_by_label("API key").fill("reader-key")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{here.url}/?a=1")
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert cookie["path"] == "/ui"
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(f"{here.url}/login")
    page.context.add_cookies([cookie])
    page.goto(here.url)
    assert "/login" in page.url


def test_the_colours_that_were_chosen_stay(stage: Start, page: Page) -> None:
    here = stage(quiet(), worker=False)
    page.emulate_media(color_scheme="light")
    page.goto(here.url)
    light = page.evaluate("getComputedStyle(document.body).backgroundColor + innerWidth")
    with page.expect_response("**/theme"):
        page.get_by_role("button", name="Colours: dark").click()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    background = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(background) == "rgb(17, 17, 21)"
    page.get_by_role("button", name="Colours: light").click()
    assert page.evaluate(background) != "rgb(17, 17, 21)"
    assert light


def test_the_dashboard_works_below_a_mount(stage: Start, page: Page) -> None:
    here = stage(quiet(), keys=KEYS, mount="/omni", worker=False)
    here.log_in(page, "admin-key")
    assert page.url == f"{here.url}/"
    assert page.context.cookies()[0]["path"] == "/omni/ui"
    for name in ("Agents", "Workers", "Try it"):
        page.get_by_role("link", name=name, exact=True).click()
        page.get_by_role("heading", level=1, name=name).wait_for()
        assert page.url.startswith(f"{here.url}/")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(f"{here.url}/login")


def test_a_link_on_another_site_finds_the_session(stage: Start, page: Page) -> None:
    here = stage(quiet(), keys=KEYS, worker=False)
    here.log_in(page, "admin-key")
    page.route(
        "http://chat.example/",
        lambda route: route.fulfill(
            body=f'<a href="{here.url}/agents">look</a>', content_type="text/html"
        ),
    )
    page.goto("http://chat.example/")
    page.get_by_text("look").click()
    page.get_by_role("heading", level=1, name="Agents").wait_for()
    assert page.url == f"{here.url}/agents"


def test_a_form_on_another_site_pauses_nothing(stage: Start, visitors: Visitors) -> None:
    app = quiet()

    @app.agent("orders", name="charge")
    async def charge(content: dict) -> None:
        pass

    here = stage(app)
    page = visitors.new()
    page.goto(f"{here.url}/agents")
    action = f"{here.url}/agents/orders/charge/pause"
    form = f'<form method="post" action="{action}"><button>win</button></form>'
    page.route(
        "http://evil.example/", lambda route: route.fulfill(body=form, content_type="text/html")
    )
    page.goto("http://evil.example/")
    page.get_by_text("win").click()
    page.get_by_role("heading", name="Not allowed").wait_for()
    (group,) = here.do(app.transport.groups, "orders")
    assert not group.paused
    assert any("403" in trouble for trouble in visitors.troubles)
    visitors.troubles.clear()


def test_a_session_that_ends_elsewhere_leads_an_open_page_to_the_login(
    stage: Start, visitors: Visitors
) -> None:
    here = stage(quiet(), keys=KEYS, worker=False)
    page = visitors.new()
    here.log_in(page, "admin-key")
    other = page.context.new_page()
    other.goto(here.url)
    other.get_by_role("button", name="Log out").click()
    page.bring_to_front()
    page.wait_for_url("**/login?next=**")
    assert page.get_by_label("API key").is_visible()
    visitors.troubles.clear()  # the 401 that told the page


def test_a_page_that_loses_its_server_says_so(stage: Start, visitors: Visitors) -> None:
    here = stage(quiet(), worker=False)
    page = visitors.new()
    page.goto(here.url)
    page.route("**/ui/", lambda route: route.abort())
    page.get_by_text("This page does not reach its server").wait_for()
    page.unroute("**/ui/")
    page.get_by_text("This page does not reach its server").wait_for(state="hidden")
    assert visitors.troubles
    visitors.troubles.clear()


def test_the_policy_lets_no_script_in(stage: Start, visitors: Visitors) -> None:
    """Also that a violation would be noticed by every other test here."""
    here = stage(quiet(), worker=False)
    page = visitors.new()
    page.goto(here.url)
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.pwned = true";
            document.body.append(script);
            const image = document.createElement("div");
            image.innerHTML = '<img src="x" onerror="window.pwned = true">';
            document.body.append(image);
        }"""
    )
    page.wait_for_timeout(100)
    assert page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in trouble for trouble in visitors.troubles)
    visitors.troubles.clear()


def test_without_javascript_forms_and_links_do_the_same(stage: Start, visitors: Visitors) -> None:
    here = stage(quiet(), keys=KEYS, worker=False)
    page = visitors.new(java_script_enabled=False)
    here.log_in(page, "admin-key")
    page.get_by_role("button", name="Colours: dark").click()
    page.wait_for_url(f"{here.url}/")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.get_by_role("link", name="Try it").click()
    page.get_by_label("Topic").fill("orders")
    page.get_by_role("button", name="Publish").click()
    page.get_by_text("No agent listens to this topic").wait_for()


def test_the_first_stop_of_the_keyboard_skips_to_the_content(stage: Start, page: Page) -> None:
    here = stage(quiet(), worker=False)
    page.goto(here.url)
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    assert focused.inner_text() == "Skip to the content"
    assert focused.bounding_box()["y"] >= 0  # type: ignore[index]
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_a_slash_looks_for_a_task_unless_somebody_types(stage: Start, page: Page) -> None:
    here = stage(quiet(), worker=False)
    page.goto(f"{here.url}/try")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.matches('[data-search]')")
    page.get_by_label("Topic").focus()
    page.keyboard.press("/")
    assert page.get_by_label("Topic").input_value() == "/"


PATHS = ("/", "/agents", "/workers", "/try", "/nothing")
CONTROLS = "a[href], button, input:not([type=hidden]), select, textarea, summary"
REACHABLE = f"""() => [...document.querySelectorAll("{CONTROLS}")]
    .filter((element) => element.checkVisibility()).length"""
STOPS = """() => {
    const element = document.activeElement;
    if (element === document.body) return null;
    const style = getComputedStyle(element);
    element.dataset.stopped = "";
    return style.outlineStyle !== "none" || element.className === "skip";
}"""


def test_every_control_is_reached_by_the_keyboard_and_shows_it(
    stage: Start, visitors: Visitors
) -> None:
    app = quiet()

    @app.agent("orders", name="charge")
    async def charge(content: dict) -> None:
        pass

    here = stage(app)
    page = visitors.new()
    for path in PATHS[:-1]:
        page.goto(f"{here.url}{path}")
        for _ in range(page.evaluate(REACHABLE) + 5):
            page.keyboard.press("Tab")
            shown = page.evaluate(STOPS)
            assert shown is not False, page.evaluate("document.activeElement.outerHTML")
            if shown is None:
                break
        reached = page.evaluate("document.querySelectorAll('[data-stopped]').length")
        assert reached >= page.evaluate(REACHABLE), path


NAMELESS = f"""() => [...document.querySelectorAll("{CONTROLS}")]
    .filter((element) => !(element.textContent.trim() || element.ariaLabel || element.labels?.length
        || element.querySelector("img[alt]:not([alt=''])")))
    .map((element) => element.outerHTML)"""
# WCAG 2.2, 1.4.3: contrast of text to what is behind it.
PALE = """() => {
    const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => {
        const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = parse(getComputedStyle(at).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || !element.checkVisibility() || element.closest(".hidden, .skip")) continue;
        const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.outerHTML.slice(0, 120)}`);
    }
    return found;
}"""


def test_all_controls_have_names_and_all_text_has_contrast(
    stage: Start, visitors: Visitors
) -> None:
    app = quiet()

    @app.agent("orders", name="charge", retries=0, tools=["bank"], description="Charges.")
    async def charge(content: str) -> str:
        if content == "bad":
            raise ValueError("no money")
        return content

    @app.agent("mails", name="mail")
    async def mail(content: str) -> str:
        return content

    here = stage(app)
    here.send("orders", "bad")
    here.send("orders", "good")
    here.settled()
    here.do(app.transport.pause, "mails", "mail")
    for colours in ("light", "dark"):
        page = visitors.new(color_scheme=colours)
        for path in (*PATHS, "/agents/orders/charge", "/agents/orders/charge/delete"):
            page.goto(f"{here.url}{path}")
            assert page.evaluate(NAMELESS) == [], path
            assert page.evaluate(PALE) == [], (colours, path)
    visitors.troubles.clear()  # the page that is not there


def test_nothing_is_wider_than_a_small_phone(stage: Start, visitors: Visitors) -> None:
    app = quiet()
    name = "a" * 200

    @app.agent(name, name=name, description="d" * 500, tools=["t" * 300], retries=0)
    async def long(content: str) -> str:
        raise ValueError("e" * 1000)

    here = stage(app, keys=KEYS)
    here.send(name, "x")
    here.settled()
    page = visitors.new(viewport={"width": 360, "height": 740})
    page.goto(here.url)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    here.log_in(page, "admin-key")
    for path in (*PATHS, f"/agents/{name}/{name}", f"/agents/{name}/{name}/delete"):
        page.goto(f"{here.url}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    visitors.troubles.clear()  # the page that is not there
