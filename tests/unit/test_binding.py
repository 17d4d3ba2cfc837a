"""How parameters are bound, and what is refused at registration."""

import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Annotated, Any, TypedDict

import msgspec
import pytest
from anyio import CapacityLimiter

from omnidaemon.binding import Binding, Depends
from omnidaemon.context import Context
from omnidaemon.envelope import Envelope, decode, encode
from omnidaemon.errors import ConfigurationError, Reject

pytestmark = pytest.mark.anyio


class Order(msgspec.Struct):
    id: str
    total: float


@dataclass
class Line:
    id: str
    total: float


class Row(TypedDict):
    id: str
    total: float


async def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is published here")


async def run(func, content, wire="json"):
    envelope = decode(encode(Envelope("orders", content, tenant_id="acme"), wire))
    ctx = Context(envelope, agent="agent", publish=never, wire=wire)
    return await Binding(func).runner(CapacityLimiter(2))(ctx)


CONTENT = {"id": "o1", "total": 2.5}


@pytest.mark.parametrize("wire", ["json", "msgpack"])
@pytest.mark.parametrize("kind", [Order, Line, Row, dict, dict[str, Any], Any])
async def test_the_content_is_converted_to_its_annotation(kind, wire):
    async def handler(order) -> Any:
        return order

    handler.__annotations__["order"] = kind
    expected = kind(**CONTENT) if kind in (Order, Line) else CONTENT
    assert await run(handler, CONTENT, wire) == expected


@pytest.mark.parametrize("wire", ["json", "msgpack"])
@pytest.mark.parametrize("kind", [dict[str, object], object | None])
async def test_object_within_an_annotation_takes_any_value_without_pydantic(
    kind, wire, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pydantic", None)  # an import of it fails

    async def handler(order) -> Any:
        return order

    handler.__annotations__["order"] = kind
    content = {**CONTENT, "lines": [{"n": 1}, None]}
    assert await run(handler, content, wire) == content


@pytest.mark.parametrize("wire", ["json", "msgpack"])
async def test_pydantic_models_are_converted_and_validated(wire):
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):
        id: str
        total: float

    async def handler(order) -> Any:
        return order

    handler.__annotations__["order"] = Model
    assert await run(handler, CONTENT, wire) == Model(**CONTENT)
    model = Model(**CONTENT)
    for kind, content, expected in [
        (list[Model], [CONTENT], [model]),
        (list[Model] | None, [CONTENT], [model]),
        (dict[str, list[Model]], {"k": [CONTENT]}, {"k": [model]}),
    ]:
        handler.__annotations__["order"] = kind
        assert await run(handler, content, wire) == expected
    with pytest.raises(Reject, match="does not fit"):
        await run(handler, {"k": [{"id": 1}]}, wire)


@pytest.mark.parametrize("wire", ["json", "msgpack"])
@pytest.mark.parametrize("content", [{"id": 1, "total": 1}, {"id": "a"}, None, [], "x"])
async def test_content_that_does_not_fit_is_rejected_with_the_reason(content, wire):
    async def handler(order: Order) -> None: ...

    with pytest.raises(Reject, match="does not fit Order"):
        await run(handler, content, wire)


class Colour(Enum):
    RED = "red"


class Shirt(msgspec.Struct, tag="shirt"):
    colour: Colour = Colour.RED


class Hat(msgspec.Struct, tag="hat"):
    colour: Colour = Colour.RED


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        (Order, {"id": 5, "total": "s3cret"}, r"Expected `str`, got `int` - at `\$\.id`$"),
        (Shirt, {"type": "shirt", "colour": "s3cret - at `$`"}, r"enum value - at `\$\.colour`$"),
        (Shirt | Hat, {"type": "s3cret"}, r"Invalid value - at `\$\.type`$"),
        (Colour, "s3cret", r"Invalid enum value$"),
    ],
)
async def test_the_reason_says_where_and_not_which_value(kind, content, said):
    async def handler(content) -> None: ...

    handler.__annotations__["content"] = kind
    with pytest.raises(Reject, match=said) as caught:
        await run(handler, content)
    assert "s3cret" not in str(caught.value)


async def test_the_reason_of_a_pydantic_model_says_where_and_not_which_value():
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):
        id: int
        colour: Colour

    async def handler(content) -> None: ...

    handler.__annotations__["content"] = list[Model]
    with pytest.raises(Reject) as caught:
        await run(handler, [{"id": "s3cret", "colour": "s3cret"}])
    assert "s3cret" not in str(caught.value)
    assert "valid integer" in str(caught.value)
    assert "at `$.0.colour`" in str(caught.value)


async def test_context_and_envelope_come_by_annotation_in_any_order():
    async def handler(ctx: Context, content: dict, envelope: Envelope):
        return ctx.id == envelope.id, content, envelope.content, ctx.tenant_id

    assert await run(handler, {"a": 1}) == (True, {"a": 1}, {"a": 1}, "acme")


async def test_a_handler_may_take_nothing_or_keywords_or_what_has_a_default():
    async def nothing():
        return "nothing"

    async def keywords(*, content, ctx: Context):
        return content, ctx.agent

    async def defaults(content, extra=3, *more, flag=True, **rest):
        return content, extra, more, flag, rest

    assert await run(nothing, 1) == "nothing"
    assert await run(keywords, 1) == (1, "agent")
    assert await run(defaults, 1) == (1, 3, (), True, {})


async def test_functions_partials_objects_and_lambdas_are_handlers():
    def plain(content):
        return ["sync", content]

    async def two(prefix, content):
        return [prefix, content]

    class Callable:
        async def __call__(self, content: dict):
            return ["object", content]

        def method(self, content: int):
            return ["method", content]

    assert await run(plain, 1) == ["sync", 1]
    assert await run(partial(two, "partial"), 1) == ["partial", 1]
    assert await run(Callable(), {}) == ["object", {}]
    assert await run(Callable().method, 4) == ["method", 4]
    assert await run(lambda content: content, 5) == 5


async def test_a_sync_handler_runs_in_another_thread():
    import threading

    def handler(content):
        return threading.get_ident()

    assert await run(handler, 1) != threading.get_ident()


async def test_dependencies_are_given_once_and_closed_after_the_run():
    calls = []

    def settings() -> str:
        calls.append("settings")
        return "settings"

    async def session(ctx: Context, s: Annotated[str, Depends(settings)]) -> AsyncIterator[str]:
        calls.append("open")
        yield f"session of {ctx.tenant_id} with {s}"
        calls.append("close")

    def cursor(s: Annotated[str, Depends(settings)]) -> Iterator[str]:
        calls.append("cursor")
        yield "cursor"
        calls.append("cursor closed")

    async def handler(
        content: dict,
        db: Annotated[str, Depends(session)],
        *,
        s: Annotated[str, Depends(settings)],
        c: Annotated[str, Depends(cursor)],
    ):
        calls.append("run")
        return db, s, c

    result = await run(handler, {})
    assert result == ("session of acme with settings", "settings", "cursor")
    assert calls == ["settings", "open", "cursor", "run", "cursor closed", "close"]


async def test_a_dependency_sees_the_error_and_cannot_swallow_it():
    seen = []

    async def honest() -> AsyncIterator[int]:
        try:
            yield 1
        except ValueError as error:
            seen.append(error)
            raise

    def thief() -> Iterator[int]:
        try:
            yield 1
        except ValueError as error:
            seen.append(error)

    async def first(x: Annotated[int, Depends(honest)]):
        raise ValueError("first")

    async def second(x: Annotated[int, Depends(thief)]):
        raise ValueError("second")

    with pytest.raises(ValueError, match="first"):
        await run(first, 1)
    with pytest.raises(RuntimeError, match="swallowed"):
        await run(second, 1)
    assert [str(error) for error in seen] == ["first", "second"]


async def test_what_cannot_be_bound_is_refused_at_registration():
    async def two(a: dict, b: dict): ...

    def generator(content):
        yield 1

    async def stream(content):
        yield 1

    def needs(x: int): ...

    async def dependent(content, y: Annotated[int, Depends(needs)]): ...

    def circle(x: "Annotated[int, Depends(circle)]"): ...

    async def odd(content: Binding): ...

    circle.__annotations__["x"] = Annotated[int, Depends(circle)]
    for handler, words in [
        (two, "'b'.*cannot be bound"),
        (generator, "generator"),
        (stream, "generator"),
        (dependent, "'x'.*cannot be bound"),
        (circle, "depends on itself"),
        (odd, "cannot be read"),
    ]:
        with pytest.raises(ConfigurationError, match=words):
            Binding(handler)


async def test_an_annotation_that_names_nothing_is_a_clear_error():
    async def handler(content: "Missing"): ...  # noqa: F821

    with pytest.raises(ConfigurationError, match="Missing"):
        Binding(handler)
