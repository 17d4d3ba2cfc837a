"""What a model is asked and what it answers, whichever API carries it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Schema = dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """A tool on offer; `parameters` is a JSON schema."""

    name: str
    description: str = ""
    parameters: Schema = field(default_factory=dict)


@dataclass(frozen=True)
class Said:
    """Text by the user or by the model."""

    by_user: bool
    text: str


@dataclass(frozen=True)
class Called:
    """The model's wish that a tool be called."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Returned:
    """What a tool gave."""

    id: str
    name: str
    text: str


Turn = Said | Called | Returned


@dataclass(frozen=True)
class Conversation:
    """All that one request carries.

    Attributes:
        turns: What was said and done so far, the oldest first.
        tools: What may be called.
        must_call: True if text is no answer.
        form: The JSON schema that the answer's text must fit, if any.
    """

    turns: list[Turn]
    tools: list[Tool] = field(default_factory=list)
    must_call: bool = False
    form: Schema | None = None

    @property
    def asked(self) -> str:
        """What the user said last."""
        return next((t.text for t in reversed(self.turns) if isinstance(t, Said) and t.by_user), "")

    @property
    def before(self) -> list[str]:
        """What the user said earlier."""
        return [t.text for t in self.turns if isinstance(t, Said) and t.by_user][:-1]

    @property
    def since(self) -> list[Turn]:
        """What was done since the user spoke."""
        done: list[Turn] = []
        for turn in reversed(self.turns):
            if isinstance(turn, Said) and turn.by_user:
                break
            done.insert(0, turn)
        return done


@dataclass(frozen=True)
class Reply:
    """The model's answer: text, or a call."""

    text: str = ""
    call: Called | None = None


def plain(value: Any) -> str:
    """The text in what APIs wrap it in: parts, content lists, results; anything else as JSON."""
    match value:
        case None:
            return ""
        case str():
            return value
        case list() if all(isinstance(part, dict) and "text" in part for part in value):
            return "\n".join(part["text"] for part in value)
        case {"content": list() as parts}:
            return plain(parts)
        case {"result": inner} if len(value) == 1:
            return plain(inner)
        case _:
            return json.dumps(value, ensure_ascii=False)
