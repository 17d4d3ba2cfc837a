"""Open for the length of an `async with` block: what backends of all kinds share."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Opened:
    """Opened where the block begins and closed where it ends; a backend says what that means."""

    async def open(self) -> None:
        """Does nothing: there is nothing to connect to."""

    async def close(self) -> None:
        """Does nothing: there is nothing to let go of."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
