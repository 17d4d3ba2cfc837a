"""The names of what OmniDaemon keeps in Redis; `redis-cli XLEN omni-stream:greet.user` works."""

from __future__ import annotations


class Keys:
    """Names of keys and channels under one prefix. Names of topics and groups have no slash."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.registry = f"{prefix}-topics"

    def topic(self, topic: str) -> list[str]:
        """Its events, what is known of it and its groups, and its delayed messages."""
        return [f"{self.prefix}-{kind}:{topic}" for kind in ("stream", "topic", "delayed")]

    def group(self, topic: str, group: str) -> list[str]:
        """Members, what is due when, replays, attempts beyond the first, dead letters."""
        kinds = ("members", "due", "retry", "attempts", "dlq")
        return [f"{self.prefix}-{kind}:{topic}/{group}" for kind in kinds]

    def receipts(self, who: str) -> str:
        """What a publisher or a consumer has had applied lately."""
        return f"{self.prefix}-receipts:{who}"

    def wake(self, topic: str) -> str:
        """The channel on which those who wait for the topic are woken."""
        return f"{self.prefix}-wake:{topic}"

    def done(self, task_id: str) -> str:
        """The channel on which those who watch a task are told.

        Ids made by one process end alike (`envelope.new_id`), so a publisher listens to one channel
        for all that it has sent, and one message tells it of a whole batch.
        """
        return f"{self.prefix}-done:{task_id[-12:]}"
