"""The Fleet where backends do not matter: what it refuses, and whose numbers it counts."""

from __future__ import annotations

import pytest

from omnidaemon import App, Context, PayloadError
from omnidaemon.errors import InvalidSettings
from omnidaemon.fleet import Fleet
from omnidaemon.messages import Bury, Message, Settlement
from omnidaemon.testing import serve

pytestmark = pytest.mark.anyio


@pytest.fixture
def app() -> App:
    return App("test", transport="memory")


@pytest.mark.parametrize("limit", [0, -1, 10_001, True, "many"])
async def test_a_limit_that_is_none_is_refused(app, limit):
    fleet = Fleet(app)
    for look in (fleet.events, fleet.dead_letters):
        with pytest.raises(InvalidSettings, match="give a whole number from 1 to"):
            await look("orders", limit=limit)
    with pytest.raises(InvalidSettings, match="limit="):
        await fleet.metrics(limit=limit)


async def test_what_cannot_be_kept_as_configuration_is_refused(app):
    fleet = Fleet(app)
    with pytest.raises(InvalidSettings, match="config key name"):
        await fleet.set_config("a key", 1)
    with pytest.raises(PayloadError, match="config value"):
        await fleet.set_config("key", float("nan"))
    with pytest.raises(InvalidSettings, match="cannot be cleared"):
        await fleet.clear("everything")
    assert await fleet.list_config() == {}


async def test_a_tenants_numbers_are_counted_from_its_own_tasks(app):
    @app.agent("orders", name="mail", retries=0)
    async def mail(n: int, ctx: Context):
        if n < 0:
            raise ValueError

    async with serve(app) as served:
        for tenant, n in [("a", 1), ("a", -1), ("a", 2), ("b", 1)]:
            await app.send("orders", n, tenant_id=tenant)
        await served.settled()
        fleet = Fleet(app)
        numbers = (await fleet.metrics(tenant_id="a"))["orders"]["mail"]
        assert numbers["tasks_received"] == 3
        assert (numbers["tasks_processed"], numbers["tasks_failed"]) == (2, 1)
        assert await fleet.metrics(tenant_id="c") == {}
        assert (await fleet.metrics())["orders"]["mail"]["tasks_received"] == 4


async def test_bytes_that_are_no_envelope_are_shown_as_they_are(app):
    transport = app.transport
    await transport.publish(Message("orders", "odd", b"\xff{}"))
    async with transport.subscribe("orders", "mail", lease=60) as subscription:
        [delivery] = await subscription.receive(1, 0)
        await subscription.settle([Settlement(delivery, Bury(b"no \xff reason"))])
    [letter] = await Fleet(app).dead_letters("orders")
    assert (letter.event, letter.body) == (None, "\\xff{}")
    assert letter.cause.message == "no \\xff reason"
    [event] = await Fleet(app).events("orders")
    assert event.public()["body"] == "\\xff{}"
    await app.close()


async def test_internal_agents_are_not_among_those_of_users(app):
    async with app.transport.subscribe("omni.webhooks", "post", lease=60):
        assert await Fleet(app).agents() == []
        [agent] = await Fleet(app).agents("omni.webhooks")
        assert agent.name == "post"
    await app.close()
