"""Tasks, one task and dead letters, as a person finds them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from playwright.sync_api import Page, expect

from omnidaemon import App, Backoff, Context, Envelope
from omnidaemon.letters import Letters
from omnidaemon.messages import Message
from omnidaemon.records import RunRecord, run_write, tenant_changes
from omnidaemon.run_index import index_changes
from tests.browser.conftest import KEYS, Stage, Visitors

Start = Callable[..., Stage]

A_KEYS = (*KEYS, "a-admin-key:admin:a")
PAYLOAD = (
    '</pre></script><script>window.owned=1</script><img src=x onerror="window.owned=1">\'"`{{7*7}}'
)


class Shop:
    """An app whose agents do as they are told.

    Attributes:
        app: The app.
        mended: Set it, and `charge` refuses no more.
        seen: What `audit` was given.
    """

    def __init__(self) -> None:
        self.app = App("shop", transport="memory")
        self.mended = False
        self.seen: list[Any] = []
        self.gate = anyio.Event()

        @self.app.agent("orders", name="charge", retries=1, backoff=Backoff(initial=0))
        async def charge(content: Any, ctx: Context) -> Any:
            if content.get("bad") and not self.mended:
                raise ValueError(f"order {content['n']} has no price")
            if content.get("mail"):
                await ctx.send("mails", {"of": content["n"]})
            return {"charged": content["n"]}

        @self.app.agent("orders", name="audit")
        async def audit(content: Any) -> None:
            self.seen.append(content)

        @self.app.agent("mails", name="mail", retries=0)
        async def mail(content: Any) -> None:
            if content.get("raise"):
                raise RuntimeError(content["raise"])

        @self.app.agent("slow", name="wait")
        async def wait(content: Any) -> None:
            await self.gate.wait()


@pytest.fixture
def shop() -> Shop:
    """A shop of the test's own."""
    return Shop()


def rows(page: Page) -> Any:
    """The rows of the list."""
    return page.locator("table.tasks tbody tr")


# The list


def test_a_failing_task_is_found_understood_and_replayed_by_three_clicks(
    stage: Start, page: Page, shop: Shop
) -> None:
    here = stage(shop.app)
    for n in range(3):
        here.send("orders", {"n": n})
    bad = here.send("orders", {"n": 17, "bad": True})
    here.settled()
    page.goto(f"{here.url}/tasks")
    page.get_by_role("navigation", name="Status").get_by_role("link", name="Dead").click()
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("ValueError: order 17 has no price")
    rows(page).get_by_role("link").click()
    page.wait_for_url(f"{here.url}/tasks/{bad}")
    expect(page.get_by_role("heading", name="ValueError order 17 has no price")).to_be_visible()
    expect(page.get_by_label("Traceback")).to_contain_text("in charge")
    expect(page.locator(".timeline").first).to_contain_text(
        re.compile("Run 1 failed.*Run 2 gave up", re.DOTALL)
    )
    shop.mended = True
    page.get_by_role("button", name="Replay", exact=True).click()
    expect(page.get_by_text("Replayed: charge has it again")).to_be_visible()
    expect(page.locator(".title .badge")).to_have_text("succeeded")  # drawn again by itself
    assert here.do(here.app.tasks.get, bad).runs["charge"].value == {"charged": 17}
    expect(page.get_by_label("Result")).to_contain_text('"charged": 17')
    timeline = page.locator("[data-key=agent-charge] .timeline")
    expect(timeline).to_contain_text(
        re.compile("Run 1.*Run 2 gave up.*Replayed.*Run 1 succeeded", re.DOTALL)
    )
    assert [content["n"] for content in shop.seen].count(17) == 1  # the other agent ran it once


def test_a_replay_that_fails_as_before_says_that_it_has_failed_again(
    stage: Start, page: Page, shop: Shop
) -> None:
    here = stage(shop.app)
    bad = here.send("orders", {"n": 17, "bad": True})
    here.settled()
    page.goto(f"{here.url}/tasks/{bad}")
    who = page.locator(".failure-who")
    expect(who).to_contain_text(re.compile("charge gave up after 2 runs, (just now|[0-9]+ s ago)"))
    for replay in (1, 2):
        page.get_by_role("button", name="Replay", exact=True).click()
        expect(who).to_contain_text(f"charge gave up again in replay {replay}, after 2 runs")


def test_a_tab_that_was_left_alone_catches_up_and_its_old_button_does_no_harm(
    stage: Start, visitors: Visitors, shop: Shop
) -> None:
    here = stage(shop.app)
    bad = here.send("orders", {"n": 17, "bad": True})
    here.settled()
    page, old = visitors.new(), visitors.new(java_script_enabled=False)
    for tab in (page, old):
        tab.goto(f"{here.url}/tasks/{bad}")
        expect(tab.locator(".title .badge")).to_have_text("dead")
    shop.mended = True
    here.do(Letters(here.app).replay_one, "orders", "charge", bad)
    here.settled()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # as on coming back
    expect(page.locator(".title .badge")).to_have_text("succeeded")
    old.get_by_role("button", name="Replay", exact=True).click()
    expect(old.get_by_text("Nothing was done: charge has no dead letter")).to_be_visible()
    expect(old.locator(".title .badge")).to_have_text("succeeded")


def test_a_traceback_is_read_without_scrolling_sideways(
    stage: Start, visitors: Visitors, shop: Shop
) -> None:
    here = stage(shop.app)
    bad = here.send("mails", {"raise": "the mailbox says " + "no " * 300})
    here.settled()
    page = visitors.new(viewport={"width": 360, "height": 740})
    page.goto(f"{here.url}/tasks/{bad}")
    box = page.get_by_label("Traceback")
    expect(box).to_contain_text("in mail")
    assert box.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_no_text_is_smaller_than_twelve_pixels(stage: Start, page: Page, shop: Shop) -> None:
    here = stage(shop.app)
    bad = here.send("orders", {"n": 17, "bad": True}, tenant_id="a")
    here.settled()
    small = """() => [...document.querySelectorAll("body *")].filter((element) =>
        element.checkVisibility() &&
        [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) &&
        parseFloat(getComputedStyle(element).fontSize) < 11.9
    ).map((element) => element.outerHTML)"""
    for path in ("/", "/tasks", f"/tasks/{bad}", "/letters", "/agents", "/workers", "/try"):
        page.goto(f"{here.url}{path}")
        assert page.evaluate(small) == [], path


def test_filters_find_what_they_say(stage: Start, page: Page, shop: Shop) -> None:
    here = stage(shop.app)
    here.send("orders", {"n": 1}, tenant_id="a", correlation_id="talk/1")
    here.send("orders", {"n": 2, "bad": True}, tenant_id="b")
    here.send("mails", {})
    slow = [here.send("slow", {}) for _ in range(2)]
    here.do(until, here, lambda: count(here, 5))
    page.goto(f"{here.url}/tasks")
    expect(rows(page)).to_have_count(7)

    def filtered(expected: int, **fields: str) -> None:
        page.goto(f"{here.url}/tasks")
        for label, value in fields.items():
            page.get_by_label(label.replace("_", " "), exact=True).fill(value)
        page.get_by_role("button", name="Filter").click()
        expect(rows(page)).to_have_count(expected)

    filtered(4, Topic="orders")
    filtered(2, Agent="charge")
    filtered(2, Tenant="a")
    filtered(2, Correlation_id="talk/1")
    filtered(1, Topic="orders", Agent="audit", Tenant="b")
    for name, expected in (("Running", 1), ("Pending", 1), ("Dead", 1), ("Succeeded", 4)):
        page.goto(f"{here.url}/tasks")
        page.get_by_role("navigation", name="Status").get_by_role("link", name=name).click()
        expect(rows(page)).to_have_count(expected)
    page.goto(f"{here.url}/tasks?status=running")
    expect(rows(page)).to_contain_text(slow[0])
    page.goto(f"{here.url}/tasks?topic=none")
    expect(page.get_by_text("No tasks fit these filters")).to_be_visible()
    page.get_by_role("link", name="Show all tasks").click()
    expect(rows(page)).to_have_count(7)
    here.do(opened, shop.gate)
    here.settled()


async def opened(gate: anyio.Event) -> None:
    """Opens the gate in the loop that waits for it."""
    gate.set()


async def count(here: Stage, expected: int) -> bool:
    """Whether there are so many records of runs that are over."""
    runs = await here.app.tasks.newest()
    return len([run for run in runs if run.status != "failed"]) == expected


async def until(here: Stage, look: Callable[[], Any]) -> None:
    """Waits until it is so."""
    with anyio.fail_after(60):
        while not await look():
            await anyio.sleep(0.02)


def test_new_runs_appear_at_the_top_and_wait_while_somebody_reads(
    stage: Start, page: Page, shop: Shop
) -> None:
    here = stage(shop.app)
    first = here.send("mails", {})
    here.settled()
    page.goto(f"{here.url}/tasks")
    expect(rows(page)).to_have_count(1)
    second = here.send("mails", {})
    expect(rows(page)).to_have_count(2)
    expect(rows(page).first).to_contain_text(second)
    rows(page).last.get_by_role("link").focus()
    third = here.send("mails", {})
    button = page.get_by_role("button", name="1 new run: show it")
    expect(button).to_be_visible()
    expect(rows(page)).to_have_count(2)
    focused = page.evaluate("document.activeElement.textContent")
    assert first in focused
    button.click()
    expect(rows(page)).to_have_count(3)
    expect(rows(page).first).to_contain_text(third)
    expect(button).to_be_hidden()


def test_what_is_delayed_says_when_it_is_due(stage: Start, page: Page, shop: Shop) -> None:
    here = stage(shop.app)
    here.send("orders", {"n": 1}, delay=7260)
    here.send("mails", {})
    here.settled()
    page.goto(f"{here.url}/tasks")
    expect(rows(page)).to_have_count(2)
    late = rows(page).filter(has_text="orders")
    expect(late).to_contain_text("delayed")
    expect(late).to_contain_text("in 2 h")
    late.get_by_role("link").click()
    expect(page.get_by_text("Due in 2 h")).to_be_visible()
    expect(page.get_by_text("No agent listens")).to_have_count(0)


def test_an_id_leads_to_its_task_and_a_correlation_id_to_its_tasks(
    stage: Start, page: Page, shop: Shop
) -> None:
    here = stage(shop.app)
    task = here.send("orders", {"n": 1, "mail": True}, correlation_id="talk 7/ü")
    here.settled()
    page.goto(f"{here.url}/")
    page.keyboard.press("/")
    page.keyboard.type(task)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{here.url}/tasks/{task}")
    expect(page.get_by_role("heading", level=1)).to_have_text("orders")
    search = page.get_by_role("searchbox")
    search.fill("talk 7/ü")
    search.press("Enter")
    expect(rows(page)).to_have_count(3)
    search.fill("no such thing")
    search.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("no such thing")


def test_older_runs_are_a_page_away_and_stay_there(stage: Start, page: Page, shop: Shop) -> None:
    here = stage(shop.app)
    runs = [RunRecord(f"t{n}", "orders", "charge", "succeeded") for n in range(120)]
    here.do(here.app.store.write, *(run_write(run, 3600) for run in runs))
    page.goto(f"{here.url}/tasks")
    expect(rows(page)).to_have_count(50)
    page.get_by_role("link", name="Older").click()
    expect(rows(page).first).to_contain_text("t69")
    here.do(here.app.store.write, run_write(RunRecord("new", "orders", "charge", "dead"), 3600))
    page.get_by_role("link", name="Older").click()
    expect(rows(page)).to_have_count(20)
    expect(rows(page).last).to_contain_text("t0")
    assert page.get_by_role("link", name="Older").count() == 0
    page.get_by_role("link", name="Newest").click()
    expect(rows(page).first).to_contain_text("new")
    page.goto(f"{here.url}/tasks?agent=none")
    expect(page.get_by_text("121 records were looked at.")).to_be_visible()


# One task


def test_a_family_is_a_tree_to_walk_in(stage: Start, page: Page, shop: Shop) -> None:
    here = stage(shop.app)
    task = here.send("orders", {"n": 1, "mail": True})
    here.settled()
    page.goto(f"{here.url}/tasks/{task}")
    tree = page.locator(".tree")
    expect(tree.locator("li")).to_have_count(2)
    tree.get_by_role("link", name="mails").click()
    page.wait_for_url(lambda url: not url.endswith(task))
    expect(page.locator(".kin-here")).to_contain_text("mails")
    page.locator(".facts a[href*='?q=']").click()
    page.wait_for_url(f"{here.url}/tasks/{task}")


def test_an_edited_letter_is_replayed_with_its_new_content(
    stage: Start, page: Page, shop: Shop, visitors: Visitors
) -> None:
    here = stage(shop.app)
    bad = here.send("orders", {"n": 1, "bad": True})
    here.settled()
    page.goto(f"{here.url}/tasks/{bad}")
    page.get_by_role("link", name="Edit and replay").click()
    text = page.get_by_label("Content, as JSON")
    expect(text).to_be_focused()
    expect(text).to_have_value(re.compile('"bad": true'))
    text.fill('{"n": 2,')
    page.get_by_role("button", name="Replay with this content").click()
    expect(page.get_by_role("alert")).to_contain_text("is not JSON")
    expect(text).to_have_value('{"n": 2,')  # what was typed is not lost
    [said] = visitors.troubles  # the browser names the status that the form came back with
    assert "422" in said
    visitors.troubles.clear()
    text.fill('{"n": 99}')
    page.get_by_role("button", name="Replay with this content").click()
    expect(page.locator(".title .badge")).to_have_text("succeeded")
    expect(page.get_by_label("Result")).to_contain_text('"charged": 99')
    assert 99 not in [content["n"] for content in shop.seen]


def test_a_letter_is_deleted_after_a_second_word(stage: Start, page: Page, shop: Shop) -> None:
    here = stage(shop.app)
    bad = here.send("orders", {"n": 1, "bad": True})
    here.settled()
    page.goto(f"{here.url}/tasks/{bad}")
    delete = page.get_by_role("button", name="Delete the dead letter")
    expect(delete).to_be_hidden()
    page.get_by_text("Delete…").click()
    delete.click()
    expect(page.get_by_text("The dead letter of charge is deleted.")).to_be_visible()
    expect(page.get_by_text("Its dead letter is gone, so it cannot be replayed.")).to_be_visible()
    assert here.do(here.app.transport.dead_letters, "orders") == []


# Dead letters


def test_letters_are_grouped_replayed_and_deleted(stage: Start, page: Page, shop: Shop) -> None:
    here = stage(shop.app)
    for n in range(7):
        here.send("orders", {"n": n, "bad": True})
    for n in range(2):
        here.send("mails", {"raise": f"mailbox {n} is full"})
    last = here.send("mails", {"raise": "no network"})
    here.settled()
    page.goto(f"{here.url}/letters")
    groups = page.locator("li.letters")
    expect(groups).to_have_count(3)
    orders = groups.filter(has_text="ValueError")
    expect(orders.locator(".letters-count")).to_have_text("7")
    orders.locator("summary").first.click()
    orders.get_by_role("link", name="All 7 with this error").click()
    expect(page.locator(".heads li")).to_have_count(7)
    shop.mended = True
    page.get_by_role("button", name="Replay these 7").click()
    expect(page.get_by_text("7 dead letters are replayed.")).to_be_visible()
    here.settled()
    full = page.locator("li.letters").filter(has_text="is full")
    full.get_by_text("Delete…").click()
    full.get_by_role("button", name="Delete 2").click()
    expect(page.get_by_text("2 dead letters are deleted.")).to_be_visible()
    expect(groups).to_have_count(1)
    expect(groups).to_contain_text("no network")
    page.get_by_role("link", name=last).click()
    expect(page.get_by_role("heading", name="RuntimeError no network")).to_be_visible()
    page.goto(f"{here.url}/letters")
    page.get_by_text("Replay all 1…").click()
    page.get_by_role("button", name="Replay all", exact=True).click()
    expect(page.get_by_text("1 dead letter is replayed.")).to_be_visible()
    here.settled()
    page.reload()
    expect(groups).to_contain_text("replay 1")


# Who may do what


def test_who_may_only_read_sees_no_buttons_and_is_refused(
    stage: Start, page: Page, shop: Shop
) -> None:
    here = stage(shop.app, keys=A_KEYS)
    bad = here.send("orders", {"n": 1, "bad": True})
    here.settled()
    here.log_in(page, "reader-key")
    for path in (f"/tasks/{bad}", "/letters"):
        page.goto(f"{here.url}{path}")
        assert page.get_by_text("order 1 has no price").count() > 0
        for name in ("Replay", "Delete", "Edit"):
            assert page.locator("main").get_by_role("button", name=name).count() == 0
            assert page.locator("main").get_by_role("link", name=name).count() == 0
    csrf = page.locator("input[name=csrf]").first.get_attribute("value") or ""
    for path, form in (
        (f"/tasks/{bad}/replay", {"agent": "charge"}),
        (f"/tasks/{bad}/discard", {"agent": "charge"}),
        (f"/tasks/{bad}/edit", {"agent": "charge", "content": "{}"}),
        ("/letters/replay", {}),
        ("/letters/discard", {"key": "x"}),
    ):
        answer = page.request.post(f"{here.url}{path}", form={**form, "csrf": csrf})
        assert answer.status == 403
        assert "scope admin" in answer.text()
    assert page.request.get(f"{here.url}/tasks/{bad}/edit?agent=charge").status == 403
    assert len(here.do(here.app.transport.dead_letters, "orders")) == 1


def test_a_change_without_the_pages_token_is_refused(stage: Start, page: Page, shop: Shop) -> None:
    here = stage(shop.app, keys=A_KEYS)
    bad = here.send("orders", {"n": 1, "bad": True})
    here.settled()
    here.log_in(page, "admin-key")
    for form in ({"agent": "charge"}, {"agent": "charge", "csrf": "0" * 64}):
        assert page.request.post(f"{here.url}/tasks/{bad}/replay", form=form).status == 403
    assert len(here.do(here.app.transport.dead_letters, "orders")) == 1


@pytest.mark.parametrize("key", ["a-key", "a-admin-key"])
def test_a_key_bound_to_a_tenant_sees_that_tenants_tasks_alone(
    stage: Start, page: Page, shop: Shop, key: str
) -> None:
    here = stage(shop.app, keys=A_KEYS)
    mine = here.send("orders", {"n": 1, "bad": True}, tenant_id="a", correlation_id="c")
    theirs = here.send("orders", {"n": 2}, tenant_id="b", correlation_id="c")
    kin = Envelope("mails", {}, tenant_id="b", causation_id=mine)
    here.do(here.app.publish, kin)
    here.settled()
    here.log_in(page, key)
    page.goto(f"{here.url}/tasks")
    expect(rows(page)).to_have_count(2)
    expect(rows(page).first).to_contain_text(mine)
    assert page.get_by_label("Tenant").count() == 0
    assert page.get_by_role("link", name="Dead letters").count() == 0
    for path in (f"/tasks/{theirs}", "/letters", "/tasks?tenant_id=b"):
        assert page.request.get(f"{here.url}{path}").status == 403
    for query in (f"q={theirs}", "correlation_id=c"):
        page.goto(f"{here.url}/tasks?{query}")
        assert page.locator(f"main a[href*='{theirs}']").count() == 0
    page.goto(f"{here.url}/tasks/{mine}")
    expect(page.locator(".tree li")).to_have_count(1)
    assert page.get_by_role("button", name="Replay").count() == 0
    csrf = page.locator("input[name=csrf]").first.get_attribute("value") or ""
    form = {"csrf": csrf, "agent": "charge"}
    assert page.request.post(f"{here.url}/tasks/{mine}/replay", form=form).status == 403


# What comes from outside


def test_what_comes_from_outside_is_text(stage: Start, visitors: Visitors, shop: Shop) -> None:
    here = stage(shop.app)
    fields = {
        "tenant_id": PAYLOAD,
        "correlation_id": PAYLOAD,
        "source": PAYLOAD,
        "headers": {"x-odd": PAYLOAD},
        "reply_to": "answers",
    }
    task = here.send("mails", {"raise": PAYLOAD, PAYLOAD: [PAYLOAD]}, **fields)
    here.settled()
    group = f"{here.url}/letters"
    for width in (1280, 360):
        page = visitors.new(viewport={"width": width, "height": 800})
        pages = [
            f"{here.url}/tasks",
            f"{here.url}/tasks/{task}",
            f"{here.url}/tasks/{task}/edit?agent=mail",
            group,
            f"{here.url}/tasks?q=%3Cscript%3Ewindow.owned=1%3C/script%3E",
            f"{here.url}/tasks?topic=%22%3E%3Cscript%3Ewindow.owned=1%3C/script%3E",
        ]
        for address in pages:
            page.goto(address)
            assert page.evaluate("window.owned") is None, address
            assert page.locator("main img, main script").count() == 0
            assert page.evaluate("document.documentElement.scrollWidth") <= width, address
            assert page.evaluate("[...document.querySelectorAll('*')].every(e => !e.onerror)")
        page.goto(f"{here.url}/tasks/{task}")
        expect(page.locator(".failure-line")).to_contain_text("<script>window.owned=1</script>")
        expect(page.get_by_label("Traceback")).to_contain_text("<img src=x")
        expect(page.get_by_label("Content")).to_contain_text("{{7*7}}")
        page.get_by_role("link", name="Edit and replay").click()
        expect(page.get_by_label("Content, as JSON")).to_have_value(re.compile("window.owned"))


def test_an_event_that_is_none_is_shown_as_its_bytes(stage: Start, page: Page, shop: Shop) -> None:
    here = stage(shop.app)
    here.do(here.app.transport.publish, Message("mails", "odd", b"\xff<script>window.owned=1"))
    here.settled()
    page.goto(f"{here.url}/tasks/odd")
    expect(page.locator(".failure-line")).to_contain_text("DecodeError")
    expect(page.locator("#content + pre")).to_contain_text("\\xff<script>")
    assert page.get_by_role("link", name="Edit and replay").count() == 0


# Without a mouse, without a script, on a phone, with a lot


def test_the_keyboard_is_enough(stage: Start, page: Page, shop: Shop) -> None:
    here = stage(shop.app)
    bad = here.send("orders", {"n": 1, "bad": True})
    here.settled()
    shop.mended = True
    page.goto(f"{here.url}/tasks?status=dead")

    def tab_to(text: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if text in (page.evaluate("document.activeElement.textContent") or ""):
                return
        raise AssertionError(f"the Tab key does not reach {text!r}")

    tab_to(bad)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{here.url}/tasks/{bad}")
    tab_to("Replay")
    page.keyboard.press("Enter")
    expect(page.locator(".title .badge")).to_have_text("succeeded")


def test_all_of_it_works_without_a_script(stage: Start, visitors: Visitors, shop: Shop) -> None:
    here = stage(shop.app)
    bad, worse = (here.send("orders", {"n": n, "bad": True}) for n in range(2))
    here.settled()
    shop.mended = True
    page = visitors.new(java_script_enabled=False)
    page.goto(f"{here.url}/tasks?q={bad}")
    page.get_by_role("button", name="Replay", exact=True).click()
    expect(page.get_by_text("Replayed: charge")).to_be_visible()
    here.settled()
    page.goto(f"{here.url}/tasks?status=succeeded")
    expect(rows(page).first).to_contain_text(bad)
    page.goto(f"{here.url}/tasks/{worse}")
    page.get_by_text("Delete…").click()
    page.get_by_role("button", name="Delete the dead letter").click()
    expect(page.get_by_text("The dead letter of charge is deleted.")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_small_phone(
    stage: Start, visitors: Visitors, shop: Shop, scheme: str
) -> None:
    here = stage(shop.app)
    wide = "W" * 400
    ids = [
        here.send("mails", {"raise": f"{wide} {n}", "long": wide}, correlation_id=wide)
        for n in range(3)
    ]
    here.send("t" * 200, {"n": 1})
    here.settled()
    page = visitors.new(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    for path in ("/tasks", f"/tasks/{ids[0]}", f"/tasks/{ids[0]}/edit?agent=mail", "/letters"):
        page.goto(f"{here.url}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
        for summary in page.locator(".confirm > summary").all():
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


def test_a_hundred_thousand_results_are_no_burden(
    stage: Start, page: Page, shop: Shop, tmp_path: Any, record_property: Callable[..., None]
) -> None:
    here = stage(shop.app)
    many = 100_000

    async def fill() -> None:
        for first in range(0, many, 5_000):
            changes: list[Any] = []
            for n in range(first, first + 5_000):
                run = RunRecord(
                    *(f"t{n}", f"topic{n % 20}", f"agent{n % 7}"),
                    "dead" if n % 1_000 == 0 else "succeeded",
                    finished_at=1.7e9 + n,
                    tenant_id="a" if n % 50 == 0 else None,
                    correlation_id=f"c{n // 4}" if n % 10 == 0 else None,
                )
                changes.append(run_write(run, 3600))
                changes += tenant_changes(run, 3600, ())
                changes += index_changes(run, 3600)
            await here.app.store.write(*changes)

    here.do(fill)
    script = "performance.getEntriesByType('navigation')[0].responseEnd"
    for query, expected in (
        ("", 50),
        ("?topic=topic3", 50),
        ("?status=dead", 50),
        ("?tenant_id=a", 50),
        ("?correlation_id=c25", 1),
        ("?agent=agent3", 50),
        ("?agent=none", 0),
        ("?q=t77777", None),
    ):
        page.goto(f"{here.url}/tasks{query}")
        if expected is not None:
            expect(rows(page)).to_have_count(expected)
        took = page.evaluate(script)
        record_property(f"tasks{query}", took)
        print(f"/tasks{query}: {took:.0f} ms")
    page.goto(f"{here.url}/tasks?agent=none")
    expect(page.get_by_role("link", name="Look further back")).to_be_visible()
    page.get_by_role("link", name="Look further back").click()
    expect(page.get_by_text("records were looked at")).to_be_visible()
