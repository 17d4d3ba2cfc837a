"""The pages, looked at and used as by a person, with a real worker behind them."""

from __future__ import annotations

import re
from collections.abc import Callable

import anyio
from playwright.sync_api import Page, expect

from omnidaemon import App
from tests.browser.conftest import Stage, Visitors

Start = Callable[..., Stage]
XSS = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>\'"${{7*7}}'


def shop() -> App:
    """An app whose agent fails when told."""
    app = App("shop", transport="memory")

    @app.agent("orders", name="charge", retries=0, tools=["bank"], description="Takes the money.")
    async def charge(content: dict) -> dict:
        if "fail" in content:
            raise LookupError(content["fail"])
        return {"charged": content["amount"]}

    return app


def test_the_overview_says_first_why_a_task_failed_and_leads_to_it(
    stage: Start, page: Page
) -> None:
    here = stage(shop())
    for order in range(3):
        task = here.send("orders", {"fail": f"there is no customer {1000 + order}"})
    here.send("orders", {"amount": 1})
    here.settled()
    page.goto(here.url)
    failures = page.get_by_role("region", name="Newest failures")
    (row,) = failures.get_by_role("listitem").all()
    expect(row).to_contain_text("LookupError: there is no customer 1002")
    expect(row).to_contain_text("charge on orders · 3 tasks")
    assert row.bounding_box()["y"] < 300  # type: ignore[index]
    expect(failures.get_by_role("link", name="3 dead letters")).to_be_visible()
    row.get_by_role("link").click()
    page.wait_for_url(f"{here.url}/tasks/{task}")


def test_the_overview_follows_what_happens_without_being_loaded_again(
    stage: Start, page: Page
) -> None:
    here = stage(shop())
    page.goto(here.url)
    page.get_by_text("No task has failed").wait_for()
    page.evaluate("window.same = document.querySelector('h1')")
    here.send("orders", {"fail": "later"})
    page.get_by_text("LookupError: later").wait_for()
    assert page.evaluate("window.same === document.querySelector('h1')")
    expect(page.get_by_role("row", name=re.compile("^orders"))).to_be_visible()
    page.get_by_role("img", name=re.compile("Runs per second")).wait_for()


def test_the_overview_names_who_is_waited_for(stage: Start, page: Page) -> None:
    app = shop()
    here = stage(app)
    here.do(app.transport.pause, "orders", "charge")
    here.send("orders", {"amount": 1})
    page.goto(here.url)
    waiting = page.get_by_role("region", name="Waiting for somebody")
    expect(waiting).to_contain_text("1 event of orders queued meanwhile")
    row = page.get_by_role("row", name=re.compile("^orders"))
    expect(row.locator("[data-label=Oldest]").locator("time")).to_be_visible()
    waiting.get_by_role("button", name="Resume charge").click()
    expect(page.get_by_role("status").first).to_contain_text("charge goes on")
    here.settled()
    waiting.wait_for(state="detached")
    expect(row.locator("[data-label=Oldest]")).to_have_text("–")


def test_a_worker_obeys_what_is_paused_and_resumed_here(stage: Start, page: Page) -> None:
    app = shop()
    here = stage(app)
    page.goto(f"{here.url}/agents")
    page.get_by_role("button", name="Pause charge").click()
    expect(page.get_by_role("status").first).to_contain_text("charge is paused")
    row = page.get_by_role("row", name=re.compile("charge"))
    expect(row).to_contain_text("paused")
    here.send("orders", {"amount": 1})
    expect(row.locator("[data-label=Unread]")).to_have_text("1")
    (group,) = here.do(app.transport.groups, "orders")
    assert (group.paused, group.lag, group.leased) == (True, 1, 0)
    page.get_by_role("button", name="Resume charge").click()
    here.settled()
    expect(row.locator("[data-label=Unread]")).to_have_text("0")
    expect(row).to_contain_text("running")
    (run,) = here.do(app.tasks.newest, "orders")
    assert run.value == {"charged": 1}


def test_agents_are_found_by_name_and_topic(stage: Start, page: Page) -> None:
    app = shop()

    @app.agent("mails", name="mailer")
    async def mailer(content: dict) -> None:
        pass

    here = stage(app)
    page.goto(f"{here.url}/agents")
    page.get_by_label("Name").fill("MAIL")
    page.get_by_role("button", name="Filter").click()
    assert page.locator("tbody th").all_inner_texts() == ["mailer\nmails"]
    page.goto(f"{here.url}/agents?topic=orders")
    assert page.locator("tbody th").all_inner_texts() == ["charge\norders"]
    page.goto(f"{here.url}/agents?q=nobody")
    page.get_by_role("link", name="Show all 2").click()
    assert page.locator("tbody tr").count() == 2


def test_one_agents_page_has_its_settings_and_what_it_did(stage: Start, page: Page) -> None:
    here = stage(shop())
    here.send("orders", {"amount": 7})
    here.send("orders", {"fail": "broke"})
    here.settled()
    page.goto(f"{here.url}/agents")
    page.get_by_role("link", name="charge", exact=True).click()
    page.get_by_role("heading", level=1, name="charge").wait_for()
    expect(page.get_by_text("Takes the money.")).to_be_visible()
    runs = page.get_by_role("region", name="Latest runs")
    expect(runs).to_contain_text("LookupError: broke")
    expect(runs).to_contain_text('{"charged":7}')
    expect(page.get_by_role("region", name="As it was registered")).to_contain_text("bank")


def test_an_agent_is_deleted_once_its_name_is_typed(stage: Start, visitors: Visitors) -> None:
    app = shop()
    here = stage(app)
    page = visitors.new()
    page.goto(f"{here.url}/agents/orders/charge")
    page.get_by_role("link", name="Delete…").click()
    page.get_by_label("Type charge").fill("chargE")
    page.get_by_role("button", name="Delete").click()
    page.get_by_text("Type charge to say that you mean it.").wait_for()
    assert here.do(app.transport.groups, "orders")
    page.get_by_label("Type charge").fill("charge")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("status").first).to_contain_text("charge on orders is deleted.")
    assert here.do(app.transport.groups, "orders") == []
    visitors.troubles.clear()  # the 422


def test_workers_show_what_they_run(stage: Start, page: Page) -> None:
    app = shop()
    doors = {"open": anyio.Event()}

    @app.agent("slow", name="slow", consumers=2)
    async def slow(content: dict) -> None:
        await doors["open"].wait()

    here = stage(app)
    page.goto(f"{here.url}/workers")
    row = page.get_by_role("row", name=re.compile("process"))
    expect(row).to_contain_text("running")
    expect(row.locator("[data-label=Running]")).to_have_text("0 of 3")
    assert row.get_by_role("link").all_inner_texts() == ["charge", "slow"]
    here.send("slow", {})
    # With the next heartbeat, at the latest five seconds from now.
    expect(row.locator("[data-label=Running]")).to_have_text("1 of 3")
    expect(row.locator("[data-label=Leases]")).to_have_text("1")

    async def open_doors() -> None:
        doors["open"].set()

    here.do(open_doors)
    here.settled()


def test_what_was_typed_wrongly_is_mended_and_its_result_arrives(
    stage: Start, visitors: Visitors
) -> None:
    here = stage(shop())
    page = visitors.new()
    page.goto(f"{here.url}/try")
    page.get_by_label("Topic").fill("orders")
    page.get_by_label("Content").fill('{"amount": 12')
    page.get_by_label("Tenant").fill("acme")
    page.get_by_role("button", name="Publish").click()
    page.get_by_text("This is not JSON").wait_for()
    content = page.get_by_label("Content")
    assert content.input_value() == '{"amount": 12'
    assert content.get_attribute("aria-invalid") == "true"
    assert page.get_by_label("Tenant").input_value() == "acme"
    content.fill('{"amount": 12}')
    page.get_by_role("button", name="Publish").click()
    page.wait_for_url("**/try?topic=orders&task=*")
    outcome = page.get_by_role("region", name="What came of it")
    expect(outcome).to_contain_text('"charged": 12')
    assert page.get_by_label("Tenant").input_value() == "acme"
    visitors.troubles.clear()  # the 422


def test_a_result_that_takes_its_time_shows_up_by_itself_and_the_form_is_left_alone(
    stage: Start, page: Page
) -> None:
    app = shop()
    doors = {"open": anyio.Event()}

    @app.agent("slow", name="slow")
    async def slow(content: dict) -> str:
        await doors["open"].wait()
        return "at last"

    here = stage(app)
    page.goto(f"{here.url}/try?topic=slow")
    page.get_by_role("button", name="Publish").click()
    outcome = page.get_by_role("region", name="What came of it")
    expect(outcome).to_contain_text("running")
    page.get_by_label("Content").fill('"something else"')

    async def open_doors() -> None:
        doors["open"].set()

    here.do(open_doors)
    expect(outcome).to_contain_text('"at last"')
    assert page.get_by_label("Content").input_value() == '"something else"'
    expect(page.locator("#announce")).to_have_text("The task is succeeded")


def test_focus_and_scrolling_survive_a_part_that_is_drawn_again(
    stage: Start, visitors: Visitors
) -> None:
    app = shop()
    for number in range(30):

        @app.agent(f"topic-{number:02}", name="one")
        async def one(content: dict) -> None:
            pass

    here = stage(app)
    page = visitors.new(viewport={"width": 900, "height": 500})
    page.goto(f"{here.url}/agents")
    button = page.get_by_role("row", name=re.compile("topic-29")).get_by_role("button")
    button.focus()
    page.evaluate("window.kept = [document.activeElement, scrollY]")
    assert page.evaluate("window.kept[1]") > 100
    here.do(app.transport.pause, "topic-00", "one")
    expect(page.get_by_role("row", name=re.compile("topic-00"))).to_contain_text("paused")
    assert page.evaluate("window.kept[0] === document.activeElement")
    assert page.evaluate("window.kept[1] === scrollY")


def test_what_comes_from_outside_is_text_and_nothing_else(stage: Start, page: Page) -> None:
    app = App("shop", transport="memory")

    @app.agent("orders", name="charge", description=XSS, tools=[XSS], retries=0)
    async def charge(content: dict) -> str:
        if content["fail"]:
            raise ValueError(XSS)
        return XSS

    here = stage(app)
    here.send("orders", {"fail": True}, tenant_id=XSS, correlation_id=XSS)
    task = here.send("orders", {"fail": False, "about": XSS}, correlation_id=XSS)
    here.settled()
    seen = 0
    for path in (
        "/",
        "/agents",
        "/agents/orders/charge",
        "/workers",
        f"/try?topic=orders&task={task}",
        "/agents?q=%3Cscript%3Ewindow.pwned=1%3C/script%3E&topic=%22%3E%3Cscript%3E",
        "/try?topic=%22%3E%3Cscript%3Ewindow.pwned=1%3C/script%3E",
        f"/tasks/{task}",
        "/tasks",
        "/letters",
    ):
        page.goto(f"{here.url}{path}")
        seen += XSS in page.inner_text("main")
        assert page.evaluate("window.pwned") is None, path
        assert page.locator("main img, main script").count() == 0, path
    assert seen >= 3
    page.goto(f"{here.url}/try?topic=orders&task={task}")
    assert XSS.replace('"', '\\"') in page.get_by_label("Content").input_value()
