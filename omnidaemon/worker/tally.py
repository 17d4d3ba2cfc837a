"""What one process has settled, counted for those who ask it rather than the fleet."""

from __future__ import annotations

from collections import defaultdict

from omnidaemon.messages import Count, Release, Settlement, Verdict
from omnidaemon.records import METRICS, AgentMetrics


class Tally:
    """Counts settlements as they are applied, with the counters that they move in the store.

    Written by the worker's event loop alone, and read from any thread.
    """

    def __init__(self) -> None:
        self._counters: dict[str, defaultdict[str, float]] = {}
        self._lost: dict[str, int] = {}

    def settled(self, settlement: Settlement, verdict: Verdict) -> None:
        """This came of a delivery."""
        delivery = settlement.delivery
        if verdict == "lost" and not isinstance(settlement.action, Release):
            label = f"{delivery.topic}/{delivery.group}"
            self._lost[label] = self._lost.get(label, 0) + 1
        elif verdict != "lost":  # repeated: it was applied, and only the answer was lost
            for change in settlement.changes:
                if isinstance(change, Count) and change.collection == METRICS:
                    found = self._counters.get(change.key)
                    if found is None:
                        found = self._counters[change.key] = defaultdict(float)
                    found[change.field] += change.amount

    @property
    def totals(self) -> dict[tuple[str, str], AgentMetrics]:
        """By topic and agent."""
        return {
            _pair(label): AgentMetrics.of(dict(fields))
            for label, fields in self._counters.copy().items()
        }

    @property
    def lease_losses(self) -> dict[tuple[str, str], int]:
        """Runs of which nothing is kept, since their lease went to another worker."""
        return {_pair(label): count for label, count in self._lost.copy().items()}


def _pair(label: str) -> tuple[str, str]:
    topic, _, agent = label.partition("/")
    return topic, agent
