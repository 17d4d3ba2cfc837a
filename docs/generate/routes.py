"""The reference of the HTTP API, as a page: what its OpenAPI document says."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from omnidaemon.admin.api import ENDPOINTS
from omnidaemon.admin.openapi import document

TITLES = {
    "agents": "Agents",
    "tasks": "Tasks",
    "health": "Health and numbers",
    "bus": "Topics and dead letters",
    "storage": "The store, and values kept in it",
    "about": "This document",
}
Schema = dict[str, Any]


def routes_page() -> str:
    """Every route with its parameters, its body and its answers, and the types of these."""
    found = document(ENDPOINTS, keys=True)
    operations: dict[str, list[tuple[str, str, Schema]]] = {}
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            operations.setdefault(operation["tags"][0], []).append(
                (method.upper(), path, operation)
            )
    lines = [
        "# HTTP reference",
        "",
        "Made from the OpenAPI document, which a running API serves at `GET /openapi.json`.",
        "[Admin API](../admin-api.md) says how to serve it and who may ask.",
        "",
    ]
    for tag, group in operations.items():
        lines += [f"## {TITLES.get(tag, tag.capitalize())}", ""]
        for method, path, operation in group:
            lines += _operation(method, path, operation)
    lines += ["## Types", ""]
    for name, schema in sorted(found["components"]["schemas"].items()):
        if not name.endswith("Query"):  # they stand at their routes, as parameters
            lines += _type(name, schema)
    return "\n".join(lines) + "\n"


def _operation(method: str, path: str, operation: Schema) -> Iterator[str]:
    text, _, access = operation["description"].rpartition("Scope: ")
    scope, _, tenants = access.rstrip(".").partition("; tenants: ")
    yield f"### {method} {path} {{#{operation['operationId']}}}"
    yield ""
    yield operation["summary"]
    yield ""
    if text.strip():
        yield text.strip()
        yield ""
    answers = "A key bound to a tenant may ask." if tenants.startswith("answers") else ""
    yield f"Scope: {'any key' if scope == 'any' else f'`{scope}`'}. {answers}".rstrip()
    yield ""
    yield from _parameters(operation["parameters"])
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        need = "" if operation["requestBody"]["required"] else " (may be left out)"
        yield f"Body{need}: {_shown(schema)}."
        yield ""
    yield from _answers(operation["responses"])


def _parameters(parameters: list[Schema]) -> Iterator[str]:
    if not parameters:
        return
    yield "| parameter | in | type | default |"
    yield "| --- | --- | --- | --- |"
    for parameter in parameters:
        schema = parameter["schema"]
        default = "**required**" if parameter["required"] else _default(schema)
        yield f"| `{parameter['name']}` | {parameter['in']} | {_shown(schema)} | {default} |"
    yield ""


def _answers(responses: Schema) -> Iterator[str]:
    kinds = [
        f"`{media}`: {_shown(content['schema'])}"
        for media, content in responses["200"]["content"].items()
    ]
    yield f"Answers 200 with {'; '.join(kinds)}."
    errors = sorted(status for status in responses if status != "200")
    yield f"Errors: {', '.join(errors)}."
    yield ""


def _type(name: str, schema: Schema) -> Iterator[str]:
    yield f"### {name} {{#type-{name.lower()}}}"
    yield ""
    yield inspect.cleandoc(schema.get("description", "")).partition("\n\nAttributes:")[0]
    yield ""
    properties = schema.get("properties", {})
    if properties:
        yield "| field | type | default |"
        yield "| --- | --- | --- |"
        required = schema.get("required", ())
        for field, kind in properties.items():
            default = "**always there**" if field in required else _default(kind)
            yield f"| `{field}` | {_shown(kind)} | {default} |"
        yield ""


def _default(schema: Schema) -> str:
    value = schema.get("default")
    if value is None:
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _shown(schema: Schema) -> str:
    """The type in a few words, with a link where it has a name."""
    match schema:
        case {"$ref": str(path)}:
            name = path.rpartition("/")[2]
            return f"[{name}](#type-{name.lower()})"
        case {"anyOf": list(kinds)}:
            return " or ".join(_shown(kind) for kind in kinds)
        case {"enum": list(values)}:
            return ", ".join(f"`{value}`" for value in values)
        case {"type": "array", "items": dict(item)}:
            return f"list of {_shown(item)}"
        case {"type": "object", "additionalProperties": dict(item)}:
            return f"object of {_shown(item)}"
        case {"type": str(kind)}:
            return kind + _bounds(schema)
        case _:
            return "any JSON"


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None and high < 1e9:
        return f", {low} to {high}"
    if low is not None:
        return f", at least {low}"
    return ""
