"""What is special to the JSON store: its file, damage to it, its size. Laws are in contract/."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from omnidaemon import stores
from omnidaemon.drivers import file_lock, json_file
from omnidaemon.drivers.json_records import Records
from omnidaemon.errors import ConfigurationError, StoreError
from omnidaemon.messages import Count, Write
from omnidaemon.stores.json import JSONStore

pytestmark = pytest.mark.anyio


class Clock:
    """Time that stands until it is moved."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "not" / "made" / "yet"


@pytest.fixture
def file(folder: Path) -> Path:
    return folder / json_file.NAME


@pytest.fixture
def connect(folder: Path) -> Iterator[Callable[..., JSONStore]]:
    """Another store on the folder, as another process would have."""
    made: list[JSONStore] = []

    def connect(**options: Any) -> JSONStore:
        made.append(JSONStore(f"json:{folder}", **options))
        return made[-1]

    yield connect

    async def close() -> None:
        for store in made:
            await store.close()

    anyio.run(close)


def lines(file: Path) -> list[dict[str, Any]]:
    """The lines after the first."""
    return [json.loads(line) for line in file.read_text().splitlines()[1:]]


# What people read


async def test_the_file_can_be_read_by_people_and_by_any_program(connect, file):
    await connect().write(
        Write("results", "t/orders/mail", b'{"result": {"sum": 1.50}}', label="orders"),
        Write("config", "motto", "kein JSON, aber Text: ü\n".encode()),
        Write("config", "image", b"\x89PNG\xff"),
        Count("metrics", "orders/mail", "processed", 1),
        Count("metrics", "orders/mail", "processed", 2),
    )
    whole, result, motto, image, counts = lines(file)
    assert whole == {"lines": 4}
    assert (result["collection"], result["key"]) == ("results", "t/orders/mail")
    assert result["value"] == {"result": {"sum": 1.5}}
    assert motto["text"] == "kein JSON, aber Text: ü\n"
    assert image["base64"] == "iVBOR/8="
    assert counts == {"collection": "metrics", "key": "orders/mail", "add": {"processed": 3}}


@pytest.mark.parametrize(
    "value",
    [
        b'{"a":  1.50, "a": [ ]}',
        b" 1",
        b"1 ",
        b"[1,\n2]",
        b'"\\ud800"',
        b"NaN",
        b"[" * 100_000 + b"]" * 100_000,
        b'"\xff"',
        b"\xef\xbb\xbf1",
        b"1 2",
        b"null",
        b"\0",
        b"18446744073709551617000",
        b'"\\u0000\\/"',
        "\u2028\x85".encode(),
    ],
)
async def test_every_value_comes_back_byte_for_byte(connect, file, value):
    await connect().write(Write("c", "before", b"1"), Write("c", "k", value))
    await connect().write(Write("c", "after", b"2"))
    assert [record.value for record in await connect().read("c", "before", "k", "after")] == [
        b"1",
        value,
        b"2",
    ]
    assert file.read_bytes().count(b"\n") == 5
    file.read_bytes().decode()


async def test_a_counter_takes_finite_numbers_only(connect):
    store = connect()
    with pytest.raises(ValueError, match="cannot be raised by inf"):
        await store.write(Write("c", "a", b"1"), Count("c", "k", "f", float("inf")))
    assert await store.browse("c") == []


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("json:data", "{here}/data"),
        ("json://data/deep", "{here}/data/deep"),
        ("json:///srv/data", "/srv/data"),
        ("json:/srv//data/", "/srv/data"),
        ("json:", "{here}/.omnidaemon_data"),
    ],
)
def test_a_url_names_a_folder(url, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = os.path.realpath(tmp_path)
    assert stores.connect(url).backend == f"json:{folder.format(here=here)}"


# Damage


def emptied(data: bytes) -> bytes:
    return b""


def overwritten(data: bytes) -> bytes:
    return b"{not json"


def overwritten_at_length(data: bytes) -> bytes:
    return b"not json\n" * len(data)


def cut_within_the_last_line(data: bytes) -> bytes:
    return data[:-5]


def without_the_last_line(data: bytes) -> bytes:
    return data[: data.rindex(b"\n", 0, -1) + 1]


def garbled(data: bytes) -> bytes:
    return data.replace(b'"key":"b"', b'"key":"b ')


def bad_utf8(data: bytes) -> bytes:
    return data.replace(b'"key":"b"', b'"key":"\xff"')


def of_another_kind(data: bytes) -> bytes:
    return data.replace(b'"value"', b'"vague"')


DAMAGES = [
    emptied,
    overwritten,
    overwritten_at_length,
    cut_within_the_last_line,
    without_the_last_line,
    garbled,
    bad_utf8,
    of_another_kind,
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("replaced", [False, True])
async def test_a_damaged_file_is_an_error_and_stays_as_it_is(connect, file, damage, replaced):
    for key in ("a", "b", "c"):
        await connect().write(Write("c", key, b"1"))
    sound = file.read_bytes()
    damaged = damage(sound)
    assert damaged != sound
    if replaced:
        file.unlink()
    file.write_bytes(damaged)
    store = connect()
    for _ in range(2):
        for call in (
            store.open,
            store.check,
            lambda: store.read("c", "a"),
            lambda: store.browse("c"),
            lambda: store.totals("c"),
            lambda: store.remove("c", "a"),
            lambda: store.clear("c"),
            lambda: store.write(Write("c", "d", b"1")),
        ):
            with pytest.raises(StoreError, match="is damaged") as caught:
                await call()
            assert str(file) in str(caught.value)
            assert "sound copy" in str(caught.value)
    assert file.read_bytes() == damaged
    file.write_bytes(sound)  # put right by hand
    assert len(await store.browse("c")) == 3


@pytest.mark.parametrize("damage", [emptied, overwritten, overwritten_at_length, garbled])
async def test_a_store_in_use_sees_that_its_file_is_damaged(connect, file, damage):
    store = connect()
    for key in ("a", "b", "c"):
        await store.write(Write("c", key, b"1"))
    assert len(await store.browse("c")) == 3
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)
    with pytest.raises(StoreError, match=f"{file} is damaged"):
        await store.browse("c")
    assert file.read_bytes() == damaged


async def test_a_damaged_line_is_named_by_its_number(connect, file):
    for key in ("a", "b", "c"):
        await connect().write(Write("c", key, b"1"))
    file.write_bytes(garbled(file.read_bytes()))
    with pytest.raises(StoreError, match="line 3 cannot be read"):
        await connect().check()


async def test_damage_is_not_carried_over_when_the_file_is_made_smaller(
    connect, file, monkeypatch, caplog
):
    store = connect()
    await store.write(Write("c", "a", b'"sound"'), Write("c", "b", b'"sound"'))
    file.write_bytes(file.read_bytes().replace(b'"sound"', b'"soun"d', 1))
    monkeypatch.setattr(Records, "waste", 100)
    for turn in range(10):
        await store.write(Write("c", "often", b"%d" % turn))
    assert "could not be made smaller" in caplog.text
    assert b'"soun"d' in file.read_bytes()
    [record] = await store.read("c", "often")
    assert record is not None
    assert record.value == b"9"
    assert not list(file.parent.glob("*.new"))


async def test_a_file_of_a_newer_version_is_left_alone(connect, file):
    await connect().write(Write("c", "a", b"1"))
    newer = file.read_bytes().replace(b'"format":1', b'"format":9')
    file.write_bytes(newer)
    with pytest.raises(StoreError, match=r"newer version \(format 9"):
        await connect().write(Write("c", "b", b"1"))
    assert file.read_bytes() == newer


# Writes that did not end


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
async def test_what_a_killed_writer_left_is_set_aside(connect, file, share, caplog):
    store = connect()
    await store.write(Write("c", "a", b"1"), Count("c", "k", "f", 1))
    sound = file.read_bytes()
    await store.write(Write("c", "a", b"2"), Write("c", "b", b"2"), Count("c", "k", "f", 1))
    # As a writer leaves it that is killed within: part of the bytes, and the mark of before.
    size = file.stat().st_size - len(sound)
    part = file.read_bytes()[: len(sound) + max(1, int(size * share))]
    file.write_bytes(part)
    mark = file.parent / "records.lock"
    mark.write_text(f"{mark.read_text().split()[0]} {len(sound):016d}\n")

    other = connect()
    assert [record.value for record in await other.browse("c")] == [b"1"]
    assert await other.totals("c") == {"k": {"f": 1}}
    assert file.read_bytes() == part  # a reader changes nothing
    await other.write(Write("c", "c", b"3"))
    assert [record.key for record in await connect().browse("c")] == ["c", "a"]
    assert file.read_bytes().startswith(sound)
    [aside] = file.parent.glob("*.unfinished-*")
    assert aside.read_bytes() == part[len(sound) :]
    assert "never finished" in caplog.text


async def test_a_write_that_the_disk_has_no_room_for_leaves_nothing(connect, file, monkeypatch):
    store = connect()
    await store.write(Write("c", "a", b"1"), Count("c", "k", "f", 1))
    sound = file.read_bytes()
    write = os.write

    def full(opened: int, data: bytes) -> int:
        write(opened, bytes(data)[:40])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(json_file.os, "write", full)
        with pytest.raises(StoreError, match=r"No space left on device.*has room"):
            await store.write(Write("c", "a", b"2"), Count("c", "k", "f", 1))
    assert file.read_bytes() == sound
    assert [record.value for record in await store.browse("c")] == [b"1"]
    await store.write(Count("c", "k", "f", 1))
    assert await connect().totals("c") == {"k": {"f": 2}}


# Its size


async def test_the_file_does_not_grow_with_what_is_replaced(connect, file, monkeypatch):
    monkeypatch.setattr(Records, "waste", 2_000)
    store, other = connect(), connect()
    await store.write(Write("c", "first", b'"kept"', label="x"), Count("c", "k", "f", 0.5))
    for turn in range(300):
        await store.write(Write("c", "often", b"%d" % turn), Count("c", "k", "f", 1))
        if turn % 50 == 0:
            await other.write(Write("c", f"other-{turn}", b"1"), Count("c", "k", "f", 1))
    assert file.stat().st_size < 6_000
    for one in (store, other, connect()):
        found = [record.key for record in await one.browse("c")]
        assert found == ["often", *(f"other-{turn}" for turn in range(250, -1, -50)), "first"]
        [first] = await one.browse("c", label="x")
        assert first.value == b'"kept"'
        assert await one.totals("c") == {"k": {"f": 306.5}}


async def test_what_has_expired_leaves_the_file(connect, file, monkeypatch):
    monkeypatch.setattr(Records, "waste", 2_000)
    clock = Clock()
    store = connect(clock=clock)
    for number in range(100):
        await store.write(Write("results", f"{number}", b"0" * 100, ttl=10))
    clock.now += 11
    await store.write(Write("config", "a", b"1"))
    assert file.stat().st_size < 300
    assert await store.browse("results") == []


async def test_a_file_that_cannot_be_made_smaller_goes_on_growing(
    connect, file, monkeypatch, caplog
):
    monkeypatch.setattr(Records, "waste", 1_000)
    store = connect()
    await store.open()

    def failing(self: object, lines: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(json_file.JSONFile, "replace", failing)
        await store.write(Write("c", "a", b"0" * 3_000))
        for turn in range(40):
            await store.write(Write("c", "often", b"%d" % turn), Count("c", "k", "f", 1))
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert 1 <= len(told) <= 4  # not with every write
    assert await connect().totals("c") == {"k": {"f": 40}}


async def test_many_counters_do_not_make_every_write_a_copy(connect, monkeypatch):
    monkeypatch.setattr(Records, "waste", 1_000)
    copies = 0
    replace = json_file.JSONFile.replace

    def counted(self: json_file.JSONFile, lines: Any) -> None:
        nonlocal copies
        copies += 1
        replace(self, lines)

    monkeypatch.setattr(json_file.JSONFile, "replace", counted)
    store = connect()
    await store.write(*(Count("c", f"key {number}", "f", 1) for number in range(200)))
    for _ in range(50):
        await store.write(Count("c", "key 1", "f", 1))
    assert copies <= 4


# Locks


async def test_the_event_loop_goes_on_while_another_process_holds_the_lock(connect, folder):
    store = connect()
    await store.open()
    written = anyio.Event()

    async def write() -> None:
        await store.write(Write("c", "a", b"1"))
        written.set()

    with (folder / "records.lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            for _ in range(50):
                await anyio.sleep(0.001)
            assert not written.is_set()
            fcntl.flock(held, fcntl.LOCK_UN)
    assert written.is_set()


async def test_a_lock_that_is_held_for_ever_is_an_error_and_nothing_is_written(
    connect, folder, monkeypatch
):
    store = connect()
    await store.open()
    monkeypatch.setattr(file_lock, "LOCK_SECONDS", 0.05)
    with (folder / "records.lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"locked by another process.*records\.lock"):
            await store.write(Count("c", "k", "f", 1))
    await store.write(Count("c", "k", "f", 1))
    assert await store.totals("c") == {"k": {"f": 1}}


@pytest.mark.parametrize("what", ["the lock file", "the folder"])
async def test_a_folder_cleared_while_in_use_is_shared_again(
    connect, folder, file, what, monkeypatch
):
    one, other = connect(), connect()
    await one.write(Write("c", "a", b"1"))
    assert len(await other.browse("c")) == 1
    (folder / "records.lock").unlink()
    if what == "the folder":
        file.unlink()
        folder.rmdir()
    await other.write(Write("c", "b", b"1"))
    await one.write(Write("c", "c", b"1"))
    found = ["c", "b", "a"] if what == "the lock file" else ["c", "b"]
    for store in (one, other, connect()):
        assert [record.key for record in await store.browse("c")] == found
    with (folder / "records.lock").open("rb") as held:  # both queue at the one that is there
        fcntl.flock(held, fcntl.LOCK_EX)
        monkeypatch.setattr(file_lock, "LOCK_SECONDS", 0.01)
        for store in (one, other):
            with pytest.raises(StoreError, match="locked by another process"):
                await store.check()


async def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    store = JSONStore(f"json:{tmp_path}/file/data")
    with pytest.raises(StoreError, match=f"{tmp_path}/file.*can be written to"):
        await store.open()


def test_without_file_locks_it_says_what_to_use_instead(monkeypatch, tmp_path):
    monkeypatch.setattr(json_file, "HAS_FLOCK", False)
    with pytest.raises(ConfigurationError, match="STORAGE_BACKEND=sqlite"):
        anyio.run(JSONStore(f"json:{tmp_path}").open)


async def test_writes_at_the_same_time_share_a_wait_for_the_disk(connect, monkeypatch):
    syncs = 0
    sync = json_file._sync

    def counted(opened: int) -> None:
        nonlocal syncs
        syncs += 1
        sync(opened)

    monkeypatch.setattr(json_file, "_sync", counted)
    store = connect()
    await store.open()
    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(store.write, Write("c", f"{number}", b"1"), Count("c", "k", "f", 1))
    assert len(await store.browse("c")) == 100
    assert await store.totals("c") == {"k": {"f": 100}}
    assert syncs < 20


async def test_of_writes_at_the_same_time_one_that_cannot_be_stored_hinders_no_other(connect):
    store = connect()
    errors = []

    async def write(key: str, value: object) -> None:
        try:
            await store.write(Write("c", key, value))  # type: ignore[arg-type]
        except TypeError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for key, value in (("a", b"1"), ("unfit", object()), ("b", b"1")):
            tasks.start_soon(write, key, value)
    assert len(errors) == 1
    assert sorted(record.key for record in await store.browse("c")) == ["a", "b"]


async def test_a_write_cancelled_before_its_turn_is_not_done(connect, folder):
    store = connect()
    await store.open()
    with (folder / "records.lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.write, Write("c", "first", b"1"))
            await anyio.wait_all_tasks_blocked()
            while store._waiting:  # until the first is on its way, and takes no other along
                await anyio.sleep(0.001)
            with anyio.move_on_after(0.01) as scope:
                await store.write(Write("c", "late", b"1"))
            assert scope.cancelled_caught
            fcntl.flock(held, fcntl.LOCK_UN)
    assert [record.key for record in await connect().browse("c")] == ["first"]


FORKING = """
import os, sys
import anyio
from omnidaemon.messages import Count
from omnidaemon.stores.json import JSONStore

store = JSONStore(sys.argv[1])

async def add():
    for _ in range(50):
        await store.write(Count("c", "k", "f", 1))

anyio.run(add)
child = os.fork()
anyio.run(add)
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert anyio.run(store.totals, "c") == {"k": {"f": 150}}, anyio.run(store.totals, "c")
"""


def test_a_forked_child_has_files_and_locks_of_its_own(folder):
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, f"json:{folder}"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ran.returncode == 0, ran.stderr


async def test_places_stay_the_same_when_the_file_is_made_smaller(connect, monkeypatch):
    store = connect(clock=Clock())  # all of one moment, as what is settled together
    await store.write(*(Write("c", f"{number}", b"0" * 50) for number in range(6)))
    first = await store.browse("c", limit=2)
    assert [record.key for record in first] == ["5", "4"]
    monkeypatch.setattr(Records, "waste", 100)
    for _ in range(2):  # what was numbered once is so again
        for turn in range(20):
            await store.write(Write("c", "0", b"%d" % turn * 50))
        await store.remove("c", "1")
        for one in (store, connect(clock=Clock())):
            rest = await one.browse("c", before=first[-1].place)
            assert [record.key for record in rest] == ["3", "2"]
