"""Endpoints as values: what they take and answer is read off their functions' annotations.

One declaration serves the validation of requests, the check of scopes, and the OpenAPI document.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import anyio
import msgspec
from msgspec import Meta, Struct
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response

from omnidaemon.admin.answers import Instead, Refused, json_answer, problem, status_of
from omnidaemon.admin.auth import Caller, Scope
from omnidaemon.app import App
from omnidaemon.errors import OmniDaemonError
from omnidaemon.fleet import Fleet

logger = logging.getLogger("omnidaemon.admin")

BODY_SECONDS = 15.0
READ_SECONDS = 3.0
CHANGE_SECONDS = 30.0

_NAME = "[A-Za-z0-9][A-Za-z0-9._:-]{0,199}"
Name = Annotated[str, Meta(pattern=f"^{_NAME}$")]
# `/agents/topic/{topic}` is why no topic is called `topic`.
TopicName = Annotated[str, Meta(pattern=f"^(?!topic$){_NAME}$")]
OptionalName = Annotated[str, Meta(pattern=f"^({_NAME})?$", description="Empty is not given.")]
Tenant = Annotated[str, Meta(max_length=1000, description="Empty is not given.")]

Method = Literal["GET", "POST", "DELETE"]
Function = Callable[..., Awaitable[Any]]
F = TypeVar("F", bound=Function)


class NoQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Takes no query parameters."""


class Ask(Struct, frozen=True):
    """A request that passed the guard.

    Attributes:
        app: Whose backends are asked.
        fleet: The same, in people's words.
        caller: Who asks.
        request: As it came.
    """

    app: App
    fleet: Fleet
    caller: Caller
    request: Request

    def tenant(self, asked: str | None) -> str | None:
        """The tenant to whom the answer is confined; None for all.

        Raises:
            Refused: The key is bound to another.
        """
        bound = self.caller.tenant
        if bound is None:
            return asked or None
        if asked and asked != bound:
            raise Refused(403, "this key is bound to another tenant")
        return bound


class Endpoint(Struct, frozen=True):
    """One method of one path.

    Attributes:
        method: As HTTP calls it.
        path: With its parameters in braces.
        scope: What a key must allow; None for any key.
        tenants: True if a key that is bound to a tenant may ask: the answer is confined to it.
        function: What is done; it takes an `Ask` and, by name, what the attributes below say.
        tag: The section of the document.
        parameters: The type of each path parameter.
        query: The Struct of its query.
        body: The Struct of its body; None takes none.
        body_required: False if the body may be left out.
        answer: The type of its answer.
        errors: Statuses that it may answer besides those that all do.
        others: Further media types or statuses: the type of each.
    """

    method: Method
    path: str
    scope: Scope | None
    tenants: bool
    function: Function
    tag: str
    parameters: dict[str, Any]
    query: type[Struct]
    body: Any
    body_required: bool
    answer: Any
    errors: tuple[int, ...] = ()
    others: dict[int | str, Any] = {}

    @property
    def changes(self) -> bool:
        """Whether it may write."""
        return self.method != "GET"

    @property
    def slow(self) -> bool:
        """Whether it may have thousands of records to go through."""
        return self.changes and self.scope == "admin"

    async def respond(self, ask: Ask) -> Response:
        """The answer to a request, whatever comes of it."""
        try:
            self._check_caller(ask.caller)
            arguments = self._arguments(ask.request)
            if self.body is not None:
                arguments["body"] = await self._read_body(ask)
            return await self._call(ask, arguments)
        except Instead as instead:
            return instead.response
        except Refused as refusal:
            return problem(refusal.status, str(refusal), refusal.headers)
        except OmniDaemonError as error:
            return problem(status_of(error), str(error))
        except ClientDisconnect:
            return problem(400, "the request broke off")
        except Exception:  # a defect: the log has it, and the caller learns no inner workings
            logger.exception("%s %s failed", self.method, self.path)
            return problem(500, "this is a defect of the API; the log of its process says more")

    def _check_caller(self, caller: Caller) -> None:
        if self.scope is not None and not caller.may(self.scope):
            raise Refused(403, f"this needs a key with the scope {self.scope}")
        if caller.tenant is not None and not self.tenants:
            raise Refused(403, "this cannot be confined to one tenant, and the key is bound to one")

    def _arguments(self, request: Request) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, kind in self.parameters.items():
            value = request.path_params[name]
            if value != value.strip():
                raise Refused(422, f"path parameter {name}: it has white space around it")
            found[name] = _converted(value, kind, f"path parameter {name}")
        found["query"] = _converted(_parameters(request, self.query), self.query, "query")
        if self.query is NoQuery:
            del found["query"]
        return found

    async def _read_body(self, ask: Ask) -> Any:
        most = ask.app.settings.max_message + 65_536  # room for what stands around the content
        data = bytearray()
        with anyio.move_on_after(BODY_SECONDS) as scope:
            async with aclosing(ask.request.stream()) as chunks:
                async for chunk in chunks:
                    data += chunk
                    if len(data) > most:
                        raise Refused(
                            413, f"the body has more than {most:,} bytes", hang_up(ask.request)
                        )
        if scope.cancelled_caught:
            raise Refused(400, f"the body did not come within {BODY_SECONDS:.0f} s")
        if not data and not self.body_required:
            return self.body()
        try:
            return msgspec.json.decode(data, type=self.body)
        except msgspec.ValidationError as error:
            raise Refused(422, f"body: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(400, f"the body is not JSON: {error}") from None

    async def _call(self, ask: Ask, arguments: dict[str, Any]) -> Response:
        if self.slow:
            # A backend that is away says so at once; what is then done may take its time.
            await within(READ_SECONDS, ask.app.transport.check)
            await within(READ_SECONDS, ask.app.store.check)
        seconds = CHANGE_SECONDS if self.slow else READ_SECONDS
        return json_answer(await within(seconds, lambda: self.function(ask, **arguments)))


def hang_up(request: HTTPConnection) -> dict[str, str]:
    """What ends the connection after an answer: else the server reads the rest of the body."""
    return {"Connection": "close"} if request.scope.get("http_version") == "1.1" else {}


async def within(seconds: float, call: Callable[[], Awaitable[Any]]) -> Any:
    """What the call returns; raises Refused with 503 if that takes longer."""
    found: Any = None
    with anyio.move_on_after(seconds) as scope:
        found = await call()
    if scope.cancelled_caught:
        raise Refused(
            503,
            f"the backends did not answer within {seconds:.0f} s: look whether what was asked for "
            "is done, then try again",
        )
    return found


def _parameters(request: Request, kind: type[Struct]) -> dict[str, Any]:
    lists = {f.name for f in msgspec.structs.fields(kind) if "list" in str(f.type)}
    found: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name in lists:
            found.setdefault(name, []).append(value)
        elif name in found:
            raise Refused(422, f"query: {name} is given twice")
        else:
            found[name] = value
    return found


def _converted(value: Any, kind: Any, what: str) -> Any:
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(422, f"{what}: {error}") from None


class Section:
    """Endpoints of one part of the API.

    Args:
        tag: Its name.
    """

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.endpoints: list[Endpoint] = []

    def __call__(
        self,
        method: Method,
        path: str,
        *,
        scope: Scope | None,
        tenants: bool = False,
        errors: tuple[int, ...] = (),
        others: dict[int | str, Any] | None = None,
    ) -> Callable[[F], F]:
        """Registers the decorated function; see Endpoint."""

        def register(function: F) -> F:
            hints = get_type_hints(function, include_extras=True)
            body = hints.get("body")
            self.endpoints.append(
                Endpoint(
                    method,
                    path,
                    scope,
                    tenants,
                    function,
                    self.tag,
                    {name: hints[name] for name in hints if f"{{{name}}}" in path},
                    hints.get("query", NoQuery),
                    body,
                    body is not None
                    and any(field.required for field in msgspec.structs.fields(body)),
                    hints["return"],
                    errors,
                    others or {},
                )
            )
            return function

        return register
