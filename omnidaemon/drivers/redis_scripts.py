"""The scripts that Redis runs: each one atomic step, written in Lua in `redis_lua/`.

A script is the parts that it needs, which define local functions, and its own text last. Its first
argument is one MessagePack map: Redis unpacks it in C, which costs less than flat arguments. Bytes
stand behind it, and the map has their places: Redis knows no binary type of MessagePack.
"""

from __future__ import annotations

from hashlib import sha1
from pathlib import Path

_FOLDER = Path(__file__).with_name("redis_lua")


class Script:
    """One script.

    Attributes:
        text: What EVAL takes.
        digest: What EVALSHA takes.
    """

    def __init__(self, name: str, *parts: str) -> None:
        self.name = name
        files = [_FOLDER / f"{part}.lua" for part in (*parts, name)]
        self.text = "\n".join(file.read_text(encoding="utf-8") for file in files).encode()
        self.digest = sha1(self.text, usedforsecurity=False).hexdigest().encode()


_TOPIC = ("clock", "ids", "wake", "topic")
_GROUPS = ("clock", "ids", "wake", "groups")

JOIN = Script("join", *_GROUPS)
LEAVE = Script("leave", *_GROUPS, "orphans")
CLAIM = Script("claim", *_TOPIC, "groups", "orphans")
RENEW = Script("renew", *_GROUPS, "held")
SETTLE = Script("settle", *_TOPIC, "groups", "held", "changes", "late")
PUBLISH = Script("publish", *_TOPIC, "groups", "late")
PUBLISH_ONE = Script("publish_one", "wake", "topic", "late")
PUBLISH_ONCE = Script("publish_once", *_TOPIC, "once")
TRIM = Script("trim", "ids", "groups")
INSPECT_TOPIC = Script("inspect_topic", *_TOPIC, "groups")
INSPECT_GROUP = Script("inspect_group", *_GROUPS)
FIND = Script("find", "ids")
LATER = Script("later")
PLACE = Script("place", *_GROUPS)
LETTERS_OF = Script("letters_of")
REPLAY = Script("replay", *_GROUPS)
PAUSE = Script("pause", "wake")
REMOVE_GROUP = Script("remove_group", *_GROUPS)
REMOVE_TOPIC = Script("remove_topic")

WRITE = Script("write", "clock", "changes")
WRITE_ONCE = Script("write_once", "clock", "changes", "once")
READ = Script("read", "clock", "changes")
BROWSE = Script("browse", "clock", "changes")
REMOVE = Script("remove", "clock", "changes")
CLEAR = Script("clear", "clock", "changes")
