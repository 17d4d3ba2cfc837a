"""`/storage` and `/config`: the records, and values kept for other processes."""

from __future__ import annotations

from typing import Any

from omnidaemon.admin.answers import (
    Cleared,
    ConfigBody,
    ConfigValue,
    Instead,
    Refused,
    StorageHealth,
    json_answer,
)
from omnidaemon.admin.endpoints import Ask, Name, Section
from omnidaemon.errors import StoreError
from omnidaemon.fleet import Clearable

storage = Section("storage")
_MISSING = object()


@storage("GET", "/storage/health", scope="read", others={503: StorageHealth})
async def storage_health(ask: Ask) -> StorageHealth:
    """Whether the store answers; with 503 if not."""
    kind = ask.app.store.backend.partition(":")[0]
    try:
        await ask.app.store.check()
    except StoreError as error:
        raise Instead(json_answer(StorageHealth(kind, False, str(error)), 503)) from error
    return StorageHealth(kind, True)


@storage("DELETE", "/storage/agents", scope="admin")
async def clear_agents(ask: Ask) -> Cleared:
    """Removes the records of agents; those that run are soon written down again."""
    return await _clear(ask, "agents")


@storage("DELETE", "/storage/results", scope="admin")
async def clear_results(ask: Ask) -> Cleared:
    """Removes all results."""
    return await _clear(ask, "results")


@storage("DELETE", "/storage/metrics", scope="admin")
async def clear_metrics(ask: Ask) -> Cleared:
    """Starts all counters at zero."""
    return await _clear(ask, "metrics")


@storage("DELETE", "/storage/all", scope="admin")
async def clear_all(ask: Ask) -> Cleared:
    """Removes agents' records, results, counters and the configuration."""
    return await _clear(ask, "all")


async def _clear(ask: Ask, what: Clearable) -> Cleared:
    return Cleared("cleared", await ask.fleet.clear(what))


@storage("GET", "/config", scope="read")
async def list_config(ask: Ask) -> dict[str, Any]:
    """All values by key."""
    return await ask.fleet.list_config()


@storage("GET", "/config/{key}", scope="read", errors=(404,))
async def get_config(ask: Ask, key: Name) -> ConfigValue:
    """The value kept under a key."""
    value = await ask.fleet.get_config(key, _MISSING)
    if value is _MISSING:
        raise Refused(404, f"no value is kept under {key!r}: see GET /config")
    return ConfigValue(key, value)


@storage("POST", "/config/{key}", scope="admin")
async def set_config(ask: Ask, key: Name, body: ConfigBody) -> ConfigValue:
    """Keeps a value under a key."""
    await ask.fleet.set_config(key, body.value)
    return ConfigValue(key, body.value)
