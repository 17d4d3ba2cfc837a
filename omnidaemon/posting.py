"""Posting to a webhook: the name resolved, its addresses checked, the request sent to one of them.

The connection goes to exactly the address that was checked, so that a name which leads elsewhere
the next moment (DNS rebinding) changes nothing; TLS and the Host header keep the name. No
redirect is followed, no proxy of the environment used, no cookie kept, and no connection reused.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio import CancelScope, CapacityLimiter
from msgspec import Struct

from omnidaemon.errors import Reject, Retry
from omnidaemon.webhook_rules import AddressRules, Target

if TYPE_CHECKING:
    import ssl

    import httpx

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 20.0
"""For the name, the connection, the request and the head of the answer together."""
BODY_BYTES = 65_536
BODY_SECONDS = 1.0
_RESOLVERS = 64


class Undelivered(Retry):
    """The receiver cannot be reached or wants the event later: it is posted again."""


class Undeliverable(Reject):
    """The receiver does not take the event, or must not get it: it becomes a dead letter."""


class Post(Struct, frozen=True):
    """One attempt to tell a receiver.

    Attributes:
        target: Where to.
        headers: By name.
        body: The bytes that are signed.
    """

    target: Target
    headers: dict[str, str]
    body: bytes


class Answer(Struct, frozen=True):
    """What the receiver said.

    Attributes:
        status: The HTTP status.
        retry_after: Its header of that name.
    """

    status: int
    retry_after: str | None = None


Sender = Callable[[Post], Awaitable[Answer]]
"""Makes one attempt; raises Undelivered or Undeliverable if there is no answer."""
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host, or raises OSError."""


class HttpSender:
    """Posts over HTTP/1.1.

    Args:
        allow: Host names, addresses and networks that may be reached although they are private.
        resolve: How names are looked up; the system's way by default.
        tls: What certificates are trusted; the system's and certifi's by default.
    """

    def __init__(
        self,
        allow: Iterable[str] = (),
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = AddressRules(allow)
        self._resolve = resolve or _Resolver()
        self._tls = tls
        self._loaded: ssl.SSLContext | None = None

    async def __call__(self, post: Post) -> Answer:
        """Makes one attempt.

        Raises:
            Undelivered: No answer: no address, no connection, or not in time.
            Undeliverable: Its address must not be reached.
        """
        tls = self._loaded
        if tls is None:
            tls = await anyio.to_thread.run_sync(self._load)
        import httpx

        shown = post.target.shown
        try:
            with anyio.fail_after(TOTAL_SECONDS) as scope:
                addresses = await self._addresses(post.target)
                return await _post_to_any(post, addresses, tls, scope)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise Undelivered(f"{shown} did not answer within {TOTAL_SECONDS:g} s") from error
        except httpx.HTTPError as error:
            # These name hosts, ports and certificates, and neither paths nor headers.
            raise Undelivered(f"{shown} cannot be reached: {_why(error)}") from error

    async def _addresses(self, target: Target) -> Sequence[str]:
        try:
            addresses = await self._resolve(target.host, target.port)
        except OSError as error:
            raise Undelivered(f"the host of {target.shown} is not found: {error}") from error
        if not addresses:
            raise Undelivered(f"the host of {target.shown} has no address")
        refusal = self._rules.refusal(target, addresses)
        if refusal is not None:
            raise Undeliverable(
                f"nothing is sent to {target.shown}: {refusal}; if it is meant, name the host or "
                "its network in the worker's OMNIDAEMON_WEBHOOK_ALLOW, then replay"
            )
        return addresses

    def _load(self) -> ssl.SSLContext:
        """Takes a quarter of a second, which only those who use webhooks wait for."""
        import ssl

        import certifi
        import httpx  # noqa: F401  it is there from now on

        trusted = self._tls
        if trusted is None:
            trusted = ssl.create_default_context()
            trusted.load_verify_locations(certifi.where())  # a slim container may have none
        self._loaded = trusted
        return trusted


async def _post_to_any(
    post: Post, addresses: Sequence[str], tls: ssl.SSLContext, scope: CancelScope
) -> Answer:
    """Tries one address after the other until one lets us in."""
    import httpx

    for address in addresses[:-1]:
        try:
            return await _post(post, address, tls, scope)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            continue  # nothing has been sent
    return await _post(post, addresses[-1], tls, scope)


async def _post(post: Post, address: str, tls: ssl.SSLContext, scope: CancelScope) -> Answer:
    import httpx

    target = post.target
    url = httpx.URL(
        scheme=target.scheme, host=address, port=target.port, raw_path=target.path.encode()
    )
    request = httpx.Request(
        "POST",
        url,
        headers={"Host": target.authority, **post.headers, "Connection": "close"},
        content=post.body,
        extensions={"sni_hostname": target.host, "timeout": {"connect": CONNECT_SECONDS}},
    )
    # The transport alone: a client would log whole URLs, and read proxies and .netrc.
    async with httpx.AsyncHTTPTransport(verify=tls, trust_env=False) as transport:
        response = await transport.handle_async_request(request)
        scope.deadline = math.inf  # it has answered: its text has a time of its own
        try:
            await _read_some(response)
        finally:
            await response.aclose()
        return Answer(response.status_code, response.headers.get("Retry-After"))


def _why(error: BaseException) -> str:
    """The first text down the chain of causes: some errors have none of their own."""
    cause: BaseException | None = error
    while cause is not None:
        if text := str(cause):
            return text
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


async def _read_some(response: httpx.Response) -> None:
    """Lets a polite receiver finish; what it says, and how long it goes on, changes nothing."""
    import httpx

    left = BODY_BYTES
    with anyio.move_on_after(BODY_SECONDS) as scope:
        try:
            async for chunk in response.aiter_raw():
                left -= len(chunk)
                if left <= 0:
                    scope.cancel()  # leaving the loop would leave the library's generators open
        except httpx.HTTPError:
            return  # it broke off after its status, and that is what counts


class _Resolver:
    """The system's resolver, in threads of its own: names that hang hold up nobody else's."""

    @cached_property
    def _threads(self) -> CapacityLimiter:
        return CapacityLimiter(_RESOLVERS)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await anyio.to_thread.run_sync(
            look_up, limiter=self._threads, abandon_on_cancel=True
        )
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
