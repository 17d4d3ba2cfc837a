"""OpenAI's Chat Completions: POST /v1/chat/completions, as JSON or as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from examples.model_server import tagged
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
    messages: list[Json] = body["messages"]
    if tagged.used_by(messages):
        return tagged.read(messages)
    turns: list[Turn] = []
    names: dict[str, str] = {}
    for message in messages:
        if message["role"] == "user":
            turns.append(Said(True, plain(message["content"])))
        elif message["role"] == "assistant":
            if message.get("content"):
                turns.append(Said(False, plain(message["content"])))
            for call in message.get("tool_calls") or ():
                function = call["function"]
                names[call["id"]] = function["name"]
                arguments = json.loads(function["arguments"] or "{}")
                turns.append(Called(call["id"], function["name"], arguments))
        elif message["role"] == "tool":
            call_id = message["tool_call_id"]
            turns.append(Returned(call_id, names[call_id], plain(message["content"])))
    functions = [tool["function"] for tool in body.get("tools") or ()]
    form = body.get("response_format") or {}
    return Conversation(
        turns,
        [Tool(f["name"], f.get("description", ""), f.get("parameters", {})) for f in functions],
        must_call=body.get("tool_choice", "auto") not in ("auto", "none"),
        form=form["json_schema"]["schema"] if form.get("type") == "json_schema" else None,
    )


def write(reply: Reply, body: Json) -> Json:
    """The answer as one JSON object."""
    text = tagged.write(reply) if tagged.used_by(body["messages"]) else reply.text
    message: Json = {"role": "assistant", "content": text or None}
    if reply.call is not None and not text:
        message["tool_calls"] = [_call(reply.call)]
    return {
        **_envelope(body, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": _reason(message)}],
        "usage": _usage(body, message),
    }


def stream(reply: Reply, body: Json) -> Iterator[tuple[str, Json]]:
    """The answer as events, each with its name (chat completions have none)."""
    whole = write(reply, body)
    message = whole["choices"][0]["message"]
    calls = [{"index": n, **call} for n, call in enumerate(message.get("tool_calls", ()))]
    first: Json = {"role": "assistant", "content": ""} | ({"tool_calls": calls} if calls else {})
    deltas = [first, *({"content": piece} for piece in pieces(message["content"] or "")), {}]
    for number, delta in enumerate(deltas):
        reason = _reason(message) if number == len(deltas) - 1 else None
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        yield "", {**_envelope(body, "chat.completion.chunk"), "choices": [choice]}
    if (body.get("stream_options") or {}).get("include_usage"):
        last = {**_envelope(body, "chat.completion.chunk"), "choices": []}
        yield "", {**last, "usage": whole["usage"]}


def pieces(text: str) -> list[str]:
    """The text in pieces, as a model writes it: word by word."""
    return [word + " " for word in text.split(" ")[:-1]] + text.split(" ")[-1:] if text else []


def tokens(*values: Any) -> int:
    """Roughly how many tokens the values have as JSON; about four characters make one."""
    return sum(len(json.dumps(value)) // 4 + 1 for value in values)


def _envelope(body: Json, kind: str) -> Json:
    return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": body["model"]}


def _reason(message: Json) -> str:
    return "tool_calls" if message.get("tool_calls") else "stop"


def _call(call: Called) -> Json:
    function = {"name": call.name, "arguments": json.dumps(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _usage(body: Json, message: Json) -> Json:
    read, written = tokens(body["messages"]), tokens(message)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
