"""How the stand-in decides: no learning and no chance, only words that two texts share.

1. It calls the tool whose name shares the most words with what the user asked, if the user has said
   what the tool's required parameters want, now or earlier. Words that a called tool has dealt with
   count no more, so a request for two things leads to two calls.
2. Else it answers with what the tools gave, or the lines of it that fit the question.
3. Without tools it answers from what the user said earlier, or sums up a long text by the sentence
   that says most of it.
4. An answer that must fit a JSON schema is filled from the same texts, property by property.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from examples.model_server.conversation import (
    Called,
    Conversation,
    Reply,
    Returned,
    Schema,
    Tool,
)

SHORT = 600  # characters that are repeated as they are
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a about an and are as at be by can could did do does for from has have how i in into is it"
        " its me my not of on or please tell that the their them then there they this to us was we"
        " were what when where which who why will with you your",
    )
)


def reply(conversation: Conversation) -> Reply:
    """The next thing the model does."""
    call = _next_call(conversation)
    if call is not None:
        return Reply(call=call)
    if conversation.form is not None:
        return Reply(json.dumps(fill(conversation.form, _evidence(conversation))))
    return Reply(_answer(conversation))


def words(text: str) -> list[str]:
    """The words, without capitals and endings: "Opening hours" has open and hour."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower()
    return [re.sub(r"(?<=...)(ing|ed|s)$", "", word) for word in re.findall(r"[^\W\d_]+", apart)]


def meaning(text: str) -> set[str]:
    """The words of a question that can be looked for."""
    return set(words(text)) - STOP_WORDS


def sentences(text: str) -> list[str]:
    """Lines, and the sentences in them."""
    parts = (part for line in text.splitlines() for part in re.split(r"(?<=[.!?])\s+", line))
    return [part.strip() for part in parts if part.strip()]


def _next_call(conversation: Conversation) -> Called | None:
    done = [turn for turn in conversation.since if isinstance(turn, Called)]
    offered = {tool.name for tool in conversation.tools}
    open_words = meaning(conversation.asked)
    for call in done:
        if call.name in offered:
            open_words -= set(words(call.name))

    def fit(tool: Tool) -> tuple[int, float, int]:
        name = meaning(tool.name)
        shared = open_words & name
        return (
            len(shared),
            len(shared) / len(name or " "),
            len(open_words & meaning(tool.description)),
        )

    left = [tool for tool in conversation.tools if tool.name not in {call.name for call in done}]
    for tool in sorted(left, key=fit, reverse=True):
        if not fit(tool)[0]:
            break
        # What is missing may have been said earlier; the latest counts.
        for text in (conversation.asked, *reversed(conversation.before)):
            arguments = fill(tool.parameters, text)
            if set(tool.parameters.get("required", ())) <= arguments.keys():
                return Called(f"call_{len(conversation.turns)}", tool.name, arguments)
    if conversation.must_call and left:
        # Nothing fits, and text is no answer: the last one offered is for the answer itself.
        arguments = fill(left[-1].parameters, _evidence(conversation))
        return Called(f"call_{len(conversation.turns)}", left[-1].name, arguments)
    return None


def _found(conversation: Conversation) -> list[str]:
    """What the tools on offer gave; others belong to agents that have handed over."""
    offered = {tool.name for tool in conversation.tools}
    return [
        turn.text
        for turn in conversation.since
        if isinstance(turn, Returned) and turn.name in offered
    ]


def _evidence(conversation: Conversation) -> str:
    return "\n".join([*_found(conversation), conversation.asked])


def _answer(conversation: Conversation) -> str:
    asked = conversation.asked
    found = _found(conversation)
    if found:
        return "\n".join(_fitting(text, asked) for text in found)
    if len(sentences(asked)) > 2:
        return _summary(asked)
    known = sentences("\n".join(conversation.before))
    wanted = meaning(asked)
    best = max(known, key=lambda sentence: len(wanted & meaning(sentence)), default="")
    if wanted & meaning(best):
        return f"You said: {best}"
    if asked.rstrip().endswith("?"):
        return "I do not know that."
    return f"I have understood: {asked}"


def _fitting(text: str, asked: str) -> str:
    """The text if it is short, else the lines that share words with the question."""
    if len(text) <= SHORT:
        return text
    wanted = meaning(asked)
    fitting = [line for line in sentences(text) if wanted & meaning(line)]
    return "\n".join(fitting or sentences(text))[:SHORT]


def _summary(text: str) -> str:
    """The sentence with the most of the text's frequent words; the first line is the request."""
    rest = sentences(text)[1:]
    often = Counter(word for word in words("\n".join(rest)) if word not in STOP_WORDS)
    return max(rest, key=lambda sentence: sum(often[word] for word in meaning(sentence)))


def fill(schema: Schema, text: str) -> dict[str, Any]:
    """Values for the schema's properties, as far as the text has them."""
    properties: dict[str, Schema] = schema.get("properties", {})
    required = set(schema.get("required", ()))
    filled = {}
    for name, described in properties.items():
        value = _value(name, _resolved(described, schema), text, name in required)
        if value is not None:
            filled[name] = value
    return filled


def _resolved(described: Schema, root: Schema) -> Schema:
    """The schema behind a reference, or the first choice that is not null."""
    if "$ref" in described:
        kind = described["$ref"].rpartition("/")[2]
        return {"$defs": root.get("$defs", {}), **root["$defs"][kind]}
    for choice in described.get("anyOf", ()):
        if choice.get("type") != "null":
            return _resolved(choice, root)
    return described


def _value(name: str, schema: Schema, text: str, required: bool) -> Any:
    named = _after(name, text)
    if named is None and not required:
        return None
    kind = str(schema.get("type", "string")).lower()
    if "enum" in schema:
        lower = text.lower()
        return next((member for member in schema["enum"] if str(member).lower() in lower), None)
    if kind in ("integer", "number"):
        pattern = r"(?<![\d.])\d+(?!\.?\d)" if kind == "integer" else r"\d+(?:\.\d+)?"
        number = re.search(pattern, named or "") or re.search(pattern, text)
        return None if number is None else (int if kind == "integer" else float)(number[0])
    if kind == "boolean":
        return not re.match(r"(no|false|not)\b", (named or "no").lower())
    if kind == "array":
        return re.findall(r"['\"“]([^'\"”]+)['\"”]", text) or _paths(text)
    if kind == "object":
        return fill(schema, text)
    return named or _string(name, text)


def _after(name: str, text: str) -> str | None:
    """What stands behind the name, as in "city: Oslo", "order id 17" or "title 'One'"."""
    pattern = r"[ _]?".join(map(re.escape, re.split(r"[ _]", name)))
    found = re.search(
        rf"(?i)\b{pattern}\b\"?(?:\s*[:=]\s*|\s+(?=['\"“\d]))(?:['\"“]([^'\"”]+)['\"”]|([^\n,;]+))",
        text,
    )
    if found is None:
        return None
    return (found[1] or found[2]).strip().rstrip(".?!")


def _string(name: str, text: str) -> str | None:
    """A quoted text, a path, a proper name, or all of it, whichever comes first."""
    quoted = re.search(r"['\"“]([^'\"”]+)['\"”]", text)
    if quoted:
        return quoted[1]
    if re.search(r"path|file|dir|folder", name):
        return next(iter(_paths(text)), None)
    proper = re.search(r"(?<=[a-z,] )[A-Z]\w*(?: [A-Z]\w*)*", text)
    return proper[0] if proper else text.strip()


def _paths(text: str) -> list[str]:
    return re.findall(r"[\w.~-]*/[\w./-]*\w|\b[\w-]+\.[a-z]\w{0,4}\b|(?<!\S)\.(?!\S)", text)
