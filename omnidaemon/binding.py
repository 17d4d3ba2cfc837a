"""How a handler's parameters are bound: all that can be is worked out when it is registered.

A parameter annotated `Context` or `Envelope` gets that, one annotated `Annotated[T, Depends(f)]`
what `f` gives, and the first other one the content, converted to its annotation and validated.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import Any

import anyio.to_thread
import msgspec
from anyio import CapacityLimiter
from msgspec import Struct

from omnidaemon.context import Context
from omnidaemon.envelope import Envelope
from omnidaemon.errors import ConfigurationError, Reject

_QUOTED_VALUE = re.compile(r"(Invalid (?:enum )?value) .*?((?: - at `\$[^`]*`)?)$", re.DOTALL)

Handler = Callable[..., Any]
Run = Callable[[Context], Awaitable[Any]]
Get = Callable[[Context], Any]


class Depends(Struct, frozen=True):
    """Marks a parameter as given by a function: `db: Annotated[Session, Depends(session)]`.

    The function may itself take a Context, the Envelope and other dependencies; it runs once per
    run of the agent. It may be async or not (then it runs in a thread), and a generator, whose
    rest runs when the agent has ended.
    """

    call: Callable[..., Any]


class _Threads:
    """How many threads run handlers now; a test's virtual clock does not jump while any does."""

    running = 0


threads = _Threads()


class _Plan(Struct, frozen=True):
    """The arguments of one function: by position, then by name."""

    positional: tuple[Get | Depends, ...]
    named: tuple[tuple[str, Get | Depends], ...]
    plans: dict[Depends, _Plan]

    @property
    def simple(self) -> bool:
        """True if every argument comes straight from the context."""
        return not self.plans


class Binding:
    """A handler with its parameters worked out.

    Raises:
        ConfigurationError: A parameter cannot be bound; the message names it.
    """

    def __init__(self, func: Handler) -> None:
        self.func = func
        self.is_async = _is_async(func)
        if inspect.isasyncgenfunction(_function(func)) or inspect.isgeneratorfunction(
            _function(func)
        ):
            raise ConfigurationError(
                f"{_name(func)} is a generator: return one value (a list, say) instead of yielding"
            )
        self._plan = _plan(func, may_take_content=True, above=())

    def runner(self, limiter: CapacityLimiter) -> Run:
        """Returns what runs the handler; threads for what is not async come from `limiter`."""
        plan, call = self._plan, _caller(self.func, self.is_async, limiter)
        if not plan.simple:
            return functools.partial(_run_with_dependencies, plan, call, limiter)
        gets = typing.cast(tuple[Get, ...], plan.positional)
        if plan.named:
            named = typing.cast(tuple[tuple[str, Get], ...], plan.named)
            return lambda ctx: call(
                *[get(ctx) for get in gets], **{name: get(ctx) for name, get in named}
            )
        if len(gets) == 1:
            only = gets[0]
            return lambda ctx: call(only(ctx))
        return lambda ctx: call(*[get(ctx) for get in gets])


def _caller(
    func: Handler, is_async: bool, limiter: CapacityLimiter
) -> Callable[..., Awaitable[Any]]:
    if is_async:
        return func

    async def in_thread(*args: Any, **kwargs: Any) -> Any:
        threads.running += 1
        try:
            # Abandoned only when the worker is forced to end: nothing else cancels it.
            result = await anyio.to_thread.run_sync(
                functools.partial(func, *args, **kwargs), limiter=limiter, abandon_on_cancel=True
            )
        finally:
            threads.running -= 1
        return await result if inspect.isawaitable(result) else result

    return in_thread


async def _run_with_dependencies(
    plan: _Plan, call: Callable[..., Awaitable[Any]], limiter: CapacityLimiter, ctx: Context
) -> Any:
    async with AsyncExitStack() as stack:
        resolve = _Resolver(ctx, stack, limiter)
        args, kwargs = await resolve.arguments(plan)
        return await call(*args, **kwargs)
    # A generator dependency that catches the handler's error would turn it into a success.
    raise RuntimeError("a dependency swallowed the handler's error: let it raise it again")


class _Resolver:
    """Gives dependencies their values, each function once per run."""

    def __init__(self, ctx: Context, stack: AsyncExitStack, limiter: CapacityLimiter) -> None:
        self._ctx = ctx
        self._stack = stack
        self._limiter = limiter
        self._given: dict[Callable[..., Any], Any] = {}

    async def arguments(self, plan: _Plan) -> tuple[list[Any], dict[str, Any]]:
        args = [await self._value(plan, get) for get in plan.positional]
        return args, {name: await self._value(plan, get) for name, get in plan.named}

    async def _value(self, plan: _Plan, get: Get | Depends) -> Any:
        if not isinstance(get, Depends):
            return get(self._ctx)
        func = get.call
        if func not in self._given:
            args, kwargs = await self.arguments(plan.plans[get])
            self._given[func] = await self._call(func, args, kwargs)
        return self._given[func]

    async def _call(self, func: Handler, args: list[Any], kwargs: dict[str, Any]) -> Any:
        code = _function(func)
        if inspect.isasyncgenfunction(code):
            entered = asynccontextmanager(func)(*args, **kwargs)
            return await self._stack.enter_async_context(entered)
        if inspect.isgeneratorfunction(code):
            manager = contextmanager(func)(*args, **kwargs)
            return await self._stack.enter_async_context(_in_threads(manager, self._limiter))
        return await _caller(func, _is_async(func), self._limiter)(*args, **kwargs)


@asynccontextmanager
async def _in_threads(
    manager: AbstractContextManager[Any], limiter: CapacityLimiter
) -> AsyncIterator[Any]:
    value = await anyio.to_thread.run_sync(manager.__enter__, limiter=limiter)
    # Leaving has a thread of its own: if those that enter held all threads, waiting for what this
    # one gives back (a connection of a pool), nobody would ever go on.
    leaving = CapacityLimiter(1)
    try:
        yield value
    except BaseException as error:
        with anyio.CancelScope(shield=True):  # its clean-up also runs when the run is cancelled
            leave = functools.partial(manager.__exit__, type(error), error, error.__traceback__)
            if not await anyio.to_thread.run_sync(leave, limiter=leaving):
                raise
    else:
        leave = functools.partial(manager.__exit__, None, None, None)
        await anyio.to_thread.run_sync(leave, limiter=leaving)


def _plan(func: Handler, *, may_take_content: bool, above: tuple[Handler, ...]) -> _Plan:
    if func in above:
        raise ConfigurationError(f"{_name(func)} depends on itself")
    hints = _hints(func)
    positional: list[Get | Depends] = []
    named: list[tuple[str, Get | Depends]] = []
    plans: dict[Depends, _Plan] = {}
    content_taken = not may_take_content
    try:
        parameters = inspect.signature(func).parameters.values()
    except ValueError as error:  # some builtins have none
        raise ConfigurationError(f"{_name(func)} does not say what it takes: wrap it") from error
    for parameter in parameters:
        hint = hints.get(parameter.name, Any)
        get = _special(hint)
        if get is None:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if content_taken:
                if parameter.default is not parameter.empty:
                    if parameter.kind is not parameter.KEYWORD_ONLY:
                        break  # what follows by position must have a default as well
                    continue
                raise ConfigurationError(_unbound(func, parameter.name, may_take_content))
            content_taken = True
            get = _content(hint, f"{_name(func)}({parameter.name})")
        if isinstance(get, Depends):
            plans[get] = _plan(get.call, may_take_content=False, above=(*above, func))
        if parameter.kind is parameter.KEYWORD_ONLY:
            named.append((parameter.name, get))
        else:
            positional.append(get)
    return _Plan(tuple(positional), tuple(named), plans)


def _unbound(func: Handler, name: str, may_take_content: bool) -> str:
    taken = "its first parameter has the content already" if may_take_content else "the content"
    return (
        f"parameter {name!r} of {_name(func)} cannot be bound ({taken}): annotate it with "
        "Context, Envelope or Annotated[..., Depends(...)], or give it a default"
    )


def _special(hint: Any) -> Get | Depends | None:
    if hint is Context:
        return lambda ctx: ctx
    if hint is Envelope:
        return lambda ctx: ctx.envelope
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Depends):
            return extra
    return None


def _content(hint: Any, where: str) -> Get:
    """What converts the content to the annotation; content that does not fit is rejected."""
    if hint in (Any, object, inspect.Parameter.empty):
        return lambda ctx: ctx.content
    decode_json, decode_msgpack = _decoders(hint, where)
    text = getattr(hint, "__name__", str(hint))

    def convert(ctx: Context) -> Any:
        try:
            if ctx.wire == "json":
                return decode_json(ctx.raw if len(ctx.raw) else b"null")
            return decode_msgpack(ctx.raw if len(ctx.raw) else b"\xc0")
        except (ValueError, RecursionError) as error:  # msgspec's and pydantic's are ValueErrors
            raise Reject(f"the content does not fit {text}: {_misfit(error)}") from error

    return convert


def _misfit(error: Exception) -> str:
    """What does not fit, and where; not the values, since logs and receivers are told of it."""
    problems = getattr(error, "errors", None)  # pydantic's
    if problems is None:
        return _QUOTED_VALUE.sub(r"\1\2", str(error))
    found = problems(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{one['msg']} - at `{'.'.join(['$', *map(str, one['loc'])])}`" for one in found
    )


def _decoders(hint: Any, where: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    try:
        if _known_to_msgspec(hint):
            return (
                msgspec.json.Decoder(hint, dec_hook=_as_it_came).decode,
                msgspec.msgpack.Decoder(hint, dec_hook=_as_it_came).decode,
            )
        cause = TypeError("msgspec does not know the type")
    except TypeError as error:
        cause = error
    try:
        from pydantic import TypeAdapter  # only users of pydantic have it
    except ImportError:
        raise ConfigurationError(
            f"the content of {where} cannot be read as {hint}: {cause}; use a msgspec Struct, a "
            "dataclass, a TypedDict or builtin types, or install pydantic for its models"
        ) from cause
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
    except Exception as error:  # pydantic raises errors of several families here
        raise ConfigurationError(f"the content of {where} cannot be read: {error}") from error
    return (
        lambda raw: adapter.validate_json(bytes(raw)),
        # By way of JSON, where a strict model still takes text for a UUID or a time.
        lambda raw: adapter.validate_json(msgspec.json.encode(msgspec.msgpack.decode(raw))),
    )


def _as_it_came(_: type, value: Any) -> Any:
    """Content that is annotated as `object`, which every value is; no other type asks here."""
    return value


def _known_to_msgspec(hint: Any) -> bool:
    """Whether msgspec can build the type and all that it is made of (`dict[str, list[Model]]`)."""
    from msgspec.inspect import CustomType, type_info  # 15 ms, only for annotated content

    seen: set[int] = set()
    left: list[Any] = [type_info(hint)]
    while left:
        info = left.pop()
        if isinstance(info, CustomType):
            if info.cls is not object:
                return False
            continue
        if not isinstance(info, Struct) or id(info) in seen:
            continue
        seen.add(id(info))  # types may contain themselves
        for name in info.__struct_fields__:
            value = getattr(info, name)
            left += value if isinstance(value, list | tuple) else (value,)
    return True


def _function(func: Handler) -> Any:
    """The function whose code runs: within a partial, or behind an object's __call__."""
    while isinstance(func, functools.partial):
        func = func.func
    if inspect.isfunction(func) or inspect.ismethod(func) or inspect.isclass(func):
        return func
    return getattr(func, "__call__", func)  # noqa: B004  the bound method is wanted


def _is_async(func: Handler) -> bool:
    return inspect.iscoroutinefunction(_function(func))


def _name(func: Handler) -> str:
    return getattr(_function(func), "__qualname__", None) or repr(func)


def _hints(func: Handler) -> dict[str, Any]:
    target = _function(func)
    if inspect.isbuiltin(target):
        return {}
    if inspect.isclass(target):
        target = target.__init__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except NameError as error:
        raise ConfigurationError(
            f"an annotation of {_name(func)} names something unknown ({error}): define it in the "
            "module, not inside a function, or leave `from __future__ import annotations` out"
        ) from error
