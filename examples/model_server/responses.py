"""OpenAI's Responses: POST /v1/responses, as JSON or as a stream."""

from __future__ import annotations

import json
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
    given = body["input"]
    turns: list[Turn] = []
    names: dict[str, str] = {}
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        kind = item.get("type", "message")
        if kind == "message" and item["role"] in ("user", "assistant"):
            turns.append(Said(item["role"] == "user", plain(item["content"])))
        elif kind == "function_call":
            names[item["call_id"]] = item["name"]
            arguments = json.loads(item["arguments"] or "{}")
            turns.append(Called(item["call_id"], item["name"], arguments))
        elif kind == "function_call_output":
            call_id = item["call_id"]
            turns.append(Returned(call_id, names[call_id], plain(item["output"])))
    functions = [tool for tool in body.get("tools") or () if tool["type"] == "function"]
    form = (body.get("text") or {}).get("format") or {}
    return Conversation(
        turns,
        [Tool(f["name"], f.get("description") or "", f.get("parameters") or {}) for f in functions],
        must_call=body.get("tool_choice", "auto") not in ("auto", "none"),
        form=form["schema"] if form.get("type") == "json_schema" else None,
    )


def write(reply: Reply, body: Json) -> Json:
    """The answer as one JSON object."""
    output = [_item(reply)]
    read, written = tokens(body["input"]), tokens(output)
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 0,
        "status": "completed",
        "model": body["model"],
        "output": output,
        "parallel_tool_calls": False,
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "usage": {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read + written,
        },
    }


def stream(reply: Reply, body: Json) -> Iterator[tuple[str, Json]]:
    """The answer as events, each with its name."""
    whole = write(reply, body)
    for number, (name, event) in enumerate(_events(whole)):
        yield name, {"type": name, "sequence_number": number, **event}


def _events(whole: Json) -> Iterator[tuple[str, Json]]:
    (item,) = whole["output"]
    place = {"item_id": item["id"], "output_index": 0}
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    yield "response.created", {"response": begun}
    if item["type"] == "function_call":
        empty = {**item, "arguments": "", "status": "in_progress"}
        yield "response.output_item.added", {"output_index": 0, "item": empty}
        arguments = item["arguments"]
        yield "response.function_call_arguments.delta", {**place, "delta": arguments}
        done = {**place, "arguments": arguments, "name": item["name"]}
        yield "response.function_call_arguments.done", done
    else:
        (part,) = item["content"]
        place = {**place, "content_index": 0}
        empty = {**item, "content": [], "status": "in_progress"}
        yield "response.output_item.added", {"output_index": 0, "item": empty}
        yield "response.content_part.added", {**place, "part": {**part, "text": ""}}
        for piece in pieces(part["text"]):
            yield "response.output_text.delta", {**place, "delta": piece, "logprobs": []}
        yield "response.output_text.done", {**place, "text": part["text"], "logprobs": []}
        yield "response.content_part.done", {**place, "part": part}
    yield "response.output_item.done", {"output_index": 0, "item": item}
    yield "response.completed", {"response": whole}


def _item(reply: Reply) -> Json:
    if reply.call is not None:
        return {
            "type": "function_call",
            "id": f"fc_{reply.call.id}",
            "call_id": reply.call.id,
            "name": reply.call.name,
            "arguments": json.dumps(reply.call.arguments),
            "status": "completed",
        }
    text = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
    return {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [text],
    }
