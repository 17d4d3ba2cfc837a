"""Who looks at the dashboard: sessions by cookie, the token against forged changes, and tries."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from msgspec import Struct

from omnidaemon.admin.auth import ANYBODY, Caller, Keys
from omnidaemon.errors import OmniDaemonError
from omnidaemon.messages import Write
from omnidaemon.stores.base import Store

SESSIONS = "sessions"
SESSION_SECONDS = 12 * 3600.0
TRUST_SECONDS = 5.0
"""For so long a process believes what it has read of a session; another may have ended it."""
MOST_REMEMBERED = 10_000

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


class Visitor(Struct, frozen=True):
    """A browser that asks.

    Attributes:
        token: What its cookie holds; known to nobody else.
        caller: What it may do; None before it has logged in.
    """

    token: str
    caller: Caller | None

    @property
    def csrf(self) -> str:
        """What our own forms send along; it tells nothing of the token."""
        return hmac.digest(self.token.encode(), b"csrf", "sha256").hex()

    def has_sent(self, csrf: str) -> bool:
        """Whether a form that came with this is one of ours, made for this browser."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode("utf-8", "replace"))


class _Kept(Struct, frozen=True):
    """A session in the store: without the cookie it neither opens anything nor names a key."""

    mark: bytes
    started_at: float


class Sessions:
    """Sessions, kept in the app's store, where all processes that serve the dashboard find them.

    A session lasts until it is ended, for twelve hours at most, and no longer than its key is on
    the list of the process that is asked. While the store does not answer, those that this process
    has seen go on.

    Args:
        keys: Those who may log in; without any, nobody has to.
        store: Where sessions are kept, under the hashes of their tokens.
        clock: Unix time, in seconds.
    """

    def __init__(self, keys: Keys, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._store = store
        self._clock = clock
        self._read: OrderedDict[str, tuple[float, _Kept]] = OrderedDict()

    async def visitor(self, token: str | None) -> Visitor:
        """Who has this cookie; someone new if it is none that we have made.

        Raises:
            StoreError: The store does not answer, and this process does not know the session.
        """
        if token is None or not _TOKEN.fullmatch(token):
            return Visitor(secrets.token_urlsafe(32), None if self._keys else ANYBODY)
        if not self._keys:
            return Visitor(token, ANYBODY)
        kept = await self._kept(_name(token))
        if kept is None or self._clock() - kept.started_at >= SESSION_SECONDS:
            return Visitor(token, None)
        return Visitor(token, self._keys.marked(kept.mark, token))

    async def begin(self, key: str) -> Visitor | None:
        """A new session of whoever has this key; None if nobody has."""
        token = secrets.token_urlsafe(32)
        mark = self._keys.mark(key, token)
        if mark is None:
            return None
        kept = _Kept(mark, self._clock())
        value = msgspec.json.encode(kept)
        await self._store.write(Write(SESSIONS, _name(token), value, ttl=SESSION_SECONDS))
        return Visitor(token, self._keys.marked(mark, token))

    async def end(self, visitor: Visitor) -> None:
        """Logs out, in all processes."""
        name = _name(visitor.token)
        self._read.pop(name, None)
        await self._store.remove(SESSIONS, name)

    async def _kept(self, name: str) -> _Kept | None:
        now = self._clock()
        at, known = self._read.get(name, (0.0, None))
        if known is not None and 0 <= now - at < TRUST_SECONDS:
            return known
        try:
            [record] = await self._store.read(SESSIONS, name)
        except OmniDaemonError:
            if known is None:
                raise
            return known  # the page shall be seen on which it stands that the store is away
        self._read.pop(name, None)
        if record is None:
            return None
        kept = msgspec.json.decode(record.value, type=_Kept)
        self._read[name] = now, kept
        while len(self._read) > MOST_REMEMBERED:
            self._read.popitem(last=False)
        return kept


def _name(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class _Failures(Struct):
    """How often an address has failed of late, and when it may try again."""

    count: int
    until: float
    last: float


class Tries:
    """How often an address may try to log in: five times, then after waits that double.

    Each process counts for itself.

    Args:
        clock: Seconds that only move on.
    """

    FREE = 5
    FIRST_WAIT = 15.0
    LONGEST_WAIT = 900.0
    FORGOTTEN = 3600.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until this address may try; 0 now."""
        failures = self._failures.get(_network(address))
        return 0.0 if failures is None else max(0.0, failures.until - self._clock())

    def failed(self, address: str) -> None:
        """Takes note of a wrong key."""
        now = self._clock()
        place = _network(address)
        failures = self._failures.pop(place, None)
        if failures is None or now - failures.last >= self.FORGOTTEN:
            failures = _Failures(0, now, now)
        failures.count += 1
        failures.last = now
        if failures.count >= self.FREE:
            wait = self.FIRST_WAIT * 2 ** min(failures.count - self.FREE, 10)
            failures.until = now + min(wait, self.LONGEST_WAIT)
        self._failures[place] = failures
        while len(self._failures) > MOST_REMEMBERED:
            self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """Forgets what went wrong before."""
        self._failures.pop(_network(address), None)


def _network(address: str) -> str:
    """Who has one address of IPv6 has a whole network of them."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))
