"""Asks several things at once: one after another, each would be a round trip."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import anyio

from omnidaemon.errors import OmniDaemonError

T = TypeVar("T")


async def together(calls: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    """What the calls return, in their order.

    Raises:
        OmniDaemonError: The first that one of them raised, when all have ended.
    """
    asked = list(calls)
    found: dict[int, T] = {}
    failed: list[OmniDaemonError] = []

    async def ask(number: int, call: Callable[[], Awaitable[T]]) -> None:
        try:
            found[number] = await call()
        except OmniDaemonError as error:
            failed.append(error)

    async with anyio.create_task_group() as group:
        for number, call in enumerate(asked):
            group.start_soon(ask, number, call)
    if failed:
        raise failed[0]
    return [found[number] for number in range(len(asked))]
