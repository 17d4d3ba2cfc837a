"""The stand-in for a model: what it decides, and the APIs in which it says so."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.model_server import tagged
from examples.model_server.conversation import Called, Conversation, Returned, Said, Tool
from examples.model_server.rules import fill, reply
from examples.model_server.server import ModelServer
from tests.frameworks.conftest import Example

PATH = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
READ = Tool("read_text_file", "Reads a file.", PATH)
LIST = Tool("list_directory", "Lists a directory.", PATH)
ASKED = "Read the text file notes.txt, then list the directory docs/old"
CALL = Called("call_1", "read_text_file", {"path": "notes.txt"})


def said(text: str) -> Said:
    return Said(True, text)


def test_it_calls_the_tool_whose_name_fits_with_what_the_request_says():
    call = reply(Conversation([said("Read the text file notes.txt")], [LIST, READ])).call
    assert call is not None
    assert (call.name, call.arguments) == ("read_text_file", {"path": "notes.txt"})


def test_a_request_for_two_things_leads_to_two_calls_and_then_to_an_answer():
    turns = [said(ASKED), CALL, Returned("call_1", READ.name, "It is late.")]
    second = reply(Conversation(turns, [READ, LIST])).call
    assert second is not None
    assert second.name == "list_directory"
    turns += [second, Returned(second.id, second.name, "a.txt")]
    assert reply(Conversation(turns, [READ, LIST])).text == "It is late.\na.txt"


def test_without_what_a_tool_needs_it_does_not_call_it():
    assert reply(Conversation([said("Read the text file")], [READ])).call is None


def test_what_a_tool_needs_may_have_been_said_before():
    tool = Tool("order_status", "", {"properties": {"id": {"type": "integer"}}, "required": ["id"]})
    earlier = [said("My number is 1042."), Said(False, "Thank you."), said("Where is my order?")]
    call = reply(Conversation(earlier, [tool])).call
    assert call is not None
    assert call.arguments == {"id": 1042}


@pytest.mark.parametrize(
    ("turns", "answer"),
    [
        (["My name is Ada.", "I like tea.", "What is my name?"], "You said: My name is Ada."),
        (["What is my name?"], "I do not know that."),
        (
            ["Sum up:\nTea is hot. Green tea is a tea from Asia. Hm."],
            "Green tea is a tea from Asia.",
        ),
    ],
)
def test_without_tools_it_answers_from_what_was_said(turns: list[str], answer: str):
    assert reply(Conversation([said(turn) for turn in turns])).text == answer


def test_the_answer_is_what_the_tool_gave_and_nothing_else():
    for text in ("It is late.", "It is early."):
        turns = [said("Read the text file a.txt"), CALL, Returned("call_1", READ.name, text)]
        assert reply(Conversation(turns, [READ])).text == text
    long = "\n".join([*["nothing here"] * 100, "the parcel is here"])
    turns = [said("Read the text file a.txt about the parcel"), CALL]
    turns.append(Returned("call_1", READ.name, long))
    assert reply(Conversation(turns, [READ])).text == "the parcel is here"


def test_a_schema_is_filled_from_the_text():
    schema = {
        "properties": {
            "customer": {"type": "string"},
            "quantity": {"type": "integer"},
            "price": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "size": {"$ref": "#/$defs/Size"},
            "urgent": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["customer", "quantity", "size"],
        "$defs": {"Size": {"enum": ["small", "large"]}},
    }
    text = (
        'Customer: Ada Lovelace\nquantity: 12, price = 0.5\nA large one. Tags: "red"\nurgent: yes'
    )
    assert fill(schema, text) == {
        "customer": "Ada Lovelace",
        "quantity": 12,
        "price": 0.5,
        "size": "large",
        "urgent": True,
        "tags": ["red"],
    }


def post(model: ModelServer, path: str, body: dict[str, Any]) -> Any:
    answer = httpx.post(model.url + path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(model: ModelServer, path: str, body: dict[str, Any]) -> list[Any]:
    text = httpx.post(model.url + path, json=body).text
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def function(kind: str) -> dict[str, Any]:
    return {"name": READ.name, "description": READ.description, kind: PATH}


def test_chat_completions_carry_calls_results_and_streams(model: ModelServer):
    path = "/v1/chat/completions"
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Read the text file a.txt"}]
    tools = [{"type": "function", "function": function("parameters")}]
    body = {"model": "any", "messages": messages, "tools": tools}
    called = post(model, path, body)["choices"][0]
    assert called["finish_reason"] == "tool_calls"
    (call,) = called["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"path": "a.txt"}
    first, *_, last = events(model, path, {**body, "stream": True})
    assert first["choices"][0]["delta"]["tool_calls"] == [{"index": 0, **call}]
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    messages += [called["message"]]
    messages += [{"role": "tool", "tool_call_id": call["id"], "content": "It is late."}]
    whole = post(model, path, body)
    assert whole["choices"][0]["message"]["content"] == "It is late."
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, end = events(model, path, {**body, **usage})
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == "It is late."
    assert end["usage"] == whole["usage"]


def test_chat_completions_fill_a_json_schema(model: ModelServer):
    schema = {"properties": {"number": {"type": "integer"}}, "required": ["number"]}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "Parcel 17 is here."}]}]
    body = {"model": "any", "messages": messages, "response_format": form}
    answer = post(model, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    assert json.loads(answer) == {"number": 17}


def test_responses_carry_calls_results_and_streams(model: ModelServer):
    path = "/v1/responses"
    given: list[dict[str, Any]] = [{"role": "user", "content": "Read the text file a.txt"}]
    body = {"model": "any", "input": given}
    body["tools"] = [{"type": "function", **function("parameters")}]
    (call,) = post(model, path, body)["output"]
    assert json.loads(call["arguments"]) == {"path": "a.txt"}
    kinds = [event["type"] for event in events(model, path, {**body, "stream": True})]
    assert "response.function_call_arguments.done" in kinds
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "It is late."}
    given += [call, output]
    (message,) = post(model, path, body)["output"]
    assert message["content"][0]["text"] == "It is late."
    streamed = events(model, path, {**body, "stream": True})
    pieces = [e["delta"] for e in streamed if e["type"] == "response.output_text.delta"]
    assert "".join(pieces) == "It is late."
    assert [event["sequence_number"] for event in streamed] == list(range(len(streamed)))


@pytest.mark.parametrize("kind", ["parameters", "parametersJsonSchema", "parameters_json_schema"])
def test_gemini_carries_calls_results_and_streams(model: ModelServer, kind: str):
    path = "/v1beta/models/any:generateContent"
    contents: list[dict[str, Any]] = [{"parts": [{"text": "Read the text file a.txt"}]}]
    body = {"contents": contents, "tools": [{"functionDeclarations": [function(kind)]}]}
    called = post(model, path, body)["candidates"][0]["content"]
    call = called["parts"][0]["functionCall"]
    assert call["args"] == {"path": "a.txt"}
    response = {"name": call["name"], "id": call["id"], "response": {"result": "It is late."}}
    contents += [called, {"role": "user", "parts": [{"functionResponse": response}]}]
    answer = post(model, path, body)["candidates"][0]["content"]["parts"][0]["text"]
    assert answer == "It is late."
    streamed = events(model, "/v1beta/models/any:streamGenerateContent?alt=sse", body)
    parts = [event["candidates"][0]["content"]["parts"][0]["text"] for event in streamed]
    assert "".join(parts) == answer


def test_tools_told_in_the_prompt_are_called_by_tags():
    system = (
        "Be brief.\n[AVAILABLE TOOLS REGISTRY]\nAvailable tools:\n"
        "\nread_text_file: Reads a file.\n  - path: string (required) - Which one."
    )
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": "[CURRENT_DATETIME: now]\n\nRead the text file a.txt"},
    ]
    answer = tagged.write(reply(tagged.read(messages)))
    assert "<tool_name>read_text_file</tool_name>" in answer
    assert "<path>a.txt</path>" in answer
    observed = '<observation tool_name="read_text_file#1">It is &lt;late&gt;.</observation>'
    messages += [
        {"role": "assistant", "content": answer},
        {"role": "user", "content": f"<observations>{observed}</observations>"},
    ]
    answer = tagged.write(reply(tagged.read(messages)))
    assert answer == "<final_answer>It is <late>.</final_answer>"


def test_what_it_does_not_understand_or_has_no_time_for_is_told_by_the_status():
    body = {"model": "any", "messages": [{"role": "user", "content": "Hello."}]}
    with ModelServer(busy=1) as model, httpx.Client(base_url=model.url) as client:
        busy = client.post("/v1/chat/completions", json=body)
        assert (busy.status_code, busy.headers["Retry-After"]) == (429, "1")
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert client.post("/v1/chat/completions", json={"model": "any"}).status_code == 400
        assert client.post("/v1/embeddings", json=body).status_code == 404
        assert client.get("/v1/models").json()["data"][0]["id"] == "stand-in"


def test_a_command_runs_with_it_and_its_end_is_the_commands_end(example: Example):
    asks = (
        "import os, httpx; body = {'model': 'any', 'input': 'Hello there.'};"
        "print(httpx.post(os.environ['OPENAI_BASE_URL'] + '/responses', json=body).status_code);"
        "raise SystemExit(7)"
    )
    program = example.start(
        sys.executable, "-m", "examples.model_server", sys.executable, "-c", asks
    )
    assert program.ended() == 7
    assert "200" in program.lines
    missing = example.start(sys.executable, "-m", "examples.model_server", "no-such-program")
    assert missing.ended() == 127


def test_the_readmes_install_what_is_tried(root: Path, groups: dict[str, list[str]]):
    for name, wanted in groups.items():
        page = (root / "examples" / name / "README.md").read_text(encoding="utf-8")
        assert "pip install -e . " + " ".join(f"'{line}'" for line in wanted) in page


def test_the_page_on_frameworks_shows_the_examples_as_they_are(root: Path):
    page = (root / "docs/frameworks.md").read_text(encoding="utf-8")
    shown = [line for line in page.splitlines() if line.startswith("<!-- file: ")]
    assert len(shown) >= 6
    for line in shown:
        path = line.split()[2]
        assert f"{line}\n```python\n{(root / path).read_text(encoding='utf-8')}```" in page
