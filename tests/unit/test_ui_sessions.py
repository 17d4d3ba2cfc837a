"""Sessions of the dashboard, and how often one may try to begin one."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from omnidaemon import stores
from omnidaemon.admin import ui_sessions
from omnidaemon.admin.auth import Keys
from omnidaemon.admin.ui_sessions import SESSIONS, Sessions, Tries
from omnidaemon.errors import StoreError

pytestmark = pytest.mark.anyio

HOUR = 3600.0


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Any:
    return stores.connect(f"memory://{request.node.name}")


def sessions(store: Any, clock: Clock, *entries: str) -> Sessions:
    return Sessions(Keys(entries or ("k3y:read:t", "other:admin")), store, clock)


async def test_a_session_may_do_what_its_key_may(store: Any, clock: Clock) -> None:
    ours = sessions(store, clock)
    begun = await ours.begin("k3y")
    assert begun is not None
    found = await ours.visitor(begun.token)
    assert found.caller is not None
    assert found.caller.tenant == "t"
    assert not found.caller.may("admin")
    assert await ours.begin("k3") is None


@pytest.mark.parametrize("token", [None, "", "short", "x" * 43, "ü" * 43, "x" * 10_000])
async def test_a_cookie_that_nobody_made_is_nobodys(
    store: Any, clock: Clock, token: str | None
) -> None:
    visitor = await sessions(store, clock).visitor(token)
    assert visitor.caller is None
    assert len(visitor.token) == 43


async def test_without_keys_everybody_may_do_all_but_each_browser_has_its_own_token(
    store: Any, clock: Clock
) -> None:
    free = Sessions(Keys(()), store, clock)
    one, other = await free.visitor(None), await free.visitor(None)
    assert one.caller is not None
    assert one.caller.may("admin")
    assert not other.has_sent(one.csrf)
    assert (await free.visitor(one.token)).has_sent(one.csrf)
    assert await store.browse(SESSIONS) == []


async def test_a_session_ends_after_twelve_hours(store: Any, clock: Clock) -> None:
    ours = sessions(store, clock)
    begun = await ours.begin("k3y")
    assert begun is not None
    clock.now += 12 * HOUR - 1
    assert (await ours.visitor(begun.token)).caller is not None
    clock.now += 1
    assert (await ours.visitor(begun.token)).caller is None


async def test_another_process_knows_the_session_and_forgets_it_soon_after_its_end(
    store: Any, clock: Clock
) -> None:
    here, there = sessions(store, clock), sessions(store, clock)
    begun = await here.begin("k3y")
    assert begun is not None
    assert (await there.visitor(begun.token)).caller is not None
    await here.end(begun)
    assert (await here.visitor(begun.token)).caller is None
    clock.now += ui_sessions.TRUST_SECONDS
    assert (await there.visitor(begun.token)).caller is None


async def test_a_key_that_is_taken_off_the_list_ends_its_sessions(store: Any, clock: Clock) -> None:
    begun = await sessions(store, clock).begin("k3y")
    assert begun is not None
    after = sessions(store, clock, "other:admin", "new:read")
    assert (await after.visitor(begun.token)).caller is None


async def test_what_is_stored_opens_nothing_and_names_no_key(store: Any, clock: Clock) -> None:
    ours = sessions(store, clock)
    begun = await ours.begin("k3y")
    assert begun is not None
    (record,) = await store.browse(SESSIONS)
    everything = record.key.encode() + record.value
    for secret in (begun.token, "k3y", hashlib.sha256(b"k3y").hexdigest(), begun.csrf):
        assert secret.encode() not in everything
    # A record cannot be made to fit another token, or another key.
    assert (await ours.visitor(record.key[:43])).caller is None
    other = await ours.begin("other")
    assert other is not None
    assert other.caller != begun.caller


async def test_while_the_store_is_away_those_who_were_here_go_on(
    store: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = sessions(store, clock)
    begun, unseen = await ours.begin("k3y"), await ours.begin("k3y")
    assert begun is not None
    assert unseen is not None
    await ours.visitor(begun.token)

    async def away(*args: Any) -> Any:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(store, "read", away)
    clock.now += HOUR
    assert (await ours.visitor(begun.token)).caller is not None
    with pytest.raises(StoreError):
        await ours.visitor(unseen.token)
    clock.now += 12 * HOUR
    assert (await ours.visitor(begun.token)).caller is None


async def test_what_is_remembered_of_sessions_has_a_bound(
    store: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui_sessions, "MOST_REMEMBERED", 3)
    ours = sessions(store, clock)
    for _ in range(10):
        begun = await ours.begin("k3y")
        assert begun is not None
        await ours.visitor(begun.token)
    assert len(ours._read) == 3


def test_five_tries_are_free_and_each_further_one_takes_longer(clock: Clock) -> None:
    tries = Tries(clock)
    for _ in range(4):
        tries.failed("192.0.2.1")
        assert tries.wait("192.0.2.1") == 0
    waits = []
    for _ in range(9):
        tries.failed("192.0.2.1")
        waits.append(tries.wait("192.0.2.1"))
        clock.now += waits[-1]
    assert waits == [15, 30, 60, 120, 240, 480, 900, 900, 900]
    assert tries.wait("192.0.2.1") == 0
    assert tries.wait("192.0.2.2") == 0


def test_a_login_and_an_hour_make_all_good(clock: Clock) -> None:
    tries = Tries(clock)
    for _ in range(5):
        tries.failed("192.0.2.1")
    tries.succeeded("192.0.2.1")
    tries.failed("192.0.2.1")
    assert tries.wait("192.0.2.1") == 0
    for _ in range(5):
        tries.failed("192.0.2.1")
    clock.now += HOUR
    tries.failed("192.0.2.1")
    assert tries.wait("192.0.2.1") == 0


def test_a_network_of_ipv6_counts_as_one_address(clock: Clock) -> None:
    tries = Tries(clock)
    for number in range(5):
        tries.failed(f"2001:db8::{number}")
    assert tries.wait("2001:db8::ffff") > 0
    assert tries.wait("2001:db8:0:1::1") == 0
    assert tries.wait("a socket's path") == 0


def test_what_is_remembered_of_failures_has_a_bound(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui_sessions, "MOST_REMEMBERED", 3)
    tries = Tries(clock)
    for number in range(100):
        tries.failed(f"192.0.2.{number}")
    assert len(tries._failures) == 3
