"""Families of tasks, on every backend."""

from __future__ import annotations

from typing import Any

import pytest

from omnidaemon import App, Context, Envelope, lineage
from omnidaemon.errors import TaskNotFound
from omnidaemon.lineage import Kin, Lineage
from omnidaemon.records import RunRecord, run_write
from omnidaemon.run_index import index_changes
from tests.contract.conftest import Backend
from tests.contract.test_fleet import an_app, until, working

pytestmark = pytest.mark.anyio


def shape(kin: Kin) -> Any:
    """Topic, status and children."""
    return (kin.topic, kin.status, [shape(child) for child in kin.children])


@pytest.fixture
def app(backend: Backend) -> App:
    """An order causes two mails and a reply; one of the mails fails."""
    app = an_app(backend)

    @app.agent("orders", name="split", reply_to="done")
    async def split(n: int, ctx: Context) -> int:
        await ctx.send("mails", "good")
        await ctx.send("mails", "bad")
        await ctx.send("nobody", 1)
        return n

    @app.agent("mails", name="mail", retries=0)
    async def mail(text: str) -> str:
        if text == "bad":
            raise ValueError("no such address")
        return text

    @app.agent("done", name="note")
    async def note(n: int, ctx: Context) -> None:
        await ctx.send("notes", n)

    @app.agent("notes", name="file")
    async def file(n: int) -> None:
        return None

    return app


async def test_a_tree_is_the_same_from_wherever_it_is_asked_for(app: App, backend: Backend) -> None:
    find = Lineage(an_app(backend, "elsewhere"))
    async with working(app):
        order = await app.send("orders", 1)

        async def all_there() -> bool:
            return len(await app.tasks.newest()) == 5

        await until(all_there)
    tree = await find.tree(order.id)
    expected = (
        "orders",
        "succeeded",
        [
            ("mails", "succeeded", []),
            ("mails", "dead", []),
            ("nobody", "pending", []),
            ("done", "succeeded", [("notes", "succeeded", [])]),
        ],
    )
    assert shape(tree.root) == expected
    assert (tree.tasks, tree.complete) == (6, True)
    bad = tree.root.children[1]
    assert bad.cause is not None
    assert (bad.cause.message, bad.agents) == ("no such address", {"mail": "dead"})
    leaf = tree.root.children[3].children[0]
    for child in (bad.task_id, leaf.task_id):
        assert shape((await find.tree(child)).root) == expected
    with pytest.raises(TaskNotFound):
        await find.tree("none")


async def test_webhooks_are_part_of_the_tree(backend: Backend) -> None:
    app = an_app(backend)

    @app.agent("orders", name="one")
    async def one(n: int) -> int:
        return n

    async with working(app):
        order = await app.send("orders", 1, webhook="http://192.0.2.1/hook")
        await order.result(timeout=10)
        tree = await Lineage(app).tree(order.id)
    [hook] = tree.root.children
    assert hook.topic == "omni.webhooks"
    assert hook.status in ("pending", "running", "dead", "failed")


async def test_an_ancestor_that_is_gone_leaves_its_id_and_joins_what_it_caused(
    app: App, backend: Backend
) -> None:
    for number in range(2):
        await app.publish(Envelope("nobody", number, f"c{number}", causation_id="gone"))
    tree = await Lineage(app).tree("c1")
    assert (tree.root.task_id, tree.root.status, tree.root.topic) == ("gone", None, "")
    assert sorted(child.task_id for child in tree.root.children) == ["c0", "c1"]


async def test_a_circle_ends(app: App) -> None:
    await app.publish(Envelope("nobody", 1, "a", causation_id="b"))
    await app.publish(Envelope("nobody", 1, "b", causation_id="a"))
    await app.publish(Envelope("nobody", 1, "self", causation_id="self"))
    tree = await Lineage(app).tree("a")
    assert tree.tasks == 2
    assert [child.task_id for child in tree.root.children] == ["a"]
    assert (await Lineage(app).tree("self")).root.children == []


async def test_a_tree_is_bounded_in_breadth_depth_and_height(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        await app.publish(Envelope("nobody", 1, f"n{number + 1}", causation_id=f"n{number}"))
        await app.publish(Envelope("nobody", 1, f"wide{number}", causation_id="n0"))
    await app.publish(Envelope("nobody", 1, "n0"))
    find = Lineage(app)
    assert (await find.tree("n0")).complete
    assert (await find.tree("n0")).tasks == 13
    monkeypatch.setattr(lineage, "CHILDREN_MOST", 2)
    tree = await find.tree("n0")
    assert (len(tree.root.children), tree.root.more, tree.complete) == (2, True, False)
    monkeypatch.setattr(lineage, "CHILDREN_MOST", 50)
    monkeypatch.setattr(lineage, "TASKS_MOST", 4)
    tree = await find.tree("n6")
    assert not tree.complete
    assert tree.root.task_id == "n0"  # the line up to it is always there
    monkeypatch.setattr(lineage, "DEPTH_MOST", 1)
    monkeypatch.setattr(lineage, "ANCESTORS_MOST", 2)
    tree = await find.tree("n6")
    assert (tree.root.task_id, tree.complete) == ("n4", False)


async def test_a_tenant_sees_its_own_part_alone(app: App) -> None:
    await app.publish(Envelope("nobody", 1, "top", tenant_id="b"))
    await app.publish(Envelope("nobody", 1, "mine", tenant_id="a", causation_id="top"))
    await app.publish(Envelope("nobody", 1, "child", tenant_id="a", causation_id="mine"))
    await app.publish(Envelope("nobody", 1, "theirs", tenant_id="b", causation_id="mine"))
    ran = RunRecord("ran", "x", "y", "succeeded", tenant_id="b", causation_id="mine")
    await app.store.write(run_write(ran, 60), *index_changes(ran, 60))
    tree = await Lineage(app).tree("mine", tenant_id="a")
    assert tree.root.task_id == "mine"
    assert [child.task_id for child in tree.root.children] == ["child"]
