"""What Redis's errors mean for people, and which of them pass by themselves."""

from __future__ import annotations

import re

from redis.exceptions import RedisError

_HINTS = {
    "OOM": "it is at its maxmemory and takes nothing new: raise maxmemory, or keep fewer events",
    "READONLY": "it is a replica, or became one: connect to the primary",
    "MASTERDOWN": "it is a replica without its primary: connect to the primary",
    "LOADING": "it is loading its data, and is asked again",
    "BUSY": "a script blocks it",
    "MISCONF": "it cannot write its data to disk, and refuses writes",
    "NOREPLICAS": "it has too few replicas to accept writes",
    "NOAUTH": "it wants a password",
    "WRONGPASS": "it refuses the user or password",
    "NOPERM": "the user may not do that",
}

_CLASSES = {
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "MasterDownError": "MASTERDOWN",
    "BusyLoadingError": "LOADING",
    "NoPermissionError": "NOPERM",
    "AuthenticationError": "NOAUTH",
}

_IN_SCRIPT = re.compile(r"@user_script: ?\d+: -([A-Z]+) ")
_PASSING = frozenset({"OOM", "READONLY", "MASTERDOWN", "LOADING", "BUSY", "MISCONF", "NOREPLICAS"})
_ELSEWHERE = frozenset({"READONLY", "MASTERDOWN"})


def explain(error: RedisError) -> str:
    """What an error of the server means."""
    code = _code(error)
    if code in _HINTS:
        return f"Redis says {code}: {_HINTS[code]} ({error})"
    return f"Redis says: {error}"


def passes(error: RedisError) -> bool:
    """Whether the command was refused, with nothing done, for a reason that may pass."""
    return _code(error) in _PASSING


def is_elsewhere(error: RedisError) -> bool:
    """Whether another server may stand behind the same address by now."""
    return _code(error) in _ELSEWHERE


def _code(error: RedisError) -> str:
    text = str(error)
    # Redis 6.2 wraps what a script's command meets in a text of its own.
    within = _IN_SCRIPT.search(text)
    if within is not None:
        return within[1]
    # redis-py has classes for some codes, and takes those off the text.
    return _CLASSES.get(type(error).__name__, text.split(" ", 1)[0])
