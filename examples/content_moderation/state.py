"""What all runs of a worker share: settings, quarantine, counters, and the way to the model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from msgspec import Struct

from examples.content_moderation.metrics import Counters, counting
from examples.content_moderation.quarantine import Quarantine
from examples.content_moderation.settings import Settings, load
from omnidaemon import App


class State(Struct, frozen=True):
    """The `ctx.state` of both agents."""

    settings: Settings
    quarantine: Quarantine
    counters: Counters
    client: httpx.AsyncClient


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[State]:
    """Opens it all when a worker starts, and closes it when the worker has drained."""
    settings = load()
    with counting(settings.metrics_port) as counters:
        async with httpx.AsyncClient(timeout=30) as client:
            yield State(settings, Quarantine(settings.quarantine), counters, client)
