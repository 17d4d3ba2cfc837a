"""The example with LangGraph: its tool, its threads, and the stand-in read by LangChain."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.model_server.server import ModelServer
from tests.frameworks.conftest import Example

pytestmark = pytest.mark.timeout(400)


def test_its_readme_tells_what_happens(example: Example):
    example.follow_readme("langgraph")


def test_the_answer_comes_from_the_tool_that_the_graph_ran(example: Example):
    example.worker("langgraph")
    answer = example.ask("visitor.said", {"text": "When does the library open?"})
    assert example.returned("opening_hours") == [answer]
    assert "9:00 to 18:00" in answer


def test_a_conversation_goes_on_after_its_worker_was_killed(example: Example):
    killed = example.worker("langgraph")
    example.ask("visitor.said", {"text": "My name is Ada."}, correlation_id="visit-1")
    killed.process.kill()
    killed.process.wait()
    example.worker("langgraph")
    again = {"text": "What is my name?"}
    assert "Ada" in example.ask("visitor.said", again, correlation_id="visit-1")
    assert example.ask("visitor.said", again, correlation_id="visit-2") == "I do not know that."


def test_a_repeated_run_says_nothing_twice(tmp_path: Path):
    # OpenAI's client asks three times before it gives up, and the run with it.
    with ModelServer(busy=3) as model, Example(tmp_path, model) as example:
        example.worker("langgraph")
        example.ask("visitor.said", {"text": "I like tea."}, correlation_id="visit-1")
        assert example.record("visitor.said").attempts == 2
        example.ask("visitor.said", {"text": "What do I like?"}, correlation_id="visit-1")
        conversation = model.asked[-1]
        assert [*conversation.before, conversation.asked] == ["I like tea.", "What do I like?"]


@pytest.mark.filterwarnings("default")
def test_the_stand_in_streams_as_langchain_reads_it(model: ModelServer):
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(model="any", base_url=f"{model.url}/v1", api_key="none")
    pieces = [piece.text for piece in chat.stream("Say that it is late.")]
    assert "".join(pieces) == "I have understood: Say that it is late."
    assert len(pieces) > 5
