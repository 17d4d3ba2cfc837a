"""The envelope: one event as it travels, and its encoding to bytes and back."""

from __future__ import annotations

import math
import os
import re
import time
from functools import lru_cache
from itertools import count
from typing import Any, Literal, cast

import msgspec
from msgspec import Raw, Struct, field

from omnidaemon.errors import DecodeError, OmniDaemonError, PayloadError

VERSION = 1
MAX_DEPTH = 200
MAX_HOPS = 100
INTERNAL = "omni."
"""What the names of our own topics begin with."""
Wire = Literal["json", "msgpack"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")
# 19 digits in a row, looked for as zeros: a regular expression takes ten times as long.
_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_ZEROS = b"0" * 19
_counter = count(int.from_bytes(os.urandom(3), "big"))
_process = os.urandom(6).hex()
_moment = (0, "")


def _after_fork() -> None:
    global _process
    _process = os.urandom(6).hex()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)


def new_id() -> str:
    """A new event id: a UUID of version 7 (RFC 9562), so ids sort by their time.

    One random part per process and a counter replace randomness per id, which would cost half of
    the publishing rate; a repeat needs 2**26 ids of one process within a millisecond.
    """
    global _moment
    millis = time.time_ns() // 1_000_000
    moment = _moment  # one read: another thread may replace it meanwhile
    if moment[0] != millis:
        moment = _moment = millis, f"{millis >> 16:08x}-{millis & 0xFFFF:04x}-7"
    n = next(_counter)
    return f"{moment[1]}{n >> 14 & 0xFFF:03x}-{0x8000 | n & 0x3FFF:04x}-{_process}"


class Envelope(Struct, frozen=True, omit_defaults=True):
    """One event with all that travels along.

    Attributes:
        topic: Where it is published.
        content: What the agents get: any value that msgspec can encode, or a pydantic model. In
            an envelope that `decode` returned these are the bytes as they came (`msgspec.Raw`).
        id: The event's id, also called task id.
        created_at: Unix time, in seconds.
        tenant_id: Whose event it is.
        correlation_id: What it belongs to (a conversation, a request).
        causation_id: The id of the event that caused it.
        source: Who published it.
        reply_to: The topic to which a result that is not None is published.
        webhook: The URL to which each agent's outcome is posted.
        headers: Text by name; W3C trace context travels here.
        hops: How many replies lead to it.
        v: The version of this layout; unknown fields are ignored, unknown versions refused.
    """

    topic: str
    content: Any = None
    id: str = field(default_factory=new_id)
    created_at: float = field(default_factory=time.time)
    tenant_id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    source: str | None = None
    reply_to: str | None = None
    webhook: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    hops: int = 0
    v: int = VERSION


class _Received(Envelope, frozen=True, omit_defaults=True, kw_only=True):
    """The same with the content left as it came, so that it is decoded once, to its own type."""

    content: Raw = Raw(b"")
    id: str  # required here: an event without one could not be found again


@lru_cache(maxsize=1024)
def _stripped(name: str) -> str | None:
    text = name.strip()
    return text if _NAME.fullmatch(text) else None


def check_name(
    name: object, what: str = "topic", error: type[OmniDaemonError] = PayloadError
) -> str:
    """Returns the name of a topic or agent, stripped; the error says what a name may be."""
    text = _stripped(name) if isinstance(name, str) else None
    if text is None:
        raise error(
            f"{what} name {name!r} is not usable: 1 to 200 characters of A-Z a-z 0-9 . _ : - "
            "with a letter or digit first"
        )
    return text


def check_id(name: object) -> None:
    """The same for an event's id, which is seen once: nothing about it is remembered."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PayloadError(f"event id {name!r} is not usable: 1 to 200 of A-Z a-z 0-9 . _ : -")


def check_topic(name: object, error: type[OmniDaemonError] = PayloadError) -> str:
    """The same for a topic that a user names: the topic `topic` and `omni.…` are reserved."""
    topic = check_name(name, "topic", error)
    if topic == "topic" or topic.startswith(INTERNAL):
        raise error(f"topic {topic!r} is reserved: choose another name")
    return topic


def _hook(value: object) -> object:
    """Encodes what msgspec does not know: pydantic models, without importing pydantic."""
    dump = getattr(type(value), "model_dump", None)
    if dump is not None:
        return dump(value, mode="json")
    raise NotImplementedError


_encoders: dict[str, Any] = {
    "json": msgspec.json.Encoder(enc_hook=_hook),
    "msgpack": msgspec.msgpack.Encoder(enc_hook=_hook),
}


def dump(value: object, wire: Wire = "json", *, what: str = "content") -> bytes:
    """Encodes a value, or raises PayloadError that says why it cannot travel.

    msgspec writes NaN and infinities as null in JSON; they are refused here, because they would
    come out as another value than went in.
    """
    try:
        if isinstance(value, Raw):
            value = load(value)  # bytes are believed to be JSON only when they have been read
        encoded = cast(bytes, _encoders[wire].encode(value))
        if _suspicious(encoded, wire):
            _check_values(msgspec.to_builtins(value, enc_hook=_hook, str_keys=False), what)
    except (TypeError, NotImplementedError) as error:
        raise PayloadError(
            f"the {what} of type {type(value).__name__} cannot travel: "
            f"{str(error) or 'unknown type'}; "
            "use dicts, lists, text, numbers, msgspec Structs, dataclasses or pydantic models"
        ) from error
    except RecursionError as error:
        raise PayloadError(f"the {what} is nested too deeply (over {MAX_DEPTH} levels)") from error
    except UnicodeEncodeError as error:
        raise PayloadError(f"the {what} holds text that is not Unicode: {error.reason}") from error
    except (OverflowError, ValueError) as error:
        raise PayloadError(f"the {what} cannot travel: {error}") from error
    return encoded


def _suspicious(encoded: bytes, wire: Wire) -> bool:
    """Whether a closer look is needed: a cheap test that spares most values the walk.

    In JSON, NaN became null, and 19 digits may be more than 64 bits, which other readers round.
    """
    if wire == "msgpack":
        return len(encoded) > MAX_DEPTH or b"\xcb" in encoded
    if b"null" in encoded or _ZEROS in encoded.translate(_TO_ZEROS):
        return True
    return len(encoded) > MAX_DEPTH and encoded.count(b"[") + encoded.count(b"{") > MAX_DEPTH


def _check_values(value: object, what: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        deeper: list[object] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item.values())
            elif isinstance(item, list | tuple | set | frozenset):
                deeper.extend(item)
            elif isinstance(item, float) and not math.isfinite(item):
                raise PayloadError(
                    f"the {what} holds {item}, which JSON has no form for: use null or text"
                )
            elif isinstance(item, int) and not -(2**63) <= item < 2**64:
                raise PayloadError(f"the {what} holds an integer over 64 bits: send it as text")
        if not deeper:
            return
        level = deeper
    raise PayloadError(f"the {what} is nested too deeply (over {MAX_DEPTH} levels)")


def encode(envelope: Envelope, wire: Wire = "json") -> bytes:
    """The envelope as bytes; PayloadError if its content cannot travel."""
    content = envelope.content
    if not isinstance(content, Raw):
        if wire == "json" and (body := _at_once(envelope)) is not None:
            return body
        envelope = msgspec.structs.replace(envelope, content=Raw(dump(content, wire)))
    try:
        return cast(bytes, _encoders[wire].encode(envelope))
    except (UnicodeEncodeError, TypeError) as error:
        raise PayloadError(f"event {envelope.id!r} has a field that cannot travel: {error}") from (
            error
        )


def _at_once(envelope: Envelope) -> bytes | None:
    """The envelope as JSON if nothing in it wants a closer look, as in most; else None."""
    try:
        body = cast(bytes, _encoders["json"].encode(envelope))
    except (TypeError, NotImplementedError, RecursionError, OverflowError, ValueError):
        return None  # `dump` meets it again, and says what it means
    return None if _suspicious(body, "json") else body


_from_json = msgspec.json.Decoder(_Received)
_from_msgpack = msgspec.msgpack.Decoder(_Received)


def wire_of(body: bytes) -> Wire:
    """How these bytes of an envelope are encoded: JSON objects start with a brace."""
    return "json" if body[:1] in b"{ \t\r\n" else "msgpack"


def decode(body: bytes) -> Envelope:
    """Bytes as an envelope whose content is `msgspec.Raw`, in the encoding of the envelope.

    Raises:
        DecodeError: These bytes are not an envelope, or one of a version unknown here.
    """
    json = wire_of(body) == "json"
    try:
        envelope = (_from_json if json else _from_msgpack).decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not an envelope: {error}; it starts with {body[:40]!r}") from error
    if envelope.v != VERSION:
        raise DecodeError(
            f"an envelope of version {envelope.v}, and this worker knows {VERSION}: upgrade it, "
            "then replay the dead letter"
        )
    return envelope


_decoders: dict[str, Any] = {"json": msgspec.json.Decoder(), "msgpack": msgspec.msgpack.Decoder()}


def load(raw: Raw | bytes, wire: Wire = "json") -> Any:
    """Encoded content as plain Python values; None for no content at all."""
    return _decoders[wire].decode(raw) if len(raw) else None
