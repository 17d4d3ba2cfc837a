"""What a run comes to, decided as a value: done, again or dead. Pure: no clock, no chance."""

from __future__ import annotations

import math
import os
import traceback
from pathlib import Path
from types import TracebackType

import anyio
from msgspec import Struct

from omnidaemon.errors import InvalidSettings, Reject, Retry

# What leads to a handler; one that is not async is led to by anyio's threads.
_OURS = tuple(str(Path(file).parent) + os.sep for file in (__file__, anyio.__file__))

CRASH_LIMIT = 5
"""A message whose workers vanished this many times is not run again: it may be their killer."""


class Backoff(Struct, frozen=True):
    """How long to wait before a retry: exponential, with jitter.

    Attributes:
        initial: Seconds before the first retry.
        factor: What each further wait is multiplied by.
        maximum: Seconds that no wait exceeds.
        jitter: The share of a wait that chance takes off it, 0 to 1, so that what failed together
            does not come back together.
    """

    initial: float = 1.0
    factor: float = 2.0
    maximum: float = 300.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        numbers = self.initial, self.factor, self.maximum, self.jitter
        if not all(isinstance(number, int | float) for number in numbers) or not (
            0 <= self.initial < math.inf
            and 1 <= self.factor < math.inf
            and 0 <= self.maximum < math.inf
            and 0 <= self.jitter <= 1
        ):
            raise InvalidSettings(
                f"{self}: give numbers, initial and maximum as seconds from 0 up, factor at least "
                "1, jitter between 0 and 1"
            )

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds to wait after the failed run number `attempt`; `chance` is from 0 up to 1."""
        try:
            wait = min(self.maximum, self.initial * self.factor ** (attempt - 1))
        except OverflowError:
            wait = self.maximum
        return wait * (1 - self.jitter * chance)


class RetryPolicy(Struct, frozen=True):
    """When a failed run is repeated.

    Attributes:
        retries: Runs after the first; 0 means one run.
        backoff: The wait between them.
        retry_on: Exceptions worth a retry.
        give_up_on: Exceptions of these that are not.
        dead_letter: False drops what is given up, with a log line.
    """

    retries: int = 3
    backoff: Backoff = Backoff()
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = ()
    dead_letter: bool = True


class Cause(Struct, frozen=True, omit_defaults=True):
    """Why a run failed.

    Attributes:
        type: The exception's class name.
        message: Its text.
        traceback: Where it was raised; empty for signals and for what never ran.
    """

    type: str
    message: str
    traceback: str = ""


class Done(Struct, frozen=True):
    """The run succeeded."""


class Again(Struct, frozen=True):
    """The run failed and is repeated after `delay` seconds; not `charged`: it was no attempt."""

    delay: float
    cause: Cause
    charged: bool = True


class Dead(Struct, frozen=True):
    """There will be no further run; `keep` says whether it becomes a dead letter."""

    cause: Cause
    keep: bool = True


Outcome = Done | Again | Dead


def describe(error: BaseException) -> Cause:
    """The cause as text: long texts are cut, signals have no traceback."""
    text = shown(error)
    if isinstance(error, Retry | Reject):
        return Cause(type(error).__name__, _cut(text, 4_000))
    if isinstance(error, BaseExceptionGroup):
        inner = (f"{type(leaf).__qualname__}: {shown(leaf)}" for leaf in _leaves(error))
        text = f"{text}: {'; '.join(inner)}"
    try:
        frames = _theirs(error.__traceback__) or error.__traceback__
        lines = "".join(traceback.format_exception(type(error), error, frames, limit=-20))
    except Exception as odd:  # an exception's own code runs here, and may raise anything
        lines = f"(no traceback: formatting it raised {type(odd).__qualname__})"
    return Cause(type(error).__qualname__, _cut(text, 4_000), _cut(lines, 16_000))


def _theirs(frames: TracebackType | None) -> TracebackType | None:
    """From the handler's own frame on; None if there is none."""
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OURS):
        frames = frames.tb_next
    return frames


def shown(error: BaseException) -> str:
    """The error's text, also if its own `__str__` raises."""
    try:
        return str(error) or type(error).__name__
    except Exception as odd:  # whatever an exception's own code may raise
        return f"(its text cannot be shown: {type(odd).__qualname__})"


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions within groups; the error itself if it is none."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def decide(policy: RetryPolicy, attempt: int, error: BaseException, chance: float) -> Again | Dead:
    """What follows from a failed run.

    Args:
        policy: The agent's policy.
        attempt: Which run failed, from 1.
        error: What it raised.
        chance: From 0 up to 1, for the jitter.
    """
    # Task groups wrap what their tasks raise: what counts is what is within.
    leaves = _leaves(error)
    rejected = next((leaf for leaf in leaves if isinstance(leaf, Reject)), None)
    cause = describe(rejected or error)
    asked = [leaf for leaf in leaves if isinstance(leaf, Retry)]
    # Uncharged only if nothing else was raised beside it.
    charged = len(asked) < len(leaves) or any(retry.charged for retry in asked)
    if rejected is not None or (charged and attempt > policy.retries):
        return Dead(cause, policy.dead_letter)
    backoff = policy.backoff.delay(attempt, chance)
    if asked:
        delay = max(backoff if retry.delay is None else retry.delay for retry in asked)
        return Again(delay, cause, charged)
    given_up = all(isinstance(leaf, policy.give_up_on) for leaf in leaves)
    # What is no Exception (sys.exit, a leaked cancellation) is retried like any other failure.
    wanted = isinstance(error, policy.retry_on) or any(
        isinstance(leaf, policy.retry_on) or not isinstance(leaf, Exception) for leaf in leaves
    )
    if isinstance(error, policy.give_up_on) or given_up or not wanted:
        return Dead(cause, policy.dead_letter)
    return Again(backoff, cause)


def _cut(text: str, size: int) -> str:
    # Lone surrogates (from odd file names, say) would make the record itself unwritable.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= size else f"{text[: size // 2]}\n…\n{text[-size // 2 :]}"
