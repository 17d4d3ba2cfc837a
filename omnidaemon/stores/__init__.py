"""Stores by URL: `connect("sqlite:shop.db")`. The contract stands in base.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from omnidaemon.imports import Backend, load_backend, scheme_of
from omnidaemon.stores.base import Store

_REDIS = Backend("omnidaemon.stores.redis:RedisStore", "redis", "redis>=5.2")

BACKENDS: dict[str, Backend] = {
    "memory": Backend("omnidaemon.stores.memory:MemoryStore"),
    "sqlite": Backend("omnidaemon.stores.sqlite:SQLiteStore"),
    "sqlite+fast": Backend("omnidaemon.stores.sqlite:SQLiteStore"),
    "json": Backend("omnidaemon.stores.json:JSONStore"),
    "redis": _REDIS,
    "rediss": _REDIS,
    "unix": _REDIS,
    "redis+sentinel": _REDIS,
    "rediss+sentinel": _REDIS,
    "redis+cluster": _REDIS,
    "rediss+cluster": _REDIS,
}


def connect(url: str, *, clock: Callable[[], float] | None = None) -> Store:
    """Makes the store for a URL; it opens with the first call, or with `open`.

    Args:
        url: Its scheme chooses the backend; the rest is the backend's own.
        clock: What it reads the time from, in seconds; None for the backend's own. For tests.

    Raises:
        UnknownBackend: No backend has this scheme.
        MissingExtra: The backend's package is not installed.
    """
    backend = load_backend("stores", BACKENDS, scheme_of(url))
    options = {} if clock is None else {"clock": clock}
    return cast(Store, backend(url, **options))
