"""Wakes tasks that wait for a key, from any thread and in any event loop of this process."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Any, Self, cast

import anyio
from anyio.lowlevel import current_token

Call = Callable[..., object]


def loop_caller() -> Call:
    """Returns what calls a function in the running event loop, safely from any thread.

    It does not wait for the call (`anyio.from_thread` does, which would tie the caller's pace to
    the loop's), and raises RuntimeError once the loop is closed.
    """
    token = cast(Any, current_token().native_token)
    if hasattr(token, "run_sync_soon"):  # trio's TrioToken
        return cast(Call, token.run_sync_soon)
    return cast(Call, token.call_soon_threadsafe)


class Ear:
    """One task's wait for its keys; made by `Bell.listen`, used by the task that made it."""

    def __init__(self, bell: Bell, keys: tuple[Hashable, ...]) -> None:
        self._bell = bell
        self._keys = keys
        self._thread = threading.get_ident()
        self._call = loop_caller()
        self._event = anyio.Event()
        self._rung = False

    def __enter__(self) -> Self:
        self._bell._add(self, self._keys)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bell._remove(self, self._keys)

    async def wait(self, seconds: float) -> bool:
        """Waits until rung; True if so. A ring since the last wait counts at once."""
        # The event is in place before the flag is read: a ring in between sets the event.
        event = self._event = anyio.Event()
        if not self._rung:
            with anyio.move_on_after(seconds):
                await event.wait()
        rung, self._rung = self._rung, False
        return rung

    def ring(self) -> None:
        """Wakes the waiter; from any thread."""
        if self._rung:
            return
        self._rung = True
        if threading.get_ident() == self._thread:
            self._event.set()
            return
        try:
            # The event of the moment of setting, not of now: the waiter may have moved on.
            self._call(self._set)
        except RuntimeError:
            pass  # the waiter's event loop is closed, and with it the wait

    def _set(self) -> None:
        self._event.set()


class Bell:
    """Keys, and who waits for them."""

    def __init__(self) -> None:
        self._ears: defaultdict[Hashable, set[Ear]] = defaultdict(set)
        self._lock = threading.Lock()

    def listen(self, *keys: Hashable) -> Ear:
        """A context manager: enter it, look whether there is something, then wait."""
        return Ear(self, keys)

    def ring(self, *keys: Hashable) -> None:
        """Wakes all who wait for any of the keys."""
        for ear in self._heard_by(keys):
            ear.ring()

    def ring_all(self) -> None:
        """Wakes everybody."""
        with self._lock:
            ears = {ear for ears in self._ears.values() for ear in ears}
        for ear in ears:
            ear.ring()

    def listened(self, key: Hashable) -> bool:
        """True if somebody waits for the key."""
        return key in self._ears

    def _heard_by(self, keys: tuple[Hashable, ...]) -> set[Ear]:
        if not self._ears:
            return set()
        with self._lock:
            return {ear for key in keys for ear in self._ears.get(key, ())}

    def _add(self, ear: Ear, keys: tuple[Hashable, ...]) -> None:
        with self._lock:
            for key in keys:
                self._ears[key].add(ear)

    def _remove(self, ear: Ear, keys: tuple[Hashable, ...]) -> None:
        with self._lock:
            for key in keys:
                ears = self._ears[key]
                ears.discard(ear)
                if not ears:
                    del self._ears[key]
