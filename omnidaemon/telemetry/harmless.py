"""Keeps what a collector's own code raises away from the messages that it is told of.

Processors, samplers and propagators are people's own code, which the SDK calls where spans begin
and end, and recording an exception formats it. A message is neither lost nor repeated for that.
"""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("omnidaemon.telemetry")

_told: set[tuple[str, str]] = set()
_TOLD_MOST = 100


def tried(otherwise: T, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `do` returns, or `otherwise` if it raises, which is logged once for each place."""
    try:
        return do(*args, **kwargs)
    except Exception as error:  # anybody's code, which may raise anything
        _tell(error)
        return otherwise


def harmless(do: Callable[P, None]) -> Callable[P, None]:
    """The same for what returns nothing."""

    @functools.wraps(do)
    def attempt(*args: P.args, **kwargs: P.kwargs) -> None:
        tried(None, do, *args, **kwargs)

    return attempt


def _tell(error: Exception) -> None:
    """Without the error's text, which may quote an event."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{frame.filename}:{frame.lineno}"
    told = type(error).__qualname__, place
    if told in _told or len(_told) >= _TOLD_MOST:
        return
    _told.add(told)
    logger.error(
        "telemetry is incomplete: %s was raised at %s, by what collects it or by an exception that "
        "it was told of; messages are not affected, and this is said once",
        *told,
    )
