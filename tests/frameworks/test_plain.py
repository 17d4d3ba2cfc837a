"""The example in plain Python: what it does with a model that answers, refuses, or is busy."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.model_server.server import ModelServer
from omnidaemon import TaskFailed
from tests.frameworks.conftest import Example

pytestmark = pytest.mark.timeout(400)

TEXT = "Salt is a mineral. Most salt is mined as rock salt. It is white."


def test_its_readme_tells_what_happens(example: Example):
    example.follow_readme("plain")


def test_a_summary_is_filed_by_the_next_agent(example: Example):
    example.worker("plain")
    summary = "Most salt is mined as rock salt."
    answer = example.ask("article.written", {"title": "Salt", "text": TEXT})
    assert answer == {"title": "Salt", "summary": summary}
    file = example.clone / example.record("summary.ready").value
    assert file.read_text(encoding="utf-8") == f"# Salt\n\n{summary}\n"
    (asked,) = example.model.asked
    assert asked.asked.endswith(TEXT)


def test_a_busy_model_is_asked_again_and_no_retry_is_used_up(tmp_path: Path):
    with ModelServer(busy=2) as model, Example(tmp_path, model) as example:
        example.worker("plain")
        assert example.ask("article.written", {"title": "Salt", "text": TEXT})["title"] == "Salt"
        assert len(model.asked) == 3
        assert example.record("article.written").attempts == 1


def test_a_request_that_the_model_will_not_take_is_a_dead_letter_at_once(example: Example):
    # Nothing listens below this path, so the answer is 404.
    example.worker("plain", OPENAI_BASE_URL=f"{example.model.url}/v2")
    with pytest.raises(TaskFailed, match="the model refuses: 404"):
        example.ask("article.written", {"title": "Salt", "text": TEXT})
