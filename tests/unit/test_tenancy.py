"""Lists and counters of one tenant's events, for which events without a tenant pay nothing."""

from __future__ import annotations

import pytest

from omnidaemon import App, Backoff
from omnidaemon.records import TENANT_METRICS, TENANT_RESULTS, Metrics, Results
from omnidaemon.testing import serve

pytestmark = pytest.mark.anyio

AWKWARD = "a/b *=ü%"


@pytest.fixture
def app() -> App:
    app = App("test", transport="memory")

    @app.agent("orders", name="charge", retries=1, backoff=Backoff(initial=0.001))
    async def charge(content: str) -> str:
        if content == "bad":
            raise ValueError("no")
        return content

    @app.agent("mails", name="mail")
    async def mail(content: str) -> str:
        return content

    return app


async def test_a_list_of_one_tenant_has_its_newest_runs_alone(app: App) -> None:
    async with serve(app) as served:
        for tenant in ("a", "b", AWKWARD, None):
            await app.send("orders", "first", tenant_id=tenant)
            await served.settled()
            await app.send("mails", "second", tenant_id=tenant)
            await served.settled()
        for tenant in ("a", "b", AWKWARD):
            runs = await app.tasks.newest(tenant_id=tenant)
            assert [(run.tenant_id, run.value) for run in runs] == [
                (tenant, "second"),
                (tenant, "first"),
            ]
            assert [run.topic for run in await app.tasks.newest("mails", tenant_id=tenant)] == [
                "mails"
            ]
            assert len(await app.tasks.newest(limit=1, tenant_id=tenant)) == 1
        assert len(await app.tasks.newest()) == 8
        assert await app.tasks.newest(tenant_id="c") == []


async def test_counters_of_one_tenant_are_its_share_of_the_total(app: App) -> None:
    async with serve(app) as served:
        await app.send("orders", "fine", tenant_id=AWKWARD)
        await app.send("orders", "bad", tenant_id=AWKWARD)
        await app.send("orders", "fine", tenant_id="other")
        await app.send("orders", "fine")
        await served.settled()
        metrics = Metrics(app.store)
        total = (await metrics.totals())["orders"]["charge"]
        share = (await metrics.totals("orders", tenant_id=AWKWARD))["orders"]["charge"]
        assert (total.processed, total.failed, total.dead) == (3, 2, 1)
        assert (share.processed, share.failed, share.dead) == (1, 2, 1)
        assert 0 < share.seconds < total.seconds
        assert await metrics.totals("mails", tenant_id=AWKWARD) == {}
        assert await metrics.totals(tenant_id="nobody") == {}


async def test_an_event_without_a_tenant_writes_nothing_for_tenants(app: App) -> None:
    async with serve(app) as served:
        await app.send("orders", "fine")
        await app.send("orders", "fine", tenant_id="")
        await served.settled()
        assert await app.store.browse(TENANT_RESULTS) == []
        assert await app.store.totals(TENANT_METRICS) == {}


async def test_a_removed_task_is_in_no_tenants_list(app: App) -> None:
    async with serve(app) as served:
        task = await app.send("orders", "fine", tenant_id="a")
        await served.settled()
        assert await Results(app.store).remove(task.id) == 1
        assert await app.tasks.newest(tenant_id="a") == []
        assert await app.store.browse(TENANT_RESULTS) == []


async def test_an_id_used_again_without_a_tenant_shows_no_tenant_the_new_record(app: App) -> None:
    async with serve(app) as served:
        await app.send("orders", "theirs", id="o1", tenant_id="t1")
        await served.settled()
        assert [run.task_id for run in await app.tasks.newest(tenant_id="t1")] == ["o1"]
        await app.send("orders", "ours", id="o1")
        await served.settled()
        assert await app.tasks.newest(tenant_id="t1") == []
