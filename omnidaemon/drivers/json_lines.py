"""The lines of the JSON store's file: a change of a record, of counters or of a collection each.

A value that is JSON stands in its line as JSON, byte for byte as it was given; other text stands
as a string, and all else in base64. A line can be copied to another file as it is.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from omnidaemon.messages import Count, Write


class Line(Struct, frozen=True, omit_defaults=True):
    """One line. What it changes is said by which of its fields are there.

    Attributes:
        collection: Which collection it changes.
        key: Which record or counters; None for the whole collection.
        label: What the record is listed by.
        written: Unix time of the write, in seconds.
        expires: Unix time from which the record is gone; None keeps it.
        value: The record's value, if that is JSON.
        text: The record's value, if that is other text.
        base64: The record's value, if it is neither.
        add: What is added to the key's counters, by field.
        gone: True if the record, or all of the collection, is removed.
        lines: In a line of its own: how many lines after it are one whole with each other.
        number: Which write it was, if `written` does not say so.
    """

    collection: str = ""
    key: str | None = None
    label: str | None = None
    written: float = 0.0
    expires: float | None = None
    value: Raw | UnsetType = UNSET
    text: str | None = None
    base64: str | None = None
    add: dict[str, float] | None = None
    gone: bool = False
    lines: int = 0
    number: int | None = None

    def has_meaning(self) -> bool:
        """Whether it says exactly one thing."""
        values = (self.value is not UNSET) + (self.text is not None) + (self.base64 is not None)
        says = values + (self.add is not None) + self.gone + (self.lines > 0)
        return says == 1 and (self.key is not None or self.gone or self.lines > 0)


decode = msgspec.json.Decoder(Line).decode
_encode = msgspec.json.Encoder().encode
_any_json = msgspec.json.Decoder().decode
_BLANK = b" \t\r\n"


def encode(line: Line) -> bytes:
    """The line with its end."""
    return _encode(line) + b"\n"


def numbered(data: bytes, number: int) -> bytes:
    """The same line of a record, saying which write it was."""
    return encode(msgspec.structs.replace(decode(data), number=number))


def of_record(write: Write, now: float) -> Line:
    """The line that writes or removes a record."""
    value = write.value
    if value is None:
        return Line(write.collection, write.key, written=now, gone=True)
    if type(value) is not bytes:
        raise TypeError(f"a record's value is bytes, not {type(value).__name__}")
    expires = None if write.ttl is None else now + write.ttl
    place = (write.collection, write.key, write.label, now, expires)
    if _is_one_line_of_json(value):
        return Line(*place, value=Raw(value))
    try:
        return Line(*place, text=value.decode())
    except UnicodeDecodeError:
        return Line(*place, base64=base64.b64encode(value).decode())


def _is_one_line_of_json(value: bytes) -> bool:
    if not value or value[0] in _BLANK or value[-1] in _BLANK or b"\n" in value or b"\r" in value:
        return False  # in a line it would not come back byte for byte
    try:
        value.decode()  # msgspec does not look at the bytes of every string
        _any_json(value)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return False
    return True


def value_of(line: Line) -> bytes | None:
    """The value of the record that the line writes; None if it writes none."""
    if line.value is not UNSET:
        return bytes(line.value)
    if line.text is not None:
        return line.text.encode()
    return None if line.base64 is None else base64.b64decode(line.base64, validate=True)


def of_changes(changes: Iterable[Write | Count], now: float) -> list[bytes]:
    """The changes as lines that do the same, to be applied as one; counters are added up first.

    Raises:
        TypeError: A change is of no known kind, or holds what is no value.
        ValueError: A counter's amount is no finite number.
    """
    lines: list[Line] = []
    sums: dict[tuple[str, str], dict[str, float]] = {}
    for change in changes:
        if isinstance(change, Write):
            lines.append(of_record(change, now))
        elif isinstance(change, Count):
            fields = sums.setdefault((change.collection, change.key), {})
            fields[change.field] = fields.get(change.field, 0.0) + change.amount
        else:
            raise TypeError(f"a change is a Write or a Count, not {type(change).__name__}")
    for (collection, key), fields in sums.items():
        for field, amount in fields.items():
            if not math.isfinite(amount):
                raise ValueError(f"the counter {field!r} of {key!r} cannot be raised by {amount}")
        lines.append(Line(collection, key, add=fields))
    return whole([encode(line) for line in lines])


def whole(lines: list[bytes]) -> list[bytes]:
    """The lines, marked as applied together or not at all."""
    return lines if len(lines) < 2 else [encode(Line(lines=len(lines))), *lines]
