"""Looking for tasks, on every backend: pages that hold still, filters, and what is open."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
import pytest

from omnidaemon import App, search
from omnidaemon.messages import Write
from omnidaemon.outcomes import Cause
from omnidaemon.records import RunRecord, run_write, tenant_changes
from omnidaemon.run_index import index_changes
from omnidaemon.search import Search, Wanted
from omnidaemon.stores.base import Store
from omnidaemon.tasks import TaskStatus
from tests.contract.conftest import Backend
from tests.contract.test_fleet import an_app, until, working

pytestmark = pytest.mark.anyio


def run(number: int, **fields: object) -> RunRecord:
    """A run that has ended; of every ten one is dead, and of every three one is tenant a's."""
    status = "dead" if number % 10 == 0 else "succeeded"
    known = {
        "task_id": f"t{number}",
        "topic": ("orders", "bills")[number % 2],
        "agent": ("mail", "charge", "note")[number % 3],
        "status": status,
        "cause": Cause("ValueError", "no") if status == "dead" else None,
        "finished_at": float(number),
        "tenant_id": "a" if number % 3 == 0 else None,
        "correlation_id": "c" if number % 7 == 0 else None,
    }
    return RunRecord(**{**known, **fields})  # type: ignore[arg-type]


async def stored(store: Store, *runs: RunRecord) -> None:
    """Writes the records as settlements do."""
    changes: list[Write] = []
    for one in runs:
        changes.append(run_write(one, 3600))
        changes += tenant_changes(one, 3600, ())  # type: ignore[arg-type]
        changes += index_changes(one, 3600)
    await store.write(*changes)


async def all_pages(find: Search, wanted: Wanted, limit: int = 4) -> list[int]:
    """The numbers of all that is found, in order."""
    found, before = list[int](), None
    for _ in range(100):
        page = await find.runs(wanted, limit=limit, before=before)
        found += [int(one.task_id[1:]) for one in page.runs]
        before = page.place
        if before is None:
            return found
    raise AssertionError("the pages do not end")


FILTERS: dict[str, tuple[Wanted, Callable[[RunRecord], bool]]] = {
    "all": (Wanted(), lambda one: True),
    "topic": (Wanted(topic="bills"), lambda one: one.topic == "bills"),
    "agent": (Wanted(agent="note"), lambda one: one.agent == "note"),
    "status": (Wanted(status="dead"), lambda one: one.status == "dead"),
    "success": (Wanted(status="succeeded"), lambda one: one.status == "succeeded"),
    "tenant": (Wanted(tenant_id="a"), lambda one: one.tenant_id == "a"),
    "tenant and topic": (
        Wanted(tenant_id="a", topic="orders"),
        lambda one: (one.tenant_id, one.topic) == ("a", "orders"),
    ),
    "correlation": (Wanted(correlation_id="c"), lambda one: one.correlation_id == "c"),
    "everything": (
        Wanted("orders", "mail", "dead", "a", None),
        lambda one: (
            (one.topic, one.agent, one.status, one.tenant_id) == ("orders", "mail", "dead", "a")
        ),
    ),
    "nothing": (Wanted(agent="none"), lambda one: False),
}


@pytest.fixture(params=FILTERS, ids=str)
def chosen(request: pytest.FixtureRequest) -> tuple[Wanted, Callable[[RunRecord], bool]]:
    """A filter, and what it means."""
    return FILTERS[request.param]


async def test_every_filter_finds_all_that_fits_page_by_page(
    backend: Backend, chosen: tuple[Wanted, Callable[[RunRecord], bool]]
) -> None:
    wanted, fits = chosen
    app = an_app(backend)
    runs = [run(number) for number in range(64)]
    await stored(app.store, *runs)
    expected = [number for number in reversed(range(64)) if fits(runs[number])]
    assert await all_pages(Search(app), wanted) == expected


async def test_a_search_that_must_scan_stops_and_says_how_far_it_looked(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "LOOKED_MOST", 20)
    monkeypatch.setattr(search, "STEP", 10)
    app = an_app(backend)
    await stored(app.store, *(run(n, agent="rare" if n == 1 else "mail") for n in range(60)))
    wanted = Wanted(agent="rare")
    page = await Search(app).runs(wanted, limit=5)
    assert (page.runs, page.looked) == ([], 25)
    assert page.place is not None
    page = await Search(app).runs(wanted, limit=5, before=page.place)
    assert page.runs == []
    page = await Search(app).runs(wanted, limit=5, before=page.place)
    assert [one.task_id for one in page.runs] == ["t1"]
    assert page.place is None


@pytest.mark.parametrize("status", ["dead", "failed", None])
async def test_where_one_tenant_s_page_ends_says_nothing_of_another_s_runs(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, status: TaskStatus | None
) -> None:
    monkeypatch.setattr(search, "LOOKED_MOST", 6)
    monkeypatch.setattr(search, "STEP", 3)
    app = an_app(backend)
    runs = [run(n, status=status or "succeeded", tenant_id="b") for n in range(20)]
    await stored(app.store, run(90, status=status or "succeeded", tenant_id="a"), *runs)
    page = await Search(app).runs(Wanted(tenant_id="a", status=status), limit=2)
    assert [one.task_id for one in page.runs] == ["t90"]
    assert (page.looked, page.place) == (1, None)


async def test_a_full_page_ends_at_its_last_run_whatever_was_looked_at_beyond(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "STEP", 5)
    app = an_app(backend)
    tenants = "aaaaabbbbab"  # from the oldest on; the second look ends among b's
    runs = [run(n, correlation_id="c", tenant_id=one) for n, one in enumerate(tenants)]
    await stored(app.store, *runs)
    wanted = Wanted(tenant_id="a", correlation_id="c")
    first = await Search(app).runs(wanted, limit=1)
    assert [one.task_id for one in first.runs] == ["t9"]
    at_that_run = await Search(app).runs(Wanted(correlation_id="c"), limit=2)
    assert first.place == at_that_run.place


async def test_a_search_by_id_is_exact(backend: Backend) -> None:
    app = an_app(backend)
    await stored(app.store, run(1))
    task = await app.send("orders", 1)
    find = Search(app)
    assert await find.exact("t1") == "t1"
    assert await find.exact(task.id) == task.id
    for text in ("t", "t2", "", "a b", "t1/orders", "../t1", "ключ"):
        assert await find.exact(text) is None


@pytest.fixture
def gate() -> anyio.Event:
    """What a run waits for."""
    return anyio.Event()


async def test_what_is_open_is_found_before_it_has_a_record(
    backend: Backend, gate: anyio.Event
) -> None:
    app = an_app(backend)

    @app.agent("orders", name="slow")
    async def slow(n: int) -> int:
        await gate.wait()
        return n

    @app.agent("orders", name="quick")
    async def quick(n: int) -> int:
        return n

    find = Search(an_app(backend, "elsewhere"))
    orphan = await app.send("unheard", 1, tenant_id="a", correlation_id="c")
    late = await app.send("unheard", 1, delay=3600)
    later = await app.send("orders", 1, delay=7200, tenant_id="a")
    async with working(app):
        tasks = [await app.send("orders", n) for n in range(3)]

        async def as_it_should_be() -> bool:
            page = await find.open(Wanted(topic="orders"))
            states = {(one.task_id, one.agent, one.status) for one in page.runs if not one.due}
            return page.beyond == 0 and states == {
                (tasks[0].id, "slow", "running"),
                (tasks[1].id, "slow", "pending"),
                (tasks[2].id, "slow", "pending"),
            }

        await until(as_it_should_be)
        everything = await find.open(Wanted())
        assert everything.delayed == 0  # all of them are in the list, at its end
        assert [one.task_id for one in everything.runs[-2:]] == [late.id, later.id]
        assert [one.task_id for one in everything.runs if one.due] == [late.id, later.id]
        [of_quick] = (await find.open(Wanted(agent="quick"))).runs
        assert (of_quick.task_id, of_quick.agent) == (later.id, "quick")
        [running] = (await find.open(Wanted(status="running"))).runs
        assert running.due is None
        assert {one.task_id for one in everything.runs} >= {orphan.id, tasks[0].id}
        [lonely, _] = (await find.open(Wanted(topic="unheard"))).runs
        assert (lonely.agent, lonely.status, lonely.tenant_id) == (None, "pending", "a")
        assert abs(lonely.stored_at - time.time()) < 60
        [found] = (await find.open(Wanted(status="running"))).runs
        assert found.task_id == tasks[0].id
        assert [one.task_id for one in (await find.open(Wanted(correlation_id="c"))).runs] == [
            orphan.id
        ]
        assert (await find.open(Wanted(status="dead"))).runs == []
        gate.set()

        async def nothing_left() -> bool:
            return all(one.due for one in (await find.open(Wanted(topic="orders"))).runs)

        await until(nothing_left)
    assert len((await find.runs(Wanted(topic="orders"))).runs) == 6


async def test_no_more_open_events_are_looked_at_than_a_bound(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "OPEN_EVENTS", 5)
    app: App = an_app(backend)
    for number in range(8):
        await app.send("unheard", number)
    page = await Search(app).open(Wanted())
    assert (len(page.runs), page.beyond) == (5, 3)
