"""What is special to SQLite: the file, its thread, other processes. The laws are in contract/."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import anyio
import pytest
from anyio.lowlevel import checkpoint

from omnidaemon.drivers import file_lock, sqlite_rows
from omnidaemon.drivers.sqlite import Database
from omnidaemon.drivers.sqlite_schema import parse_url
from omnidaemon.errors import ConfigurationError, StoreError, TransportError
from omnidaemon.messages import (
    Ack,
    Bury,
    Count,
    Delivery,
    Message,
    Release,
    RetryAfter,
    Settlement,
    Write,
)
from omnidaemon.stores.sqlite import SQLiteStore
from omnidaemon.transports import sqlite_leases
from omnidaemon.transports.base import Limits
from omnidaemon.transports.sqlite import SQLiteTransport

pytestmark = pytest.mark.anyio


class Clock:
    """Time that stands until it is moved."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "omni.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def transport(path: Path, clock: Clock) -> AsyncIterator[SQLiteTransport]:
    async with SQLiteTransport(f"sqlite://{path}", clock=clock) as transport:
        yield transport


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What SQLite executes from now on, in order."""
    seen: list[str] = []
    monkeypatch.setattr(Database, "trace", seen.append)
    return seen


def messages(*ids: str, topic: str = "orders", size: int = 10) -> list[Message]:
    return [Message(topic, id_, b"x" * size) for id_ in ids]


def acks(deliveries: list[Delivery]) -> list[Settlement]:
    return [Settlement(delivery, Ack()) for delivery in deliveries]


def ids(deliveries: object) -> list[str]:
    return [delivery.id for delivery in deliveries]  # type: ignore[attr-defined]


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def read(path: Path) -> bytes:
    return path.read_bytes()


def pipes(path: Path) -> list[str]:
    """The pipes by which processes are woken that wait for something in the file."""
    return sorted(os.listdir(f"{path}.wake"))


class Python:
    """Another process, which runs a program with the path as its argument."""

    running: ClassVar[list[Python]] = []

    def __init__(self, program: str, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(self)

    def kill(self) -> None:
        """Ends it as the kernel would, without a word."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def line(self) -> str:
        """Its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self, *, code: int = 0) -> str:
        """What else it says until it ends, which must be as expected and without complaints."""
        out, err = self.process.communicate()
        assert self.process.returncode == code, err
        if code == 0:
            assert err == ""
        return out.strip()


@pytest.fixture(autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    while Python.running:
        Python.running.pop().kill()


# Opening


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///data/x.db", "/data/x.db"),
        ("sqlite:////data/x.db", "/data/x.db"),
        ("sqlite:x.db", "{cwd}/x.db"),
        ("sqlite://x.db", "{cwd}/x.db"),
        ("sqlite", "{cwd}/.omnidaemon_data/omnidaemon.db"),
        ("sqlite:", "{cwd}/.omnidaemon_data/omnidaemon.db"),
    ],
)
def test_a_url_names_a_path(url: str, expected: str) -> None:
    real = os.path.realpath(expected.format(cwd=os.getcwd()))
    assert parse_url(url) == (real, True)
    assert parse_url(url.replace("sqlite", "sqlite+fast")) == (real, False)


@pytest.mark.parametrize("url", ["postgres://x", "sqlite::memory:"])
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(url)):
        parse_url(url)


def test_one_file_is_one_backend_whatever_it_is_called(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path.parent)
    store = SQLiteStore(f"sqlite+fast:{link}/omni.db")
    assert SQLiteTransport(f"sqlite://{path}").backend == store.backend == f"sqlite:{path}"


async def refused(path: Path, reason: str) -> None:
    for backend in SQLiteTransport(f"sqlite://{path}"), SQLiteStore(f"sqlite://{path}"):
        with pytest.raises(ConfigurationError, match=reason) as raised:
            await backend.check()
        assert str(path.parent) in str(raised.value)
        await backend.close()


async def test_a_file_that_is_no_database_is_left_as_it_is(path: Path) -> None:
    write(path, b"Dear diary, " * 100)
    await refused(path, "not a SQLite database.*give another path")
    assert read(path) == b"Dear diary, " * 100


async def test_the_database_of_another_program_is_left_as_it_is(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE places(url)")
    other.close()
    before = read(path)
    await refused(path, "another program.*give another path")
    assert read(path) == before


async def test_a_file_of_a_newer_version_is_refused(path: Path, transport: SQLiteTransport) -> None:
    await transport.run(lambda connection: connection.execute("PRAGMA user_version = 99"))
    await transport.close()
    await refused(path, "newer OmniDaemon.*99")


async def test_a_directory_that_cannot_be_is_named(path: Path) -> None:
    write(path, b"a file where a directory is wanted")
    await refused(path / "omni.db", "cannot write in")


async def test_what_opening_failed_for_can_be_mended(path: Path) -> None:
    write(path, b"Dear diary")
    transport = SQLiteTransport(f"sqlite://{path}")
    with pytest.raises(ConfigurationError):
        await transport.open()
    os.unlink(path)
    await transport.publish(*messages("a"))
    await transport.close()


async def test_missing_directories_are_made(path: Path) -> None:
    async with SQLiteTransport(f"sqlite://{path.parent}/a/b/c.db") as transport:
        await transport.check()


def test_it_works_from_one_event_loop_after_another(path: Path) -> None:
    transport = SQLiteTransport(f"sqlite://{path}")
    for turn, loop in enumerate(["asyncio", "trio", "asyncio"]):

        async def publish(name: str = str(turn)) -> None:
            await transport.publish(*messages(name))

        anyio.run(publish, backend=loop)
    assert [event.id for event in anyio.run(transport.browse, "orders")] == ["2", "1", "0"]
    anyio.run(transport.close)


def test_a_process_that_never_closes_ends_without_a_warning(path: Path) -> None:
    program = """
        import anyio, sys
        from omnidaemon.messages import Message
        from omnidaemon.transports.sqlite import SQLiteTransport

        transport = SQLiteTransport("sqlite://" + sys.argv[1])
        anyio.run(transport.publish, Message("orders", "a", b""))
        anyio.run(transport.publish, Message("orders", "b", b""))
    """
    Python(program, path).end()
    assert not path.with_name("omni.db-wal").exists()  # it was closed properly all the same


def test_a_forked_child_has_a_connection_of_its_own(path: Path) -> None:
    program = """
        import anyio, os, sys
        from omnidaemon.messages import Message
        from omnidaemon.transports.sqlite import SQLiteTransport

        transport = SQLiteTransport("sqlite://" + sys.argv[1])
        anyio.run(transport.publish, Message("orders", "parent", b""))
        child = os.fork()
        if child == 0:
            anyio.run(transport.publish, Message("orders", "child", b""))
            anyio.run(transport.close)
            os._exit(0)
        os.waitpid(child, 0)
        anyio.run(transport.publish, Message("orders", "later", b""))
        print(*[event.id for event in anyio.run(transport.browse, "orders")])
    """
    child = Python(
        program.replace("import anyio, os", "import warnings, anyio, os").replace(
            "child = os.fork()", "warnings.simplefilter('ignore'); child = os.fork()"
        ),
        path,
    )
    assert child.end() == "later child parent"


# Failing


@pytest.fixture
async def store(path: Path, clock: Clock) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(f"sqlite://{path}", clock=clock) as store:
        yield store


async def test_a_full_disk_is_an_error_that_says_so_and_stores_nothing(
    transport: SQLiteTransport, store: SQLiteStore
) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    await transport.run(fill, write=False)
    with pytest.raises(TransportError, match="disk is full") as raised:
        await transport.publish(*messages("a", "b", size=100_000))
    assert isinstance(raised.value.__cause__, sqlite3.Error)
    with pytest.raises(StoreError, match="disk is full"):
        await store.write(Write("results", "a", b"x" * 100_000))
    assert await transport.topics() == []

    await transport.run(
        lambda connection: connection.execute("PRAGMA max_page_count = 1000000").fetchone(),
        write=False,
    )
    await transport.publish(*messages("a", size=100_000))
    assert [event.id for event in await transport.browse("orders")] == ["a"]


async def test_a_file_that_became_read_only_is_an_error_that_says_so(
    transport: SQLiteTransport,
) -> None:
    await transport.run(lambda connection: connection.execute("PRAGMA query_only = 1"), write=False)
    with pytest.raises(TransportError, match="read-only"):
        await transport.publish(*messages("a"))


async def test_who_holds_the_lock_file_for_ever_stops_the_others_for_a_while_only(
    path: Path, transport: SQLiteTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lock, "LOCK_SECONDS", 0.01)
    lock = os.open(f"{path}.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(TransportError, match="locked by another process"):
        await transport.publish(*messages("a"))
    assert await transport.dead_letters("orders") == []  # reading needs no lock
    os.close(lock)
    await transport.publish(*messages("b"))
    assert [event.id for event in await transport.browse("orders")] == ["b"]


# The thread


class Pause:
    """Keeps the database's thread busy until it is let go, so that calls gather."""

    def __init__(self, transport: SQLiteTransport) -> None:
        self._gate = threading.Event()
        self._busy = threading.Event()
        self._transport = transport

    def __enter__(self) -> None:
        self._transport.database.run_later(self._work)
        self._busy.wait()

    def _work(self, connection: sqlite3.Connection) -> None:
        self._busy.set()
        self._gate.wait()

    def __exit__(self, *_: object) -> None:
        self._gate.set()


async def gathered(transport: SQLiteTransport, count: int) -> None:
    """Returns when that many calls wait for the thread."""
    while transport.database._calls.qsize() < count:
        await checkpoint()


async def test_calls_that_gather_share_one_commit(statements: list[str], path: Path) -> None:
    async with SQLiteTransport(f"sqlite://{path}") as transport, anyio.create_task_group() as tasks:
        with Pause(transport):
            for name in "abcdefgh":
                tasks.start_soon(transport.publish, *messages(name))
            await gathered(transport, 8)
            statements.clear()
        await transport.check()
        # One for the pause itself, one for the eight, one for the check that came later.
        assert statements.count("COMMIT") <= 3
        assert sum(s.startswith("INSERT INTO events") for s in statements) == 8


async def test_of_calls_that_share_a_commit_the_bad_one_fails_alone(
    transport: SQLiteTransport,
) -> None:
    failed = []

    def bad(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO topics(name, last, size, floor) VALUES ('bad', 0, 0, 1)")
        raise sqlite3.IntegrityError("this one is bad")

    async def run_bad() -> None:
        try:
            await transport.run(bad)
        except TransportError as error:
            failed.append(str(error))

    async with anyio.create_task_group() as tasks:
        with Pause(transport):
            tasks.start_soon(transport.publish, *messages("a"))
            tasks.start_soon(run_bad)
            tasks.start_soon(transport.publish, *messages("b"))
            await gathered(transport, 3)
    assert len(failed) == 1
    assert "this one is bad" in failed[0]
    assert [topic.name for topic in await transport.topics()] == ["orders"]
    assert sorted(event.id for event in await transport.browse("orders")) == ["a", "b"]


async def test_what_is_stored_is_synced_and_what_is_claimed_is_not(
    statements: list[str], path: Path
) -> None:
    def last_mode() -> str:
        return [s for s in statements if s.startswith("PRAGMA synchronous")][-1]

    async with (
        SQLiteTransport(f"sqlite://{path}") as transport,
        transport.subscribe("orders", "mail", lease=60) as mail,
    ):
        await transport.publish(*messages("a"))
        assert last_mode() == "PRAGMA synchronous = 2"
        deliveries = list(await mail.receive(1, 1))
        assert last_mode() == "PRAGMA synchronous = 1"
        await mail.settle(acks(deliveries))
        assert last_mode() == "PRAGMA synchronous = 2"
        await transport.renew(mail.consumer, [])
        assert last_mode() == "PRAGMA synchronous = 1"


async def test_the_fast_scheme_never_syncs(statements: list[str], path: Path) -> None:
    async with SQLiteTransport(f"sqlite+fast://{path}") as transport:
        await transport.publish(*messages("a"))
    assert "PRAGMA synchronous = 1" in statements
    assert "PRAGMA synchronous = 2" not in statements


async def test_a_cancelled_receive_returns_what_it_has_claimed(transport: SQLiteTransport) -> None:
    await transport.publish(*messages("a"))
    async with transport.subscribe("orders", "mail", lease=60) as mail:
        found: list[Delivery] = []

        async def receive(scope: anyio.CancelScope) -> None:
            with scope:
                found.extend(await mail.receive(1, 60))

        scope = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            with Pause(transport):
                tasks.start_soon(receive, scope)
                await gathered(transport, 1)
                scope.cancel()
        assert ids(found) == ["a"]


def test_what_a_task_had_claimed_that_asyncio_cancelled_is_handed_back(path: Path) -> None:
    async def main() -> None:
        async with (
            SQLiteTransport(f"sqlite://{path}") as transport,
            transport.subscribe("orders", "mail", lease=60) as mail,
        ):
            await transport.publish(*messages("a"))
            with Pause(transport):
                task = asyncio.create_task(mail.receive(1, 60))
                await gathered(transport, 1)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            (again,) = await mail.receive(1, 60)
            assert (again.id, again.attempt, again.crashes) == ("a", 1, 0)

    asyncio.run(main())


def test_a_settlement_that_asyncio_cancelled_is_known_as_repeated(path: Path) -> None:
    async def main() -> None:
        async with (
            SQLiteTransport(f"sqlite://{path}") as transport,
            transport.subscribe("orders", "mail", lease=60) as mail,
        ):
            await transport.publish(*messages("a"))
            deliveries = list(await mail.receive(1, 60))
            with Pause(transport):
                task = asyncio.create_task(mail.settle(acks(deliveries)))
                await gathered(transport, 1)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await mail.settle(acks(deliveries)) == ["repeated"]

    asyncio.run(main())


# Settling


async def test_a_settlement_that_fails_in_the_middle_happened_not_at_all(
    transport: SQLiteTransport, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await transport.publish(*messages("a", "b", "c"))
    async with transport.subscribe("orders", "mail", lease=60) as mail:
        one, two, three = await mail.receive(3, 1)
        settlements = [
            Settlement(
                one,
                Ack(),
                changes=(Write("results", "a", b"done"), Count("metrics", "mail", "done", 1)),
                publish=(Message("replies", "r", b""),),
            ),
            Settlement(two, Bury(b"no")),
            Settlement(three, RetryAfter(5)),
        ]
        before = await transport.groups("orders")

        def fail(*_: object) -> list[str]:
            raise sqlite3.OperationalError("the disk went away")

        with monkeypatch.context() as broken:
            broken.setattr(sqlite_leases, "store", fail)  # the last of its steps
            with pytest.raises(TransportError, match="the disk went away"):
                await mail.settle(settlements)
        assert await transport.groups("orders") == before
        assert await store.browse("results") == []
        assert await store.totals("metrics") == {}

        assert await mail.settle(settlements) == ["applied"] * 3
        assert await mail.settle(settlements) == ["repeated"] * 3
        assert await store.totals("metrics") == {"mail": {"done": 1.0}}
        assert [event.id for event in await transport.browse("replies")] == ["r"]


KILLED_WHILE_SETTLING = """
    import anyio, os, sys
    from omnidaemon.drivers.sqlite import Database
    from omnidaemon.messages import Ack, Bury, Count, Message, Release, RetryAfter, Settlement
    from omnidaemon.messages import Write
    from omnidaemon.transports.sqlite import SQLiteTransport

    left = None

    def trace(statement):
        global left
        if left is not None:
            if left == 0:
                os._exit(9)
            left -= 1

    async def main(path, statements):
        global left
        Database.trace = trace
        async with SQLiteTransport(f"sqlite+fast://{path}") as transport:
            await transport.publish(*[Message("orders", i, b"x") for i in "abcd"])
            async with transport.subscribe("orders", "mail", lease=60) as mail:
                a, b, c, d = await mail.receive(4, 1)
                left = statements
                await mail.settle([
                    Settlement(a, Ack(), changes=(Write("r", "a", b"1"), Count("m", "a", "n", 1))),
                    Settlement(b, Bury(b"no"), publish=(Message("replies", "r", b""),)),
                    Settlement(c, RetryAfter(5)),
                    Settlement(d, Release()),
                ])
                left = None
                print("settled")

    anyio.run(main, sys.argv[1], STATEMENTS)
"""


async def test_a_process_killed_between_any_two_statements_settled_all_or_nothing(
    tmp_path: Path,
) -> None:
    outcomes = []
    for statements in range(100):
        path = tmp_path / f"{statements}.db"
        program = KILLED_WHILE_SETTLING.replace("STATEMENTS", str(statements))
        child = Python(program, path).process
        said, _ = await anyio.to_thread.run_sync(child.communicate)
        async with (
            SQLiteTransport(f"sqlite://{path}") as transport,
            SQLiteStore(f"sqlite://{path}") as store,
        ):
            (group,) = await transport.groups("orders")
            outcomes.append(
                (
                    group.leased,
                    group.waiting,
                    group.dead,
                    len(await store.browse("r")),
                    len(await store.totals("m")),
                    len(await transport.browse("replies")),
                )
            )
        if said:
            break
    assert len(outcomes) > 8  # it was killed at so many places
    assert set(outcomes[:-1]) <= {(4, 0, 0, 0, 0, 0), (0, 2, 1, 1, 1, 1)}
    assert outcomes[-1] == (0, 2, 1, 1, 1, 1)


async def test_a_file_of_before_silences_were_pardoned_gets_the_column(path: Path) -> None:
    async with SQLiteTransport(f"sqlite://{path}") as transport:
        await transport.publish(*messages("a"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE groups DROP COLUMN pardoned")
        connection.commit()
    async with (
        SQLiteTransport(f"sqlite://{path}") as transport,
        transport.subscribe("orders", "mail", lease=60) as mail,
    ):
        held = await mail.receive(1, wait=1)
        assert ids(held) == ["a"]
        assert await transport.renew(mail.consumer, held) == []


async def test_settling_looks_through_neither_backlog_nor_results(
    statements: list[str], path: Path, clock: Clock
) -> None:
    async with (
        SQLiteTransport(f"sqlite://{path}", limits=Limits(retention=0), clock=clock) as transport,
        transport.subscribe("orders", "mail", lease=60) as mail,
    ):
        await transport.publish(*messages(*"abcdefgh"))
        statements.clear()
        a, b, c, d, e, f, *_ = await mail.receive(7, 1)
        changes = (Write("results", "a", b"1", "orders", 60), Count("metrics", "a", "n", 1))
        settlements = [
            Settlement(a, Ack(), changes=changes, publish=(Message("replies", "r", b""),)),
            Settlement(c, Ack()),
            Settlement(d, Bury(b"no")),
            Settlement(e, RetryAfter(5)),
            Settlement(f, Release()),
        ]
        assert await mail.settle(settlements) == ["applied"] * 5
        await transport.renew(mail.consumer, [b])
        clock.now += 10
        assert ids(await mail.receive(10, 1)) == ["f", "e", "h"]
        executed = [s for s in statements if s.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))]
        plans = await transport.run(
            lambda connection: [
                (statement, row[3])
                for statement in executed
                for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
            ],
            write=False,
        )
    through_all = re.compile(
        r"SCAN (deliveries|events|records|dead|delayed|groups|members)\b"
        r"|SEARCH (deliveries|d) USING PRIMARY KEY \(grp=\?\)$"
    )
    assert len(plans) > 20
    assert [(s, plan) for s, plan in plans if through_all.search(plan)] == []


async def test_only_what_every_group_settled_is_trimmed(path: Path, clock: Clock) -> None:
    limits = Limits(retention=3)
    async with (
        SQLiteTransport(f"sqlite://{path}", limits=limits, clock=clock) as transport,
        transport.subscribe("orders", "mail", lease=60) as mail,
        transport.subscribe("orders", "bill", lease=60) as bill,
    ):
        await transport.publish(*messages(*"abcdefghij"))
        await mail.settle(acks(list(await mail.receive(10, 1))))
        assert [event.id for event in await transport.browse("orders", 20)] == list("jihgfedcba")
        held = list(await bill.receive(8, 1))
        await bill.settle(acks(held[:4] + held[5:]))  # all up to h, but for e
        assert [event.id for event in await transport.browse("orders", 20)] == list("jihgfedcb")
        await bill.settle(acks(held[4:5]))
        assert [event.id for event in await transport.browse("orders", 20)] == list("jihgf")


async def test_a_renewal_trims_what_was_settled_since_the_last_time(
    path: Path, clock: Clock
) -> None:
    """Else what the slowest held back would stay until much more has been settled."""
    limits = Limits(retention=20)
    async with (
        SQLiteTransport(f"sqlite://{path}", limits=limits, clock=clock) as transport,
        transport.subscribe("orders", "mail", lease=60) as mail,
    ):
        await transport.publish(*messages(*(f"e{n:02}" for n in range(40))))
        first, *others = await mail.receive(40, 1)
        await mail.settle(acks(others))
        await mail.settle(acks([first]))
        assert len(await transport.browse("orders", 50)) == 40
        await transport.renew(mail.consumer, [])  # settling renews as well, where stores differ
        assert len(await transport.browse("orders", 50)) == 40
        clock.now += 21
        await transport.renew(mail.consumer, [])
        assert len(await transport.browse("orders", 50)) == 20


async def test_the_retention_in_bytes_holds_too(path: Path, clock: Clock) -> None:
    limits = Limits(retention_bytes=35)
    async with (
        SQLiteTransport(f"sqlite://{path}", limits=limits, clock=clock) as transport,
        transport.subscribe("orders", "mail", lease=60) as mail,
    ):
        await transport.publish(*messages(*"abcdefgh"))
        await mail.settle(acks(list(await mail.receive(6, 1))))
        (topic,) = await transport.topics()
        assert (topic.events, topic.size) == (5, 50)  # def, within 35 bytes, and gh
        await mail.settle(acks(list(await mail.receive(6, 1))))
        assert [event.id for event in await transport.browse("orders", 20)] == list("hgf")


@pytest.mark.parametrize("removed", ["group", "topic"])
async def test_a_token_of_a_group_that_was_made_again_does_not_fit_it(
    transport: SQLiteTransport, removed: str
) -> None:
    await transport.publish(*messages("a"))
    async with transport.subscribe("orders", "mail", lease=60) as mail:
        before = list(await mail.receive(1, 1))
        if removed == "group":
            await transport.remove_group("orders", "mail")
        else:
            await transport.remove_topic("orders")
            await transport.publish(*messages("a"))
        async with transport.subscribe("orders", "mail", lease=60):
            again = list(await mail.receive(1, 1))
            assert ids(again) == ids(before)
            assert await mail.settle(acks(before)) == ["lost"]
            assert await mail.settle(acks(again)) == ["applied"]


# Rows


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut at a zero byte"])
def test_bodies_of_any_bytes_come_out_as_they_went_in(path: Path, cut: bool) -> None:
    class CutAtZero:
        """`group_concat` as SQLite had it before 3.41."""

        def __init__(self) -> None:
            self.parts: list[bytes] = []

        def step(self, part: bytes, _: str) -> None:
            self.parts.append(part)

        def finalize(self) -> bytes:
            """What is before the first zero byte."""
            return b"".join(self.parts).partition(b"\0")[0]

    connection = sqlite3.connect(path)
    if cut:
        connection.create_aggregate("group_concat", 2, CutAtZero)  # type: ignore[arg-type]
    bodies = [b"", b"\0", b"a\0b", b"\xff\xfe", os.urandom(1000), "ä".encode(), b""]
    connection.execute("CREATE TABLE t(n, id, body)")
    rows = [(n, f'"{n}\n,', body) for n, body in enumerate(bodies)]
    sqlite_rows.insert(connection, "INSERT INTO t", rows)
    found = list(sqlite_rows.fetch(connection, "n, id", "SELECT * FROM t ORDER BY n", ()))
    assert found == [([n, id_], body) for n, id_, body in rows]
    assert list(sqlite_rows.fetch(connection, "n, id", "SELECT * FROM t WHERE n > 99", ())) == []
    connection.close()


def test_bodies_that_are_too_large_together_come_out_one_by_one(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t(n, body)")
    rows = [(n, b"x" * 1000) for n in range(20)]
    sqlite_rows.insert(connection, "INSERT INTO t", rows)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)
    found = list(sqlite_rows.fetch(connection, "n", "SELECT * FROM t ORDER BY n", ()))
    assert found == [([n], body) for n, body in rows]
    connection.close()


@pytest.mark.parametrize("count", [1, 15, 16, 17, 100, 128, 129, 300])
def test_any_number_of_rows_goes_in(path: Path, count: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, x)")
    assert sqlite_rows.insert(connection, "INSERT INTO t(x)", [(n,) for n in range(count)]) == count
    assert connection.execute("SELECT x FROM t ORDER BY n").fetchall() == [
        (n,) for n in range(count)
    ]
    connection.close()


# Other processes

# In these only a pipe can wake anybody: the slow poll comes once an hour.
CONSUMER = """
    import anyio, sys
    from omnidaemon.drivers import sqlite as driver
    from omnidaemon.messages import Ack, Settlement
    from omnidaemon.transports.sqlite import SQLiteTransport

    async def main(path):
        async with SQLiteTransport(f"sqlite://{path}") as transport:
            async with transport.subscribe("orders", "mail", lease=60) as mail:
                assert await mail.receive(1, 0) == []
                print("ready", flush=True)
                while found := await mail.receive(1, 600):
                    print(found[0].id, flush=True)
                    await mail.settle([Settlement(found[0], Ack(), notice=found[0].id)])
                    if found[0].id == "end":
                        break

    driver.POLL_SECONDS = EVERY
    anyio.run(main, sys.argv[1])
"""


def consumer(path: Path, *, poll: float = 3600, pipes: bool = True) -> Python:
    program = CONSUMER.replace("EVERY", str(poll))
    if not pipes:
        program = program.replace("driver.POLL", "import os; del os.mkfifo\n    driver.POLL")
    child = Python(program, path)
    assert child.line() == "ready", child.end()
    return child


@pytest.fixture
def no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnidaemon.drivers.sqlite.POLL_SECONDS", 3600.0)


@pytest.mark.usefixtures("no_poll")
async def test_a_consumer_in_another_process_is_woken_and_tells_of_its_settlement(
    path: Path,
) -> None:
    async with SQLiteTransport(f"sqlite://{path}") as transport:
        await transport.open()  # before the other listens, so that it must learn of it
        child = await anyio.to_thread.run_sync(consumer, path)
        for name in ("a", "b", "end"):
            async with transport.watch(name) as watch:
                await transport.publish(*messages(name))
                assert await anyio.to_thread.run_sync(child.line) == name
                await watch.wait(600)
        await anyio.to_thread.run_sync(child.end)
    assert pipes(path) == []


async def test_without_pipes_the_slow_poll_wakes_a_consumer(path: Path) -> None:
    child = await anyio.to_thread.run_sync(lambda: consumer(path, poll=0.05, pipes=False))
    async with SQLiteTransport(f"sqlite://{path}") as transport:
        await transport.publish(*messages("end"))
        assert await anyio.to_thread.run_sync(child.end) == "end"
    assert "omni.db.wake" not in os.listdir(path.parent)


@pytest.mark.usefixtures("no_poll")
async def test_processes_share_the_load_and_each_event_goes_to_one(path: Path) -> None:
    async with SQLiteTransport(f"sqlite://{path}") as transport:
        children = [await anyio.to_thread.run_sync(consumer, path) for _ in range(2)]
        names = [str(number) for number in range(40)]
        await transport.publish(*messages(*names))
        (group,) = await transport.groups("orders")
        assert group.consumers == 2
        # Each ends at an "end" of its own.
        await transport.publish(*messages("end", "end"))
        said = [(await anyio.to_thread.run_sync(child.end)).split() for child in children]
        assert sorted(said[0] + said[1]) == sorted([*names, "end", "end"])
        assert all(said)
        (group,) = await transport.groups("orders")
        assert (group.lag, group.leased, group.waiting) == (0, 0, 0)


async def test_the_pipe_of_a_killed_process_is_removed(path: Path) -> None:
    async with SQLiteTransport(f"sqlite://{path}") as transport:
        children = [await anyio.to_thread.run_sync(consumer, path) for _ in range(2)]
        assert len(pipes(path)) == 2
        children[0].kill()
        await transport.publish(*messages("a"))  # finds a pipe that nobody reads
        assert len(pipes(path)) == 1
        assert await anyio.to_thread.run_sync(children[1].line) == "a"
        children[1].kill()
        await transport.publish(*messages("b"))  # writes to one that it had open
        assert pipes(path) == []


async def test_a_lease_lost_to_a_killed_process_is_taken_over(path: Path) -> None:
    program = """
        import anyio, sys
        from omnidaemon.transports.sqlite import SQLiteTransport

        async def main(path):
            async with SQLiteTransport(f"sqlite://{path}") as transport:
                async with transport.subscribe("orders", "mail", lease=60) as mail:
                    print((await mail.receive(1, 60))[0].id, flush=True)
                    await anyio.sleep_forever()

        anyio.run(main, sys.argv[1])
    """
    skipped = 0.0

    def later() -> float:
        return time.time() + skipped

    async with SQLiteTransport(f"sqlite://{path}", clock=later) as transport:
        await transport.publish(*messages("a"))
        child = Python(program, path)
        assert await anyio.to_thread.run_sync(child.line) == "a"
        child.kill()
        async with transport.subscribe("orders", "mail", lease=60) as mail:
            assert await mail.receive(1, 0) == []
            skipped = 61.0
            (delivery,) = await mail.receive(1, 0)
            assert (delivery.id, delivery.attempt, delivery.crashes) == ("a", 1, 1)
