"""What travels: files to moderate, what was found in them, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct, field

TASKS = "content_moderation.tasks"
REVIEWS = "content_moderation.reviews"

Severity = Literal["low", "medium", "high"]
Action = Literal["allow", "review", "quarantine"]
_ACTIONS: tuple[Action, ...] = ("allow", "review", "quarantine")


class FileTask(Struct, frozen=True):
    """A file to moderate, as publishers send it.

    Attributes:
        path: Where it lies; absolute, for the agent may run in another folder.
        sha256: The version that was published, if known.
        metadata: What the publisher knows about it; kept with the review.
    """

    path: str
    sha256: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Finding(Struct, frozen=True):
    """Something that a tool saw.

    Attributes:
        tool: spam, profanity, pii, hate or reading.
        category: What kind, such as `card`.
        severity: low, medium or high.
        evidence: Enough to recognise it; never personal data in full.
        line: Where it begins, from 1.
    """

    tool: str
    category: str
    severity: Severity
    evidence: str
    line: int = 1


class Verdict(Struct, frozen=True):
    """What comes of one file; the event for the reviewer.

    Attributes:
        event_id: The task that asked for it.
        path: Where the file lay.
        sha256: The version that was judged.
        action: allow, review or quarantine.
        findings: What the tools saw.
        second_opinion: What the model said, or why it said nothing; None if none was asked.
        quarantined_to: Where the file lies now, if it was moved.
        metadata: As in the task.
        moderated_at: Unix time, in seconds.
    """

    event_id: str
    path: str
    sha256: str
    action: Action
    findings: list[Finding]
    moderated_at: float
    second_opinion: str | None = None
    quarantined_to: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def decide(findings: Iterable[Finding]) -> Action:
    """One high finding is quarantine; a medium one, or three low ones, are for a person to see."""
    severities = [finding.severity for finding in findings]
    if "high" in severities:
        return "quarantine"
    if "medium" in severities or severities.count("low") >= 3:
        return "review"
    return "allow"


def stricter(one: Action, other: Action) -> Action:
    """The stricter of two."""
    return max(one, other, key=_ACTIONS.index)
