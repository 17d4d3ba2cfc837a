"""Tools by tags in the text, as OmniCoreAgent has them: told in the prompt, called in the answer.

Its requests to Chat Completions offer no tools. The system prompt lists them, the model answers
with `<tool_call>` or `<final_answer>`, and the user's next message has `<observations>`.
"""

from __future__ import annotations

import html
import json
import re
from typing import Any

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

REGISTRY = "\n[AVAILABLE TOOLS REGISTRY]\n"


def used_by(messages: list[dict[str, Any]]) -> bool:
    """Whether the system prompt lists tools."""
    return REGISTRY in plain(messages[0].get("content"))


def read(messages: list[dict[str, Any]]) -> Conversation:
    """The conversation in the messages' text."""
    system, *rest = (plain(message["content"]) for message in messages)
    turns: list[Turn] = []
    for message, text in zip(messages[1:], rest, strict=True):
        if message["role"] == "assistant":
            turns.extend(_written(text))
        elif "<observations>" in text:
            turns.extend(_observed(text))
        else:
            turns.append(Said(True, re.sub(r"^\[CURRENT_DATETIME: .*?\]\s*", "", text)))
    return Conversation(turns, _offered(system.rpartition(REGISTRY)[2]))


def write(reply: Reply) -> str:
    """The answer in tags."""
    if reply.call is None:
        return f"<final_answer>{reply.text}</final_answer>"
    values = "".join(
        f"<{name}>{value if isinstance(value, str) else json.dumps(value)}</{name}>"
        for name, value in reply.call.arguments.items()
    )
    return (
        f"<tool_call><tool_name>{reply.call.name}</tool_name>"
        f"<parameters>{values}</parameters></tool_call>"
    )


def _offered(registry: str) -> list[Tool]:
    tools = []
    for block in re.split(r"\n(?=\w+: )", registry):
        named = re.match(r"(\w+): (.*)", block)
        if named is None:
            continue
        found = re.findall(r"^  - (\w+): (\w+)[^-—\n]*?( \(required\))? [-—] ", block, re.MULTILINE)
        schema = {
            "properties": {name: {"type": kind} for name, kind, _ in found},
            "required": [name for name, _, required in found if required],
        }
        tools.append(Tool(named[1], named[2], schema))
    return tools


def _written(text: str) -> list[Turn]:
    calls: list[Turn] = []
    for name, inner in re.findall(
        r"<tool_name>(.*?)</tool_name>\s*<parameters>(.*?)</parameters>", text, re.DOTALL
    ):
        arguments = dict(re.findall(r"<(\w+)>(.*?)</\1>", inner, re.DOTALL))
        calls.append(Called(name, name, arguments))
    return calls or [Said(False, re.sub(r"</?\w+>", "", text))]


def _observed(text: str) -> list[Turn]:
    found = re.findall(r'<observation tool_name="(\w+)#\d+">(.*?)</observation>', text, re.DOTALL)
    return [Returned(name, name, html.unescape(inner)) for name, inner in found]
