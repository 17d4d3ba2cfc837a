"""The rules of webhooks, pure: URLs, addresses, signatures, and what an answer means.

Signatures follow Standard Webhooks (https://www.standardwebhooks.com). Which addresses are public
follows the IANA special-purpose address registries (RFC 6890), written out, because what Python's
`ipaddress` calls global differs between its versions.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from datetime import UTC
from functools import lru_cache
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from omnidaemon.errors import InvalidSettings, PayloadError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    Address = IPv4Address | IPv6Address
    Network = IPv4Network | IPv6Network

MAX_URL = 2_000
LEAST_KEY = 24
"""Bytes: Standard Webhooks asks for 24 to 64."""

_NOT_PUBLIC_4 = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",
    "100.64.0.0/10",  # carrier-grade NAT
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local, where clouds answer with their metadata
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",  # once the relays of 6to4
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
_PUBLIC_6 = "2000::/3"
_NOT_PUBLIC_6 = (
    "2001::/23",  # protocols, Teredo among them
    "2001:db8::/32",
    "2002::/16",  # 6to4: some IPv4 address, by way of a relay
    "3fff::/20",
)
_NAT64 = "64:ff9b::/96"

_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*")
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")
_WELL_KNOWN_PORTS = 1024


class Target(Struct, frozen=True):
    """A webhook's URL, taken apart once: nothing reads it in a second way.

    Attributes:
        scheme: "http" or "https".
        host: A name in lower case, or an address without brackets.
        port: The port, also if the URL names none.
        path: What is asked for there, from the slash on, with the query.
    """

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _port_of(self.scheme) else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """For logs and errors: without path and query, in which many receivers keep secrets."""
        return f"{self.scheme}://{self.authority}"


def _port_of(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def parse_target(url: object) -> Target:
    """Takes a webhook's URL apart, or raises PayloadError; the message repeats none of it."""
    if not isinstance(url, str):
        raise PayloadError("the webhook is not usable: give a URL, as text")
    if len(url) > MAX_URL:
        raise PayloadError(
            f"the webhook's URL has {len(url):,} characters, and {MAX_URL:,} are allowed"
        )
    if not _URL.fullmatch(url):
        raise PayloadError(
            "the webhook's URL has characters that no URL has: write hosts in other scripts as "
            "xn--..., and all else that is not plain as %XX"
        )
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise PayloadError("the webhook's URL has a host or port that cannot be read") from error
    scheme = parts.scheme
    if scheme not in ("http", "https") or not host:
        raise PayloadError("the webhook is not usable: give a URL such as https://host/path")
    if "@" in parts.netloc:
        raise PayloadError(
            "the webhook's URL holds credentials, which would be stored with the event: leave them "
            "out, and verify the signature (OMNIDAEMON_WEBHOOK_SECRET) at the receiver"
        )
    if "#" in url:
        raise PayloadError("the webhook's URL has a fragment, which no server sees: leave it out")
    if port == 0:
        raise PayloadError("the webhook's URL has port 0: give a port from 1 to 65535")
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    known: Literal["http", "https"] = "https" if scheme == "https" else "http"
    return Target(known, _host(host, parts.netloc), port or _port_of(scheme), path)


def _host(host: str, netloc: str) -> str:
    import ipaddress  # 4 ms of every start, for few

    try:
        if netloc.startswith("["):
            return str(ipaddress.IPv6Address(host))
        host = host.removesuffix(".")
        last = host.rpartition(".")[2]
        # 2130706433, 0177.0.0.1 and 0x7f.1 are addresses to some resolvers, and names to others.
        if last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last):
            return str(ipaddress.IPv4Address(host))
    except ValueError as error:
        raise PayloadError(
            "the webhook's URL has an address in an odd form: write IPv4 as four decimal numbers "
            "without leading zeros, and IPv6 in brackets"
        ) from error
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise PayloadError("the webhook's URL has a host that is no host name")
    return host


class AddressRules:
    """Which addresses webhooks may go to: public ones, and what is allowed besides.

    Args:
        allow: Host names, addresses and networks, as in OMNIDAEMON_WEBHOOK_ALLOW.
    """

    def __init__(self, allow: Iterable[str] = ()) -> None:
        import ipaddress

        self._hosts: set[str] = set()
        self._networks: list[Network] = []
        for entry in allow:
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                self._hosts.add(entry.lower().removesuffix("."))

    def refusal(self, target: Target, addresses: Sequence[str]) -> str | None:
        """Why nothing may be sent there; None if all of its addresses are allowed.

        One address that is not is enough: a name that leads to a public and to a private one is
        either an attack or a mistake.
        """
        import ipaddress

        if target.host in self._hosts:
            return None
        named = ""
        for text in addresses:
            address = ipaddress.ip_address(text)
            if self._allowed(address):
                named = text
            elif not is_public(address):
                return f"{target.host} is at {text}, which is no public address"
        if not named and target.port < _WELL_KNOWN_PORTS and target.port not in (80, 443):
            return f"port {target.port} is another protocol's"
        return None

    def _allowed(self, address: Address) -> bool:
        mapped = getattr(address, "ipv4_mapped", None)
        return any(one in network for one in (address, mapped) if one for network in self._networks)


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could have that address."""
    public, not_public, nat64 = _registries()
    if address.version == 4:
        return not any(address in network for network in not_public)
    if getattr(address, "scope_id", None) is not None:
        return False
    inner = getattr(address, "ipv4_mapped", None)
    if inner is None and address in nat64:
        inner = _last_four(address)
    if inner is not None:
        return is_public(inner)
    return address in public and not any(address in network for network in not_public)


def _last_four(address: Address) -> IPv4Address:
    import ipaddress

    return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)


@lru_cache(maxsize=1)
def _registries() -> tuple[Network, tuple[Network, ...], Network]:
    import ipaddress

    networks = tuple(map(ipaddress.ip_network, (*_NOT_PUBLIC_4, *_NOT_PUBLIC_6)))
    return ipaddress.ip_network(_PUBLIC_6), networks, ipaddress.ip_network(_NAT64)


def signing_keys(secrets: Sequence[str]) -> tuple[bytes, ...]:
    """The keys behind `whsec_...` secrets, or InvalidSettings that shows none of them."""
    keys = []
    for place, secret in enumerate(secrets, 1):
        text = secret.removeprefix("whsec_")
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) < LEAST_KEY:
            raise InvalidSettings(
                f"OMNIDAEMON_WEBHOOK_SECRET: secret {place} of {len(secrets)} is not usable: give "
                f"`whsec_` and the base64 form of {LEAST_KEY} random bytes or more, such as "
                '`echo "whsec_$(head -c 32 /dev/urandom | base64)"` prints'
            )
        keys.append(key)
    return tuple(keys)


def signature(keys: Iterable[bytes], id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: one signature for each key."""
    text = b"%s.%d.%s" % (id.encode(), timestamp, body)
    digests = (hmac.digest(key, text, hashlib.sha256) for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def verdict(status: int) -> Literal["delivered", "again", "never"]:
    """What an answer with that status means for the delivery."""
    if 200 <= status < 300:
        return "delivered"
    if status in (408, 425, 429) or status >= 500:
        return "again"
    return "never"


def retry_after(text: str | None, now: float, most: float) -> float | None:
    """Seconds that a `Retry-After` header asks to wait, at most `most`; None if it asks nothing.

    RFC 9110, 10.2.3: seconds, or an HTTP date.
    """
    if text is None or len(text) > 64:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(most, float(text))
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:  # RFC 9110: HTTP dates are in UTC, whatever they forget to say
        moment = moment.replace(tzinfo=UTC)
    return min(most, max(0.0, moment.timestamp() - now))
