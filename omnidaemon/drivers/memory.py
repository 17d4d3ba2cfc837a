"""The memory backend's board: what its transport and store share, safe from any thread.

Laws of use: every method that changes or reads the board is called with `lock` held and never
waits; `bell` is rung after the lock is let go.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import count
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakValueDictionary

from anyio import current_time
from anyio.lowlevel import current_token

from omnidaemon.drivers.bell import Bell
from omnidaemon.drivers.memory_groups import Group
from omnidaemon.drivers.memory_records import Shelf
from omnidaemon.drivers.memory_topics import Topic
from omnidaemon.messages import Consumer, Count, Message, Write

_boards: WeakValueDictionary[str, Board] = WeakValueDictionary()
_boards_lock = threading.Lock()


class Board:
    """Topics, records and counters under one lock, and the bell for those who wait.

    Attributes:
        backend: "memory://" and the name.
        lock: Held by whoever touches the rest, for as short as a batch takes.
        bell: Rung with the topic's name, (topic, group), or ("notice", task id).
        topics: By name.
        numbers: For tokens, and wherever something needs to be told apart.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.lock = threading.Lock()
        self.bell = Bell()
        self.topics: dict[str, Topic] = {}
        self.numbers = count(1)
        self._shelves: defaultdict[str, Shelf] = defaultdict(Shelf)
        self._shifts: WeakKeyDictionary[object, float] = WeakKeyDictionary()
        self._latest = -math.inf
        self._read_at = 0.0

    def now(self, clock: Callable[[], float] | None) -> float:
        """The board's time in seconds, which never goes back.

        By default it goes as the running event loop's does, so that a virtual loop moves leases
        and retries. Loops begin anywhere (trio draws a random number), so each is shifted to
        where the board was when it came, plus what has passed outside since.
        """
        if clock is not None:
            self._latest = max(self._latest, clock())
            return self._latest
        time_of_loop = current_time()
        outside = time.monotonic()
        loop = current_token().native_token
        shift = self._shifts.get(loop)
        if shift is None:
            shift = 0.0
            if self._latest != -math.inf:
                shift = self._latest + outside - self._read_at - time_of_loop
            self._shifts[loop] = shift
        self._latest = max(self._latest, time_of_loop + shift)
        self._read_at = outside
        return self._latest

    def topic(self, name: str) -> Topic:
        """The topic, made if it is not there."""
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = Topic(name)
        return topic

    def group(self, consumer: Consumer) -> Group | None:
        """The consumer's group, unless it was removed.

        Nobody but `subscribe` makes a group, so that a removed one stays removed.
        """
        topic = self.topics.get(consumer.topic)
        return None if topic is None else topic.groups.get(consumer.group)

    def shelf(self, collection: str, now: float) -> Shelf:
        """The collection as of now."""
        shelf = self._shelves[collection]
        shelf.sweep(now)
        return shelf

    def take_down(self, collection: str, now: float) -> Shelf:
        """Removes the collection; returns what it was."""
        shelf = self.shelf(collection, now)
        del self._shelves[collection]
        return shelf

    def publish(self, messages: Iterable[Message], now: float) -> set[str]:
        """Stores checked messages; returns the topics to ring."""
        unix = time.time()
        topics = set()
        for message in messages:
            self.topic(message.topic).add(message, now, unix, next(self.numbers))
            topics.add(message.topic)
        return topics

    def apply(self, changes: Iterable[Write | Count], now: float) -> None:
        """Applies checked changes."""
        unix = time.time()
        shelf = collection = None
        for change in changes:
            if shelf is None or change.collection != collection:  # runs of one are common
                collection = change.collection
                shelf = self.shelf(collection, now)
            if isinstance(change, Count):
                shelf.add(change)
            elif change.value is None:
                shelf.drop(change.key)
            else:
                shelf.put(change, change.value, now=now, unix=unix)


def open_board(url: str) -> Board:
    """The board that `memory://name` names; without a name a new one, that nobody else has.

    It lives as long as something refers to it. A new one's `backend` is a URL that leads to it.
    """
    name = url.partition(":")[2].strip("/") or uuid4().hex
    backend = f"memory://{name}"
    with _boards_lock:
        board = _boards.get(backend)
        if board is None:
            board = _boards[backend] = Board(backend)
        return board


def check_messages(messages: Iterable[Message]) -> None:
    """Raises TypeError for what could fail half-way through a batch."""
    for message in messages:
        if type(message.body) is not bytes:
            raise TypeError(f"a body is bytes, not {type(message.body).__name__}")


def check_changes(changes: Iterable[Write | Count]) -> None:
    """Raises TypeError for what could fail half-way through a batch."""
    for change in changes:
        if isinstance(change, Count):
            change.amount + 0.0
        elif not isinstance(change, Write):
            raise TypeError(f"a change is a Write or a Count, not {type(change).__name__}")
        elif change.value is not None and type(change.value) is not bytes:
            raise TypeError(f"a record's value is bytes, not {type(change.value).__name__}")
