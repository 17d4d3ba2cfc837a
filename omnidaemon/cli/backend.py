"""The backends that the settings name, opened for the length of one command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from omnidaemon.app import App
from omnidaemon.errors import ConfigurationError
from omnidaemon.settings import Settings, load_settings

T = TypeVar("T")


def shared_settings() -> Settings:
    """The settings, if their events can be seen by more than one process.

    Raises:
        ConfigurationError: They cannot: a command would look at its own empty memory.
    """
    settings = load_settings()
    if settings.event_bus == "memory":
        raise ConfigurationError(
            "EVENT_BUS_TYPE=memory keeps events inside the process that publishes them, where no "
            "other command sees them: choose sqlite or redis_stream"
        )
    return settings


def run(command: Callable[[App], Awaitable[T]]) -> T:
    """Runs the command with an app on these backends, and closes them."""
    settings = shared_settings()

    async def main() -> T:
        async with App("cli", settings=settings) as app:
            return await command(app)

    return anyio.run(main)
