"""The names of what OmniDaemon keeps in Redis; `redis-cli XLEN omni-stream:greet.user` works."""

from __future__ import annotations

from collections.abc import Iterable

_RECORD_KINDS = ("records", "keys", "indexes", "counts")


class Keys:
    """Names of keys and channels under one prefix. Names of topics and groups have no slash.

    In a cluster what a script touches must lie on one node. What stands in braces decides where a
    key lies: there, all keys of a topic have the topic in braces, and those of records the prefix.

    Attributes:
        prefix: What all names start with.
        registry: The set of all topics. It lies in a slot of its own in a cluster.
        records: What the names of records start with.
    """

    def __init__(self, prefix: str, *, cluster: bool = False) -> None:
        self.prefix = prefix
        self.registry = f"{prefix}-topics"
        self.records = f"{{{prefix}}}" if cluster else prefix
        self._cluster = cluster

    def _place(self, topic: str) -> str:
        return f"{{{topic}}}" if self._cluster else topic

    def registry_for(self, topic: str) -> str:
        """Where the topic's scripts say that it is there; in a cluster a set of itself alone."""
        return f"{self.registry}:{self._place(topic)}" if self._cluster else self.registry

    def topic(self, topic: str) -> list[str]:
        """Its events, what is known of it and its groups, and its delayed messages."""
        place = self._place(topic)
        return [f"{self.prefix}-{kind}:{place}" for kind in ("stream", "topic", "delayed")]

    def group(self, topic: str, group: str) -> list[str]:
        """Members, what is due when, replays, attempts beyond the first, dead letters."""
        kinds = ("members", "due", "retry", "attempts", "dlq")
        return [f"{self.prefix}-{kind}:{self._place(topic)}/{group}" for kind in kinds]

    def receipts(self, who: str, topic: str | None = None) -> str:
        """What a publisher (of the topic alone) or a consumer has had applied lately."""
        where = "" if topic is None else f"{self._place(topic)}/"
        return f"{self.prefix}-receipts:{where}{who}"

    def once(self, topic: str | None = None) -> str:
        """What settlements elsewhere have lately left in the topic, or in the records."""
        if topic is None:
            return f"{self.records}-once"
        return f"{self.prefix}-once:{self._place(topic)}"

    def collections(self, names: Iterable[str]) -> list[str]:
        """All keys of these collections but the indexes themselves, whose names are data."""
        return [f"{self.records}-{kind}:{name}" for name in names for kind in _RECORD_KINDS]

    def counts(self, collection: str) -> str:
        """The collection's counters."""
        return f"{self.records}-counts:{collection}"

    def wake(self, topic: str) -> str:
        """The channel on which those who wait for the topic are woken."""
        return f"{self.prefix}-wake:{topic}"

    def done(self, task_id: str) -> str:
        """The channel on which those who watch a task are told.

        Ids made by one process end alike (`envelope.new_id`), so a publisher listens to one channel
        for all that it has sent, and one message tells it of a whole batch.
        """
        return f"{self.prefix}-done:{task_id[-12:]}"
