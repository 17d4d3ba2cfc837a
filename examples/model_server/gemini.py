"""Google's Gemini API: POST /v1beta/models/MODEL:generateContent and :streamGenerateContent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from examples.model_server.chat import pieces, tokens
from examples.model_server.conversation import (
    Called,
    Conversation,
    Reply,
    Returned,
    Said,
    Tool,
    Turn,
    plain,
)

Json = dict[str, Any]


def read(body: Json) -> Conversation:
    """The conversation in a request."""
    turns: list[Turn] = []
    for content in body["contents"]:
        for part in content["parts"]:
            turns.extend(_turn(part, content.get("role", "user") == "user"))
    functions = [
        function
        for tool in body.get("tools") or ()
        for function in _either(tool, "functionDeclarations") or ()
    ]
    config = _either(body, "generationConfig") or {}
    calling = _either(_either(body, "toolConfig") or {}, "functionCallingConfig") or {}
    return Conversation(
        turns,
        [
            Tool(
                function["name"],
                function.get("description", ""),
                _either(function, "parametersJsonSchema") or function.get("parameters") or {},
            )
            for function in functions
        ],
        must_call=calling.get("mode") == "ANY",
        form=_either(config, "responseJsonSchema") or _either(config, "responseSchema"),
    )


def _either(value: Json, name: str) -> Any:
    """The field, which clients may write with capitals or with underscores."""
    return value.get(name) or value.get(re.sub(r"([A-Z])", r"_\1", name).lower())


def _turn(part: Json, by_user: bool) -> list[Turn]:
    match part:
        case {"text": str() as text}:
            return [Said(by_user, text)]
        case {"functionCall": call}:
            return [Called(call.get("id", call["name"]), call["name"], call.get("args") or {})]
        case {"functionResponse": given}:
            call_id = given.get("id", given["name"])
            return [Returned(call_id, given["name"], plain(given["response"]))]
        case _:
            return []


def write(reply: Reply, body: Json) -> Json:
    """The answer as one JSON object."""
    if reply.call is None:
        return _response([{"text": reply.text}], body, last=True)
    call = {"id": reply.call.id, "name": reply.call.name, "args": reply.call.arguments}
    return _response([{"functionCall": call}], body, last=True)


def stream(reply: Reply, body: Json) -> Iterator[tuple[str, Json]]:
    """The answer as events without names."""
    *some, last = pieces(reply.text) or [""]
    for piece in some:
        yield "", _response([{"text": piece}], body, last=False)
    yield "", write(Reply(last, reply.call), body)


def _response(parts: list[Json], body: Json, *, last: bool) -> Json:
    read, written = tokens(body["contents"]), tokens(parts)
    candidate: Json = {"index": 0, "content": {"role": "model", "parts": parts}}
    if last:
        candidate["finishReason"] = "STOP"
    return {
        "candidates": [candidate],
        "usageMetadata": {
            "promptTokenCount": read,
            "candidatesTokenCount": written,
            "totalTokenCount": read + written,
        },
    }
