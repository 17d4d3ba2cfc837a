"""The envelope: what goes in comes out, and what cannot travel is refused at the edge."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnidaemon.envelope import (
    MAX_DEPTH,
    Envelope,
    check_id,
    check_name,
    check_topic,
    decode,
    dump,
    encode,
    load,
    new_id,
    wire_of,
)
from omnidaemon.errors import DecodeError, PayloadError

WIRES = ["json", "msgpack"]
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc", max_size=3), inner),
    max_leaves=20,
)
text = st.none() | st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("wire", WIRES)
@given(content=plain, tenant=text, source=text)
def test_what_is_encoded_comes_back(wire, content, tenant, source):
    sent = Envelope("a.topic", content, tenant_id=tenant, source=source, headers={"a": "b"})
    body = encode(sent, wire)
    assert wire_of(body) == wire
    received = decode(body)
    for name in Envelope.__struct_fields__:
        if name != "content":
            assert getattr(received, name) == getattr(sent, name)
    assert load(received.content, wire) == content


@given(body=st.binary(max_size=60))
def test_any_bytes_are_an_envelope_or_a_decode_error(body):
    try:
        decode(body)
    except DecodeError:
        return


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"topic":"x"}',
        b'{"topic":"x","tenant_id":"id"}',
        b'{"id":"x"}',
        b'{"topic":"x","id":3}',
        b'{"topic":"x","id":"a","headers":[]}',
        b"\x00\xff",
        b'{"topic":"\xff","id":"a"}',
        b"[" * 100_000,
        b'{"topic":"x","id":"a","content":' + b"[" * 100_000,
    ],
)
def test_bytes_that_are_no_envelope_say_so(body):
    with pytest.raises(DecodeError, match="not an envelope"):
        decode(body)


def test_an_unknown_version_is_refused_and_unknown_fields_are_not():
    with pytest.raises(DecodeError, match=r"version 2.*knows 1.*replay"):
        decode(b'{"topic":"x","id":"a","v":2}')
    assert decode(b'{"topic":"x","id":"a","v":1,"news":[1,2]}').id == "a"


def test_structs_dataclasses_times_and_pydantic_models_travel():
    pydantic = pytest.importorskip("pydantic")

    class Order(msgspec.Struct):
        total: float

    @dataclass
    class Line:
        at: datetime

    class Model(pydantic.BaseModel):
        name: str

    content = [Order(1.5), Line(datetime(2026, 1, 2, tzinfo=UTC)), Model(name="Ada")]
    expected = [{"total": 1.5}, {"at": "2026-01-02T00:00:00Z"}, {"name": "Ada"}]
    assert load(dump(content)) == expected


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "nan"),
        ({"a": [1, {"b": float("-inf")}]}, "-inf"),
        ("\ud800", "not Unicode"),
        ({"a\udfff": 1}, "not Unicode"),
        (2**70, "64"),
        ([-(2**70)], "64"),
        (deep(MAX_DEPTH + 1), "nested too deeply"),
        (deep(100_000), "nested too deeply"),
        (object(), "object"),
        ({"f": len}, "cannot travel"),
    ],
)
def test_values_that_cannot_travel_are_refused(wire, value, words):
    with pytest.raises(PayloadError, match=words):
        dump(value, wire)


def test_a_value_that_contains_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(PayloadError, match="nested too deeply"):
        dump(value)


def test_null_and_long_digits_as_such_are_fine():
    value = {"a": None, "b": "12345678901234567890123", "c": 2**64 - 1, "d": deep(MAX_DEPTH - 1)}
    assert load(dump(value)) == value


@pytest.mark.parametrize("name", ["a", "A.b_c:d-e", "0", " spaced ", "x" * 200])
def test_usable_names_come_back_stripped(name):
    assert check_name(name) == name.strip()


@pytest.mark.parametrize(
    "name", ["", " ", ".a", "-a", "a b", "a/b", "a{b}", "ä", "a\n", "x" * 201, None, 3, b"a"]
)
def test_unusable_names_are_refused(name):
    if name == "a\n":
        assert check_name(name) == "a"  # stripped
        return
    with pytest.raises(PayloadError, match="not usable"):
        check_name(name)


@pytest.mark.parametrize("topic", ["topic", "omni.webhooks", " omni.x"])
def test_reserved_topics_are_refused(topic):
    with pytest.raises(PayloadError, match="reserved"):
        check_topic(topic)


def test_ids_are_unique_sorted_by_time_and_uuids_of_version_7():
    import uuid

    ids = [new_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    parsed = uuid.UUID(ids[0])
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert [i[:13] for i in ids] == sorted(i[:13] for i in ids)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_makes_other_ids():
    import multiprocessing

    context = multiprocessing.get_context("fork")
    with context.Pool(1) as pool:
        child = pool.apply(new_id)
    assert child[-12:] != new_id()[-12:]


@pytest.mark.parametrize("name", ["a\n", " a", "a ", "", "a b", 7])
def test_an_id_with_white_space_or_none_is_refused(name):
    with pytest.raises(PayloadError, match="event id"):
        check_id(name)
