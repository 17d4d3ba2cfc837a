"""The example with the OpenAI Agents SDK: hand-overs, tools, sessions, and a stream."""

from __future__ import annotations

import pytest

from examples.model_server.server import ModelServer
from tests.frameworks.conftest import Example

pytestmark = pytest.mark.timeout(400)


def test_its_readme_tells_what_happens(example: Example):
    example.follow_readme("openai_agents")


def test_the_desk_hands_over_and_the_specialist_uses_its_tool(example: Example):
    example.worker("openai_agents")
    answer = example.ask("support.asked", {"text": "Where is my order 1043?"})
    assert answer == {"text": "Order 1043 waits for its parts.", "by": "Orders"}
    assert example.returned("order_status") == [answer["text"]]
    assert [tool.name for tool in example.model.asked[0].tools] == [
        "transfer_to_orders",
        "transfer_to_returns",
    ]


def test_what_was_said_before_is_known_in_the_same_conversation_only(example: Example):
    example.worker("openai_agents")
    example.ask("support.asked", {"text": "Where is my order 1042?"}, correlation_id="ada")
    label = {"text": "I want a return label."}
    answer = example.ask("support.asked", label, correlation_id="ada")
    assert answer == {"text": "Your return label is R-1042.", "by": "Returns"}
    other = example.ask("support.asked", label, correlation_id="bob")
    assert other["by"] == "Returns"
    assert "1042" not in other["text"]


@pytest.mark.filterwarnings("default")
def test_the_stand_in_streams_as_openais_client_reads_it(model: ModelServer):
    from openai import OpenAI

    with OpenAI(base_url=f"{model.url}/v1", api_key="none") as client:
        with client.responses.stream(model="any", input="Say that it is late.") as stream:
            kinds = [event.type for event in stream]
            answer = stream.get_final_response().output_text
        assert [model.id for model in client.models.list()] == ["stand-in"]
    assert answer == "I have understood: Say that it is late."
    assert kinds.count("response.output_text.delta") > 5
