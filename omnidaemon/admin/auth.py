"""Who may do what: API keys, their scopes and tenants, and what browsers are kept from doing."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct
from starlette.requests import HTTPConnection

from omnidaemon.admin.answers import Refused
from omnidaemon.errors import InvalidSettings

Scope = Literal["read", "publish", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "publish", "admin")
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})

_HASHED = re.compile(r"sha256=([0-9a-f]{64})")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_KEY_PARAMETERS = frozenset({"api_key", "apikey", "api-key", "access_token", "token", "auth"})


class Caller(Struct, frozen=True):
    """Who asks, as far as it matters.

    Attributes:
        scopes: What it may do; admin may do all.
        tenant: The only tenant whose data it may see and publish; None for all.
    """

    scopes: frozenset[Scope]
    tenant: str | None = None

    def may(self, scope: Scope) -> bool:
        """Whether it may do what needs this scope."""
        return scope in self.scopes or "admin" in self.scopes


ANYBODY = Caller(frozenset(SCOPES))


class Keys:
    """The API keys, kept as their hashes alone.

    Args:
        entries: As in OMNIDAEMON_API_KEYS: `key:scope` or `key:scope:tenant`, with several scopes
            as `read+publish`; the key may be given as `sha256=` and its hash in hexadecimal.

    Raises:
        InvalidSettings: An entry is not usable; the message shows none of it.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        known: dict[bytes, Caller] = {}
        for number, entry in enumerate(entries, 1):
            digest, caller = _parsed(number, entry)
            listed = known.get(digest, caller)
            if listed.tenant != caller.tenant:
                raise InvalidSettings(f"{_entry(number)} has the key of another entry and tenant")
            known[digest] = Caller(listed.scopes | caller.scopes, caller.tenant)
        self._known = list(known.items())

    def __bool__(self) -> bool:
        return bool(self._known)

    def caller(self, key: str | bytes) -> Caller | None:
        """Whose key it is; takes as long for one that is known as for one that is not."""
        data = key if isinstance(key, bytes) else key.encode("utf-8", "surrogateescape")
        digest = hashlib.sha256(data).digest()
        found: Caller | None = None
        for known, caller in self._known:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def mark(self, key: str, token: str) -> bytes | None:
        """What ties a session's token to the key it began with; None if the key is not known.

        Whoever reads it where sessions are kept learns nothing of the key without the token.
        """
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        return None if self.caller(key) is None else hmac.digest(token.encode(), digest, "sha256")

    def marked(self, mark: bytes, token: str) -> Caller | None:
        """Whose key the mark was made with; None once that key is taken off the list."""
        found: Caller | None = None
        for known, caller in self._known:
            if hmac.compare_digest(mark, hmac.digest(token.encode(), known, "sha256")):
                found = caller
        return found


def _parsed(number: int, entry: str) -> tuple[bytes, Caller]:
    key, _, rest = entry.partition(":")
    scopes, bound, tenant = rest.partition(":")
    where = _entry(number)
    if not key.strip() or not scopes:
        raise InvalidSettings(f"{where} is not of the form key:scope or key:scope:tenant")
    if bound and not tenant.strip():
        raise InvalidSettings(f"{where} names no tenant after its second colon")
    wanted = [scope.strip() for scope in scopes.split("+")]
    known = frozenset(scope for scope in SCOPES if scope in wanted)
    if len(known) != len(wanted):
        raise InvalidSettings(f"{where}: its scope is none of {', '.join(SCOPES)}, joined by +")
    hashed = _HASHED.fullmatch(key.strip())
    digest = bytes.fromhex(hashed[1]) if hashed else hashlib.sha256(key.strip().encode()).digest()
    return digest, Caller(known, tenant.strip() or None)


def _entry(number: int) -> str:
    return f"entry {number} of OMNIDAEMON_API_KEYS"


class Guard:
    """What every request must pass before it is looked at any further.

    Args:
        keys: Those who may ask; without any, whoever reaches the API may do all.
        hosts: Host names that are answered without keys, besides localhost, 127.0.0.1 and [::1].
    """

    def __init__(self, keys: Keys, hosts: Sequence[str] = ()) -> None:
        self._keys = keys
        self._hosts = LOCAL_HOSTS | {_bracketed(host.lower()) for host in hosts}

    def check(self, request: HTTPConnection, method: str) -> Caller:
        """Returns who asks.

        Raises:
            Refused: With 401, 403 or 415.
        """
        self.check_place(request)
        caller = self._caller(request)
        if method not in _SAFE_METHODS:
            check_origin(request)
            _check_body_type(request)
        return caller

    def check_place(self, request: HTTPConnection) -> None:
        """Refuses a host that is not ours, and a key in the URL; for all, logged in or not."""
        if not self._keys:
            # A page of another site reaches us under its own name, once DNS points that name here.
            self._check_host(request)
        self._check_url(request)

    def _check_host(self, request: HTTPConnection) -> None:
        match = _HOST.fullmatch(request.headers.get("host", "").strip().lower())
        if match is None or match[1] not in self._hosts:
            raise Refused(
                403,
                "this Host is not answered without API keys: use localhost, set "
                "OMNIDAEMON_API_KEYS, or name the host in OMNIDAEMON_API_HOSTS or Admin(hosts=...)",
            )

    def _check_url(self, request: HTTPConnection) -> None:
        """A key in a URL ends in logs and histories: it is refused, also where it would do."""
        query = request.scope.get("query_string", b"").decode("latin-1")
        pairs = parse_qsl(query, keep_blank_values=True)
        parts = [part for part in request.scope["path"].split("/") if part]
        if self._keys and (
            any(name.lower() in _KEY_PARAMETERS for name, _ in pairs)
            or any(self._keys.caller(text) for text in [value for _, value in pairs] + parts)
        ):
            raise Refused(
                401,
                "a key does not belong in a URL, which is written to logs: replace that key, and "
                "send the new one as the header Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )

    def _caller(self, request: HTTPConnection) -> Caller:
        if not self._keys:
            return ANYBODY
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = key.strip().encode("latin-1")  # which is how headers are decoded, whatever is sent
        caller = self._keys.caller(given) if scheme.lower() == "bearer" else None
        if caller is None:
            raise Refused(
                401,
                "an API key is needed, as the header Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
        return caller


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def check_origin(request: HTTPConnection) -> None:
    """A browser says where a request comes from; what other sites send is not meant by the user."""
    site = request.headers.get("sec-fetch-site", "none").lower()
    origin = request.headers.get("origin")
    if site not in ("same-origin", "none") or not (origin is None or _is_own(origin, request)):
        raise Refused(403, "changes are not taken from pages of another origin")


def _is_own(origin: str, request: HTTPConnection) -> bool:
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return False
    port = _DEFAULT_PORTS.get(parts.scheme)
    host = request.headers.get("host", "").strip().lower()
    return port is not None and bool(host) and _plain(parts.netloc, port) == _plain(host, port)


def _plain(netloc: str, port: str) -> str:
    return netloc.removesuffix(f":{port}")


def _check_body_type(request: HTTPConnection) -> None:
    """Forms and plain text are what a page may send anywhere without asking; JSON is not."""
    kind = request.headers.get("content-type")
    length = request.headers.get("content-length", "0")
    has_body = length != "0" or "transfer-encoding" in request.headers
    if kind is None and not has_body:
        return
    if (kind or "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "the body must be JSON, with Content-Type: application/json")
