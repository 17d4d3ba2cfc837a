"""What all tests share: the event loops they run on, and what a missing server means."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Runs a test marked `anyio` on both event loops.

    A module whose tests wait for times that must pass in no time overrides it with
    `("trio", {"clock": MockClock(autojump_threshold=0)})`.
    """
    return request.param


@pytest.fixture(scope="session")
def no_server() -> Callable[[str], NoReturn]:
    """For fixtures that start a server and find none: `no_server("there is no redis-server")`.

    It skips on a laptop, and fails where CI=true: there, what is not tried counts as broken.
    """

    def give_up(reason: str) -> NoReturn:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"{reason} (CI=true, so this is not skipped)", pytrace=False)
        pytest.skip(reason)

    return give_up
