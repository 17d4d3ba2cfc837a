"""Transports by URL: `connect("sqlite:shop.db")`. The contract stands in base.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from omnidaemon.imports import Backend, load_backend, scheme_of
from omnidaemon.transports.base import Limits, Transport

_REDIS = Backend("omnidaemon.transports.redis:RedisTransport", "redis", "redis>=5.2")

BACKENDS: dict[str, Backend] = {
    "memory": Backend("omnidaemon.transports.memory:MemoryTransport"),
    "sqlite": Backend("omnidaemon.transports.sqlite:SQLiteTransport"),
    "sqlite+fast": Backend("omnidaemon.transports.sqlite:SQLiteTransport"),
    "redis": _REDIS,
    "rediss": _REDIS,
    "unix": _REDIS,
    "redis+sentinel": _REDIS,
    "rediss+sentinel": _REDIS,
    "redis+cluster": _REDIS,
    "rediss+cluster": _REDIS,
}


def connect(
    url: str, *, limits: Limits = Limits(), clock: Callable[[], float] | None = None
) -> Transport:
    """Makes the transport for a URL; it opens with the first call, or with `open`.

    Args:
        url: Its scheme chooses the backend; the rest is the backend's own.
        limits: How much it keeps and takes.
        clock: What it reads the time from, in seconds; None for the backend's own. For tests.

    Raises:
        UnknownBackend: No backend has this scheme.
        MissingExtra: The backend's package is not installed.
    """
    backend = load_backend("transports", BACKENDS, scheme_of(url))
    options = {} if clock is None else {"clock": clock}
    return cast(Transport, backend(url, limits=limits, **options))
