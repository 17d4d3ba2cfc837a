"""The backends that the settings name, opened for the length of one command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from omnidaemon.app import App
from omnidaemon.errors import ConfigurationError, ConnectionLost
from omnidaemon.settings import Settings, load_settings

T = TypeVar("T")

ANSWER_SECONDS = 2.0
"""A person who asks wants to know by then whether anybody is there."""


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
    """Runs the command with an app on these backends, and closes them.

    Raises:
        ConnectionLost: They do not answer within ANSWER_SECONDS.
    """
    settings = shared_settings()

    async def main() -> T:
        app = App("cli", settings=settings)
        try:
            try:
                with anyio.fail_after(ANSWER_SECONDS):
                    await app.transport.open()
                    await app.store.open()
            except TimeoutError:
                raise ConnectionLost(silence(settings)) from None
            except ConnectionLost as error:
                raise ConnectionLost(f"{error} ({settings.why})") from error
            return await command(app)
        finally:
            await app.close()

    return anyio.run(main)


def examine(command: Callable[[App], Awaitable[T]], silent: Callable[[str], T]) -> T:
    """Runs a command that finds out itself whether the backends answer.

    Args:
        command: What is run; it connects when it asks.
        silent: Makes the answer of a text when ANSWER_SECONDS are over.
    """
    settings = shared_settings()

    async def main() -> T:
        app = App("cli", settings=settings)
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                return await command(app)
        except TimeoutError:
            return silent(silence(settings))
        finally:
            await app.close()

    return anyio.run(main)


def silence(settings: Settings) -> str:
    """Says that nobody answers, and who was asked."""
    return f"no answer within {ANSWER_SECONDS:g} s ({settings.why})"
