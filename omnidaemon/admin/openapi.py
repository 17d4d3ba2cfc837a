"""The OpenAPI document, made of the types that requests are checked with and answers made of."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from omnidaemon.admin.answers import Problem
from omnidaemon.admin.endpoints import Endpoint, NoQuery

_TEXTS = {
    400: "The body is not JSON, or did not come whole.",
    401: "No key, or one that is not known.",
    403: "Not with this key, from this origin, or under this host name.",
    404: "There is no such thing.",
    409: "Not as things stand.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    422: "A value is not usable.",
    503: "A backend does not answer, or takes nothing more.",
}
_ALWAYS = (401, 403, 422, 503)


def document(endpoints: Sequence[Endpoint], *, keys: bool, server: str = "") -> dict[str, Any]:
    """The document of these endpoints.

    Args:
        endpoints: What is served.
        keys: Whether API keys are needed.
        server: Where the API is mounted, as a path.
    """
    types: dict[int, Any] = {}
    for endpoint in endpoints:
        for kind in _types(endpoint):
            types[id(kind)] = kind
    schemas, components = msgspec.json.schema_components(
        types.values(), ref_template="#/components/schemas/{name}"
    )
    known = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, known, components)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OmniDaemon admin API",
            "version": importlib.metadata.version("omnidaemon"),
        },
        "servers": [{"url": server or "/"}],
        **({"security": [{"key": []}]} if keys else {}),
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _types(endpoint: Endpoint) -> list[Any]:
    found = [Problem, endpoint.answer, *endpoint.others.values(), *endpoint.parameters.values()]
    if endpoint.query is not NoQuery:
        found.append(endpoint.query)
    if endpoint.body is not None:
        found.append(endpoint.body)
    return found


def _operation(
    endpoint: Endpoint, schemas: dict[int, Any], components: dict[str, Any]
) -> dict[str, Any]:
    summary, _, more = (inspect.getdoc(endpoint.function) or "").partition("\n\n")
    scope = endpoint.scope or "any"
    bound = "answers a key bound to a tenant" if endpoint.tenants else "not for such a key"
    found: dict[str, Any] = {
        "operationId": endpoint.function.__name__,
        "tags": [endpoint.tag],
        "summary": summary.replace("\n", " "),
        "description": f"{more}\n\nScope: {scope}; tenants: {bound}.".strip(),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": schemas[id(kind)]}
            for name, kind in endpoint.parameters.items()
        ]
        + _query(endpoint.query, schemas, components),
        "responses": _responses(endpoint, schemas),
    }
    if endpoint.body is not None:
        found["requestBody"] = {
            "required": endpoint.body_required,
            "content": {"application/json": {"schema": schemas[id(endpoint.body)]}},
        }
    return found


def _query(
    query: type[Struct], schemas: dict[int, Any], components: dict[str, Any]
) -> list[dict[str, Any]]:
    """The fields as parameters: in a URL, what has no value is left out."""
    if query is NoQuery:
        return []
    schema = components[schemas[id(query)]["$ref"].rpartition("/")[2]]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": _without_null(field),
        }
        for name, field in schema["properties"].items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else schema


def _responses(endpoint: Endpoint, schemas: dict[int, Any]) -> dict[str, Any]:
    problem = {"application/json": {"schema": schemas[id(Problem)]}}
    statuses = {*_ALWAYS, *endpoint.errors}
    if endpoint.changes:
        statuses.add(415)
    if endpoint.body is not None:
        statuses |= {400, 413}
    found: dict[str, Any] = {
        str(status): {"description": _TEXTS[status], "content": problem}
        for status in sorted(statuses)
    }
    content = {"application/json": {"schema": schemas[id(endpoint.answer)]}}
    for key, kind in endpoint.others.items():
        schema = schemas[id(kind)]
        if isinstance(key, int):
            either = [schema, schemas[id(Problem)]]
            found[str(key)]["content"] = {"application/json": {"schema": {"anyOf": either}}}
        else:
            content[key] = {"schema": schema}
    if endpoint.answer is str:
        del content["application/json"]
    found["200"] = {"description": "Done.", "content": content}
    return found
