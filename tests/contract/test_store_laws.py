"""The laws of stores, word for word from omnidaemon/stores/base.py, on every backend."""

from __future__ import annotations

import time
from typing import Any, cast

import anyio
import pytest

from omnidaemon.errors import InvalidSettings
from omnidaemon.messages import Count, Record, Write
from omnidaemon.stores.base import Store
from tests.contract.conftest import STORE_SETTINGS, Backend, Setting

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("setting", STORE_SETTINGS, ids=str, indirect=True),
]


def keys(records: list[Record]) -> list[str]:
    """The records' keys, in order."""
    return [record.key for record in records]


# Writing and reading


async def test_what_is_written_is_read_by_another_store(backend: Backend) -> None:
    await backend.store().write(Write("results", "a", b"\0one\xff", label="orders"))
    (record,) = await backend.store().read("results", "a")
    assert record is not None
    assert (record.key, record.value, record.label) == ("a", b"\0one\xff", "orders")
    assert abs(record.written - time.time()) < 60


async def test_several_records_are_read_in_the_order_asked_for(backend: Backend) -> None:
    store = backend.store()
    await store.write(Write("results", "a", b"1"), Write("results", "b", b"2"))
    found = await store.read("results", "b", "none", "a", "b")
    assert [record and record.value for record in found] == [b"2", None, b"1", b"2"]
    assert await store.read("results") == []
    assert await store.read("nothing", "a") == [None]


@pytest.mark.parametrize("value", [b"", bytes(range(256)), b"\xff" * 1_000_000])
async def test_a_value_is_any_bytes(backend: Backend, value: bytes) -> None:
    store = backend.store()
    await store.write(Write("results", "a", value))
    (record,) = await store.read("results", "a")
    assert record is not None
    assert record.value == value


async def test_a_write_applies_its_changes_in_order(backend: Backend) -> None:
    store = backend.store()
    await store.write(
        Write("results", "a", b"1"),
        Write("results", "b", b"1"),
        Write("results", "a", b"2"),
        Write("results", "b", None),
    )
    found = await store.read("results", "a", "b")
    assert [record and record.value for record in found] == [b"2", None]


async def test_a_write_applies_all_of_its_changes_or_none(backend: Backend) -> None:
    store = backend.store()
    await store.write(Write("results", "old", b"1"), Count("metrics", "mail", "runs", 1))
    with pytest.raises(Exception):  # noqa: B017  whatever the backend says to this
        await store.write(
            Write("results", "old", None),
            Write("results", "new", b"1"),
            Count("metrics", "mail", "runs", 1),
            Write("results", "unfit", cast(bytes, object())),
        )
    assert keys(await store.browse("results")) == ["old"]
    assert await store.totals("metrics") == {"mail": {"runs": 1}}


async def test_writing_nothing_does_nothing(backend: Backend) -> None:
    await backend.store().write()


async def test_a_record_written_again_is_replaced_with_its_label_and_is_the_newest(
    backend: Backend,
) -> None:
    store = backend.store()
    await store.write(Write("results", "a", b"1", label="orders"))
    await store.write(Write("results", "b", b"1", label="orders"))
    await store.write(Write("results", "a", b"2", label="bills"))
    assert keys(await store.browse("results")) == ["a", "b"]
    assert keys(await store.browse("results", label="orders")) == ["b"]
    (record,) = await store.browse("results", label="bills")
    assert (record.key, record.value, record.label) == ("a", b"2", "bills")
    await store.write(Write("results", "a", b"3"))
    assert await store.browse("results", label="bills") == []
    assert [record.label for record in await store.browse("results")] == [None, "orders"]


async def test_removing_by_a_write_without_value(backend: Backend) -> None:
    store = backend.store()
    await store.write(Write("results", "a", b"1", label="orders"), Write("results", "x", None))
    await store.write(Write("results", "a", None))
    assert await store.read("results", "a") == [None]
    assert await store.browse("results", label="orders") == []


# Expiry


async def test_an_expired_record_is_gone_for_every_call(backend: Backend) -> None:
    store = backend.store()
    await store.write(
        Write("results", "mortal", b"1", label="orders", ttl=backend.lease),
        Write("results", "kept", b"1", label="orders"),
    )
    assert keys(await store.browse("results")) == ["kept", "mortal"]
    await backend.elapse(backend.lease * 1.1)
    for one in (store, backend.store()):
        assert await one.read("results", "mortal") == [None]
        assert keys(await one.browse("results")) == ["kept"]
        assert keys(await one.browse("results", label="orders")) == ["kept"]
        assert keys(await one.browse("results", prefix="m")) == []
        assert await one.remove("results", "mortal") == 0
    assert await store.clear("results") == 1


async def test_a_record_written_again_lives_as_the_last_write_says(backend: Backend) -> None:
    store = backend.store()
    await store.write(
        Write("results", "longer", b"1", ttl=backend.lease),
        Write("results", "forever", b"1", ttl=backend.lease),
        Write("results", "shorter", b"1"),
    )
    await backend.elapse(backend.lease / 2)
    await store.write(
        Write("results", "longer", b"2", ttl=backend.lease),
        Write("results", "forever", b"2"),
        Write("results", "shorter", b"2", ttl=backend.lease / 4),
    )
    await backend.elapse(backend.lease * 0.7)
    assert keys(await store.browse("results")) == ["forever", "longer"]
    await backend.elapse(backend.lease)
    assert keys(await store.browse("results")) == ["forever"]


async def test_an_expired_key_can_be_written_again(backend: Backend) -> None:
    store = backend.store()
    await store.write(Write("results", "a", b"1", label="orders", ttl=backend.lease / 4))
    await backend.elapse(backend.lease / 2)
    await store.write(Write("results", "a", b"2"))
    await backend.elapse(backend.lease)
    (record,) = await store.browse("results")
    assert (record.value, record.label) == (b"2", None)


# Browsing


async def test_browsing_gives_the_newest_first_up_to_the_limit(backend: Backend) -> None:
    store = backend.store()
    for key in ("a", "b", "c"):
        await store.write(Write("results", key, b"1"))
    await store.write(Write("results", "d", b"1"), Write("results", "e", b"1"))
    assert keys(await store.browse("results")) == ["e", "d", "c", "b", "a"]
    assert keys(await store.browse("results", limit=2)) == ["e", "d"]
    assert await store.browse("nothing") == []


async def test_the_limit_counts_what_is_found(backend: Backend) -> None:
    store = backend.store()
    for number in range(10):
        label = "even" if number % 2 == 0 else "odd"
        await store.write(Write("results", f"{label}:{number}", b"1", label=label))
    assert keys(await store.browse("results", label="even", limit=2)) == ["even:8", "even:6"]
    assert keys(await store.browse("results", prefix="even:", limit=2)) == ["even:8", "even:6"]
    assert keys(await store.browse("results", prefix="odd:9", label="odd")) == ["odd:9"]
    assert keys(await store.browse("results", prefix="odd", label="even")) == []


async def test_a_prefix_and_a_key_are_taken_literally(backend: Backend) -> None:
    store = backend.store()
    names = [
        "a%b",
        "a_b",
        "axb",
        "a*b",
        "a?b",
        "a[x]b",
        "A%b",
        "ключ",
        "é",
        "😀",
        "a\\b",
        "'\"",
        "a b",
    ]
    for name in names:
        await store.write(
            Write("results", name, name.encode(), label=name), Count("metrics", name, "runs", 1)
        )
    found = await store.read("results", *names)
    assert [record and record.value.decode() for record in found] == names
    for name in names:
        assert keys(await store.browse("results", prefix=name)) == [name]
        assert keys(await store.browse("results", label=name)) == [name]
        assert await store.totals("metrics", prefix=name) == {name: {"runs": 1}}
    assert len(await store.browse("results", prefix="a")) == 8
    assert await store.remove("results", *names[:2]) == 2
    assert len(await store.browse("results")) == len(names) - 2


async def test_a_key_that_is_a_prefix_of_another_is_its_own(backend: Backend) -> None:
    store = backend.store()
    await store.write(Write("results", "a", b"1"), Write("results", "a:b", b"2"))
    assert keys(await store.browse("results", prefix="a")) == ["a:b", "a"]
    assert keys(await store.browse("results", prefix="a:")) == ["a:b"]
    assert await store.remove("results", "a") == 1
    assert keys(await store.browse("results")) == ["a:b"]


async def pages(store: Store, limit: int, **what: Any) -> list[list[str]]:
    """The keys, a page at a time, until a page is empty."""
    found, before = list[list[str]](), None
    while page := await store.browse("results", limit=limit, before=before, **what):
        found.append(keys(page))
        before = page[-1].place
        assert len(found) < 100, "the pages do not end"
    return found


async def test_going_on_from_a_place_gives_what_was_older(backend: Backend) -> None:
    store = backend.store()
    labels = ("even", "odd")
    for number in range(4):
        await store.write(Write("results", f"a:{number}", b"1", label=labels[number % 2]))
    # Of one write, and of several times to live, which Redis keeps apart.
    await store.write(
        *(
            Write("results", f"b:{n}", b"1", labels[n % 2], ttl=backend.lease * (20 + n % 3))
            for n in range(6)
        )
    )
    everything = [f"b:{n}" for n in reversed(range(6))] + [f"a:{n}" for n in reversed(range(4))]
    assert await pages(store, 4) == [everything[:4], everything[4:8], everything[8:]]
    assert await pages(backend.store(), 3, label="even") == [
        ["b:4", "b:2", "b:0"],
        ["a:2", "a:0"],
    ]
    assert await pages(store, 3, prefix="a:") == [["a:3", "a:2", "a:1"], ["a:0"]]
    assert await pages(store, 1, prefix="b:", label="odd") == [["b:5"], ["b:3"], ["b:1"]]


async def test_the_newest_of_many_labels_are_the_newest_of_all(backend: Backend) -> None:
    store = backend.store()
    # Some labels have many of the newest, most none; on Redis each is a list of its own.
    labels = [f"l{n * n % 23 if n % 3 else 0}" for n in range(300)]
    await store.write(*(Write("results", f"k{n}", b"", labels[n]) for n in range(200)))
    for n in range(200, 300):
        await store.write(Write("results", f"k{n}", b"", labels[n]))
    expected = [f"k{n}" for n in reversed(range(300))]
    assert keys(await store.browse("results", limit=1)) == expected[:1]
    assert keys(await store.browse("results", limit=1_000)) == expected
    assert [key for page in await pages(store, 37) for key in page] == expected


async def test_pages_stay_the_same_while_records_are_written_removed_and_expire(
    backend: Backend,
) -> None:
    store = backend.store()
    await store.write(Write("results", "mortal", b"1", ttl=backend.lease))
    for name in "abcdefgh":
        await store.write(Write("results", name, b"1", label="x"))
    first = await store.browse("results", limit=3)
    assert keys(first) == ["h", "g", "f"]
    await store.write(Write("results", "new", b"1"), Write("results", "c", b"2"))
    await store.remove("results", "f", "d")  # the one that the page ends with, and an older one
    await backend.elapse(backend.lease * 1.1)
    rest = await store.browse("results", before=first[-1].place)
    assert keys(rest) == ["e", "b", "a"]
    assert keys(await backend.store().browse("results", before=first[-1].place, limit=2)) == [
        "e",
        "b",
    ]
    assert await store.browse("results", before=rest[-1].place) == []


@pytest.mark.parametrize("place", ["", "x", "-1", "1 OR 1", "９", "9" * 19, "9" * 40])
async def test_what_is_no_place_is_refused(backend: Backend, place: str) -> None:
    await backend.store().write(Write("results", "a", b"1"))
    with pytest.raises(InvalidSettings, match="place"):
        await backend.store().browse("results", before=place)


# Removing and clearing


async def test_remove_says_how_many_there_were(backend: Backend) -> None:
    store = backend.store()
    await store.write(Write("results", "a", b"1"), Write("results", "b", b"1"))
    assert await store.remove("results", "a", "none") == 1
    assert await store.remove("results", "a") == 0
    assert await store.remove("results") == 0
    assert keys(await store.browse("results")) == ["b"]


async def test_clear_removes_records_and_counters_of_one_collection(backend: Backend) -> None:
    store = backend.store()
    await store.write(
        Write("results", "a", b"1", label="orders"),
        Write("results", "b", b"1", ttl=backend.lease),
        Count("results", "c", "runs", 1),
        Count("results", "c", "errors", 1),
        Write("config", "a", b"1"),
        Count("metrics", "c", "runs", 1),
    )
    assert await store.clear("results") == 3
    assert await store.clear("results") == 0
    assert await store.browse("results") == []
    assert await store.totals("results") == {}
    assert keys(await store.browse("config")) == ["a"]
    assert await store.totals("metrics") == {"c": {"runs": 1}}


async def test_collections_do_not_see_each_other(backend: Backend) -> None:
    store = backend.store()
    await store.write(Write("results", "a", b"1", label="x"), Write("config", "a", b"2", label="x"))
    await store.write(Count("results", "a", "runs", 1), Count("config", "a", "runs", 5))
    (record,) = await store.browse("results", label="x")
    assert record.value == b"1"
    assert await store.totals("config") == {"a": {"runs": 5}}
    assert await store.remove("results", "a") == 1
    (other,) = await store.read("config", "a")
    assert other is not None
    assert other.value == b"2"


# Counters


async def test_counters_add_up_by_key_and_field(backend: Backend) -> None:
    store = backend.store()
    await store.write(
        Count("metrics", "orders:mail", "runs", 1),
        Count("metrics", "orders:mail", "runs", 2),
        Count("metrics", "orders:mail", "seconds", 0.5),
    )
    await backend.store().write(
        Count("metrics", "orders:mail", "runs", -1),
        Count("metrics", "orders:mail", "seconds", 0.25),
        Count("metrics", "bills:mail", "runs", 7),
    )
    assert await store.totals("metrics") == {
        "orders:mail": {"runs": 2, "seconds": 0.75},
        "bills:mail": {"runs": 7},
    }
    assert await store.totals("metrics", prefix="bills:") == {"bills:mail": {"runs": 7}}
    assert await store.totals("nothing") == {}


async def test_writers_at_the_same_time_lose_no_count(backend: Backend) -> None:
    async def add() -> None:
        store = backend.store()
        for _ in range(20):
            await store.write(Count("metrics", "mail", "runs", 1))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(add)
    assert await backend.store().totals("metrics") == {"mail": {"runs": 100}}


# Opening, closing, event loops


async def test_a_closed_store_connects_again(backend: Backend) -> None:
    store = backend.store()
    async with store:
        await store.write(Write("results", "a", b"1"))
    await store.close()
    assert keys(await store.browse("results")) == ["a"]
    await store.open()
    await store.open()
    await store.check()


def test_several_event_loops_one_after_another_share_a_store(
    backend: Backend, setting: Setting
) -> None:
    store = backend.store()

    async def one_round(turn: int) -> None:
        await store.write(
            Write("results", f"r{turn}", b"1"),
            Write("results", "mortal", b"1", ttl=backend.lease),
            Count("metrics", "mail", "runs", 1),
        )
        assert len(await store.browse("results", prefix="r")) == turn
        assert await store.totals("metrics") == {"mail": {"runs": turn}}
        await backend.elapse(backend.lease * 1.1)
        assert await store.read("results", "mortal") == [None]

    for turn in (1, 2, 3):
        anyio.run(one_round, turn, backend=setting.loop)
