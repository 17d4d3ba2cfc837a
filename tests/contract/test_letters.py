"""Dead letters of all topics, on every backend: grouped by error, mended, handed back."""

from __future__ import annotations

from typing import Any

import pytest

from omnidaemon import App, letters
from omnidaemon.errors import PayloadError, TaskNotFound
from omnidaemon.letters import Letters, folded
from omnidaemon.messages import Bury, Message
from tests.contract.conftest import Backend
from tests.contract.test_fleet import an_app, until, working

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(backend: Backend) -> App:
    """Agents that fail for what they are told to fail for."""
    app = an_app(backend)

    async def check(content: Any) -> Any:
        if content["error"] == "value":
            raise ValueError(f"order {content['n']} has no price")
        if content["error"] == "key":
            raise KeyError("price")
        return content

    app.agent("orders", name="charge", retries=0)(check)
    app.agent("bills", name="print", retries=0)(check)
    return app


async def fill(app: App) -> None:
    """Five dead letters of two errors, two topics."""
    for n in range(3):
        await app.send("orders", {"error": "value", "n": n}, id=f"v{n}")
    await app.send("bills", {"error": "value", "n": 17}, id="b")
    await app.send("orders", {"error": "key", "n": 0}, id="k")

    async def dead() -> bool:
        return (await Letters(app).grouped()).looked == 5

    await until(dead)


async def test_letters_are_grouped_by_what_went_wrong(app: App, backend: Backend) -> None:
    async with working(app):
        await fill(app)
    grouping = await Letters(an_app(backend, "elsewhere")).grouped()
    assert (grouping.looked, grouping.total) == (5, 5)
    by_type = {group.type: group for group in grouping.groups}
    assert by_type.keys() == {"ValueError", "KeyError"}
    value = by_type["ValueError"]
    assert value.count == 4
    assert value.agents == {("orders", "charge"): 3, ("bills", "print"): 1}
    assert value.oldest <= value.heads[-1].buried <= value.heads[0].buried == value.newest
    assert {head.task_id for head in value.heads} == {"v0", "v1", "v2", "b"}
    assert by_type["KeyError"].message == "'price'"
    assert by_type["KeyError"].heads[0].attempts == 1


async def test_a_group_is_handed_back_or_removed_and_the_others_stay(app: App) -> None:
    find = Letters(app)
    async with working(app):
        await fill(app)
        by_type = {group.type: group for group in (await find.grouped()).groups}
        assert await find.discard(by_type["KeyError"].key) == 1
        assert await find.replay(by_type["ValueError"].key) == 4

        async def dead_again() -> bool:
            groups = (await find.grouped()).groups
            return [(g.type, g.count, {h.replays for h in g.heads}) for g in groups] == [
                ("ValueError", 4, {1})
            ]

        await until(dead_again)
        with pytest.raises(TaskNotFound, match="nothing was done"):
            await find.replay("no such key")
        assert await find.replay(None) == 4


async def test_a_mended_letter_is_run_by_the_agent_that_gave_it_up_alone(app: App) -> None:
    seen: list[Any] = []

    @app.agent("orders", name="other")
    async def other(content: Any) -> None:
        seen.append(content["n"])

    find = Letters(app)
    async with working(app):
        await fill(app)
        [letter] = await find.of_task(await app.tasks.get("v1"))
        assert letter.event is not None
        assert letter.event.content == {"error": "value", "n": 1}
        await find.replay_one("orders", "charge", "v1", '{"error": null, "n": 99}')

        async def succeeded() -> bool:
            return (await app.tasks.get("v1")).runs["charge"].status == "succeeded"

        await until(succeeded)
        run = (await app.tasks.get("v1")).runs["charge"]
        assert (run.value, run.replays) == ({"error": None, "n": 99}, 1)
        assert await find.of_task(await app.tasks.get("v1")) == []
        with pytest.raises(TaskNotFound, match="nothing was done"):
            await find.replay_one("orders", "charge", "v1", "{}")
        assert 99 not in seen


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[" * 500 + "]" * 500, "nested too deeply"),
        ("123456789012345678901234567890", "."),
        ('"' + "x" * 1_000_001 + '"', "bytes"),
    ],
    ids=["cut", "empty", "far too deep", "too deep", "too long a number", "too large"],
)
async def test_what_cannot_travel_mends_nothing(app: App, content: str, why: str) -> None:
    find = Letters(app)
    async with working(app):
        await app.send("orders", {"error": "key", "n": 0}, id="k")

        async def dead() -> bool:
            return (await find.grouped()).looked == 1

        await until(dead)
    with pytest.raises(PayloadError, match=why):
        await find.replay_one("orders", "charge", "k", content)
    assert (await find.grouped()).looked == 1


async def test_what_is_no_event_can_be_handed_back_but_not_mended(backend: Backend) -> None:
    app = an_app(backend)
    transport = app.transport
    async with transport.subscribe("orders", "charge", lease=backend.lease) as charge:
        await transport.publish(Message("orders", "odd", b"\xff no envelope"))
        await backend.settle(charge, await charge.receive(1, wait=1), Bury(b"\xff no JSON"))
    find = Letters(app)
    [group] = (await find.grouped()).groups
    assert (group.type, group.count) == ("unknown", 1)
    with pytest.raises(PayloadError, match="no event that can be mended"):
        await find.replay_one("orders", "charge", "odd", "{}")
    await find.replay_one("orders", "charge", "odd")
    assert (await find.grouped()).looked == 0


async def test_one_letter_is_removed(app: App) -> None:
    find = Letters(app)
    async with working(app):
        await fill(app)
    await find.discard_one("orders", "charge", "v1")
    assert (await find.grouped()).looked == 4
    with pytest.raises(TaskNotFound):
        await find.discard_one("orders", "charge", "v1")


async def test_no_more_letters_are_looked_at_than_a_bound(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with working(app):
        await fill(app)
    monkeypatch.setattr(letters, "LOOKED_MOST", 3)
    monkeypatch.setattr(letters, "STEP", 2)
    grouping = await Letters(app).grouped()
    assert (grouping.looked, grouping.total) == (3, 5)
    assert sum(group.count for group in grouping.groups) == 3


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("order 1 failed", "order 22 failed", True),
        ("took 1.5 s", "took 0.25 s", True),
        ("at 0xFF00aa", "at 0x1", True),
        (
            "01a1fd32-f64a-7300-92cd-c02b228c2f0f",
            "0bb1fd32-f64a-7300-92cd-ffff228c2f0f",
            True,
        ),
        ("key deadbeef01", "key cafe123456", True),
        ("no such user", "no such order", False),
        ("first\nsecond", "first\nother", True),
        ("deadbeef", "facade", False),
    ],
)
def test_numbers_and_ids_make_no_difference(one: str, other: str, alike: bool) -> None:
    assert (folded(one) == folded(other)) is alike
