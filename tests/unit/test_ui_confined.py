"""The dashboard's pages against those who may see a part of them: no scope, no other tenant."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import cast

import msgspec
import pytest

from omnidaemon import App
from omnidaemon.admin import Admin
from omnidaemon.admin.events import MOST_STREAMS, Feed, Listener
from omnidaemon.lineage import Lineage
from omnidaemon.messages import Message
from omnidaemon.testing import serve
from tests.unit.admin_client import KEYS, shop
from tests.unit.test_ui_pages import Visitor, visiting

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Nothing here depends on the loop."""
    return "asyncio"


async def test_a_key_that_may_only_publish_reads_no_event_by_its_id() -> None:
    async with visiting("publisher-key") as (served, visitor):
        await served.app.send("orders", "the secret", id="known", correlation_id="theirs")
        page = await visitor.get("/try?topic=orders&task=known")
        assert page.status_code == 200
        assert "the secret" not in page.text
        assert "theirs" not in page.text


async def test_the_list_of_tasks_tells_one_tenant_nothing_of_the_others() -> None:
    async with visiting("a-key") as (served, visitor):
        await served.app.send("nobody-listens", "mine", id="mine", tenant_id="a")
        for number in range(3):
            await served.app.send("nobody-listens", number, tenant_id="b")
        await served.app.send("orders", "late", tenant_id="b", delay=60.0)
        await served.app.send("orders", "bad", tenant_id="b", correlation_id="theirs")
        await served.settled()
        page = (await visitor.get("/tasks")).text
        assert "mine" in page
        assert "charge" not in page
        assert "more wait or run" not in page
        assert "delayed" not in page
        assert "looked at" not in (await visitor.get("/tasks?correlation_id=theirs")).text
        assert "looked at" not in (await visitor.get("/tasks?status=dead")).text


async def test_an_id_that_two_tenants_use_shows_neither_the_other_s_event() -> None:
    app = App("shop", transport="memory")

    @app.agent("orders", name="charge", retries=0)
    async def charge(content: object) -> None:
        return None

    async with visiting("a-key", app) as (served, visitor):
        await app.send("orders", "mine", id="order-1", tenant_id="a")
        await served.settled()
        assert "mine" in (await visitor.get("/tasks/order-1")).text
        await app.transport.pause("orders", "charge")
        await app.send("orders", "the secret", id="order-1", tenant_id="b")
        answer = await visitor.get("/tasks/order-1")
        assert "the secret" not in answer.text
        assert answer.status_code == 403


async def test_a_task_shows_no_dead_letter_of_another_tenant_that_used_the_same_id() -> None:
    app = App("shop", transport="memory")

    @app.agent("orders", name="charge", retries=0)
    async def charge(content: str) -> None:
        if content != "mine":
            raise ValueError(content)

    async with visiting("a-key", app) as (served, visitor):
        await app.send("orders", "the secret", id="order-1", tenant_id="b")
        await served.settled()
        await app.send("orders", "mine", id="order-1", tenant_id="a")
        await served.settled()
        answer = await visitor.get("/tasks/order-1")
        assert "mine" in answer.text
        assert "the secret" not in answer.text


async def test_a_tree_has_no_run_of_another_tenant_that_uses_the_same_id() -> None:
    app = App("shop", transport="memory")

    @app.agent("mails", name="mine")
    async def mail(content: int) -> None:
        return None

    @app.agent("bills", name="theirs")
    async def bill(content: int) -> None:
        return None

    async with visiting("a-key", app) as (served, visitor):
        await app.send("orders", 1, id="root", tenant_id="a")
        for topic, tenant in (("bills", "b"), ("mails", "a")):
            await app.send(topic, 1, id="child", tenant_id=tenant, causation_id="root")
        await served.settled()
        tree = await Lineage(app).tree("root", tenant_id="a")
        [child] = tree.root.children
        assert child.agents == {"mine": "succeeded"}
        assert "theirs" not in (await visitor.get("/tasks/root")).text


@pytest.mark.parametrize(
    "content", [b"\xff", {1: "one"}, float("nan")], ids=["bytes", "keys", "nan"]
)
async def test_what_json_cannot_say_is_not_changed_by_editing_something_else(
    content: object,
) -> None:
    app = App("shop", transport="memory")

    @app.agent("orders", name="charge", retries=0)
    async def charge(content: object) -> None:
        raise ValueError("no")

    event = {"topic": "orders", "id": "odd", "created_at": 1.0, "v": 1}
    async with visiting(app=app) as (served, visitor):
        body = msgspec.msgpack.encode({**event, "content": {"typo": 1, "odd": content}})
        await app.transport.publish(Message("orders", "odd", body))
        await served.settled()
        assert "typo" in (await visitor.get("/tasks/odd")).text
        form = await visitor.get("/tasks/odd/edit?agent=charge")
        assert form.status_code == 409
        assert "JSON" in form.text


@pytest.mark.parametrize("moment", [1e300, -1e300, float("inf"), float("nan")])
async def test_a_task_of_a_time_without_a_date_is_shown_all_the_same(moment: float) -> None:
    async with visiting() as (served, visitor):
        event = {"topic": "elsewhere", "id": "far", "created_at": moment, "v": 1}
        body = msgspec.msgpack.encode(event)
        await served.app.transport.publish(Message("elsewhere", "far", body))
        assert (await visitor.get("/tasks/far")).status_code == 200
        assert (await visitor.http.get("/tasks/far/tree")).status_code == 200


async def test_who_has_not_logged_in_sends_no_large_form() -> None:
    visitor = Visitor(Admin(shop(), keys=KEYS))
    fields = {"csrf": await visitor.csrf(), "key": "x" * 100_000}
    assert (await visitor.post("/login", fields)).status_code == 413


async def test_streams_that_begin_together_are_not_more_than_one_by_one() -> None:
    app = shop()
    async with serve(app):
        feed = Feed(app.store)
        listeners = [Listener(feed, None, None) for _ in range(MOST_STREAMS + 3)]
        open_ones = []
        for listener in listeners:
            stream = cast(AsyncGenerator[str, None], listener.stream())
            if await anext(stream, None) is not None:
                open_ones.append(stream)
        assert feed.listeners == len(open_ones) == MOST_STREAMS
        for stream in open_ones:
            await stream.aclose()
        assert feed.listeners == 0


async def test_no_address_looks_like_another_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*args: object, **options: object) -> None:
        raise RuntimeError("a defect")

    async with visiting() as (served, visitor):
        monkeypatch.setattr(served.app.transport, "groups", broken)
        answer = await visitor.get("/agents/orders/x%0A12:00%20ERROR%20forged")
        assert answer.status_code == 500
        [said] = [one.getMessage() for one in caplog.records if one.name == "omnidaemon.admin"]
        assert "forged" in said
        assert "\n" not in said
        monkeypatch.undo()
