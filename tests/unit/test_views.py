"""What people are shown of stored events, whatever is in them."""

from __future__ import annotations

import msgspec
import pytest

from omnidaemon.messages import Event
from omnidaemon.views import read_event

UNREADABLE = [
    b'{"topic":"t","id":"a","content":"\xff"}',
    msgspec.msgpack.encode({"topic": "t", "id": "a", "content": {None: 2}}),
    msgspec.msgpack.encode({"topic": "t", "id": "a", "content": msgspec.msgpack.Ext(1, b"x")}),
]


@pytest.mark.parametrize("body", UNREADABLE)
def test_an_event_that_json_cannot_show_is_shown_as_it_is_stored(body: bytes) -> None:
    shown = read_event(Event("1-0", "a", body, 0.0))
    assert shown.event is None
    assert shown.body
    assert msgspec.json.encode(shown.public())
