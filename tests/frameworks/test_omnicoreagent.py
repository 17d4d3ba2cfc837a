"""The example with OmniCoreAgent: its MCP server really reads files; failures are failures."""

from __future__ import annotations

import secrets
import signal
from pathlib import Path

import pytest

from tests.frameworks.conftest import Example

pytestmark = pytest.mark.timeout(400)

READ = {"prompt": "Read the text file note.txt"}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of the test's own."""
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


def test_its_readme_tells_what_happens(example: Example):
    example.follow_readme("omnicoreagent")


def test_the_classic_program_reads_the_file_by_its_mcp_server_which_ends_with_it(
    example: Example, files: Path
):
    secret = secrets.token_hex(8)
    (files / "note.txt").write_text(f"The word is {secret}.\n")
    env = {**example.model.environment, "FILES": str(files)}
    program = example.start("python", "-m", "examples.omnicoreagent.classic", **env)
    program.line("Listening to topics: file_system.tasks")
    answer = example.ask("file_system.tasks", READ, correlation_id="talk-1")
    assert answer == {"answer": f"The word is {secret}."}
    assert secret in example.returned("read_text_file")[0]
    program.send(signal.SIGTERM)
    assert program.ended() == 0  # which waits for the server as well: it writes to the same place


def test_a_model_that_fails_is_a_failure_and_not_an_answer(example: Example, files: Path):
    # Nothing listens below this path, so the model answers 404.
    example.worker("omnicoreagent", FILES=str(files), OPENAI_BASE_URL=f"{example.model.url}/v2")
    example.send("file_system.tasks", READ)
    cause = example.record("file_system.tasks", "failed").cause
    assert cause is not None
    assert cause.type == "RuntimeError"
