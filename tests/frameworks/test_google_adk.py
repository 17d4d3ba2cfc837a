"""The example with Google ADK: its MCP server really reads files; and the stand-in's stream."""

from __future__ import annotations

import secrets
import signal
from pathlib import Path

import pytest

from examples.model_server.server import ModelServer
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
    example.follow_readme("google_adk")


def test_the_file_is_read_by_the_mcp_server_which_ends_with_the_worker(tmp_path: Path, files: Path):
    secret = secrets.token_hex(8)
    (files / "note.txt").write_text(f"The word is {secret}.\n")
    with ModelServer(busy=1) as model, Example(tmp_path, model) as example:
        worker = example.worker("google_adk", FILES=str(files))
        assert example.ask("file_system.tasks", READ) == f"The word is {secret}.\n"
        assert secret in example.returned("read_text_file")[0]
        # The model was busy for the first run.
        assert example.record("file_system.tasks").attempts == 2
        outside = example.ask("file_system.tasks", {"prompt": "Read the text file ../secret.txt"})
        assert "access denied" in outside
        worker.send(signal.SIGTERM)
        assert worker.ended() == 0  # and so has the server: it writes to the same place
        assert "has drained" in worker.text


def test_the_classic_program_does_the_same(example: Example, files: Path):
    (files / "note.txt").write_text("It is late.\n")
    env = {**example.model.environment, "FILES": str(files)}
    program = example.start("python", "-m", "examples.google_adk.classic", **env)
    program.line("Listening to topics: file_system.tasks")
    assert example.ask("file_system.tasks", READ) == {"answer": "It is late.\n"}
    program.send(signal.SIGTERM)
    assert program.ended() == 0


@pytest.mark.filterwarnings("default")
def test_the_stand_in_streams_as_googles_client_reads_it(model: ModelServer):
    from google import genai

    client = genai.Client(api_key="none", http_options={"base_url": model.url})
    pieces = [
        piece.text
        for piece in client.models.generate_content_stream(
            model="gemini-2.5-flash", contents="Say that it is late."
        )
    ]
    assert "".join(pieces) == "I have understood: Say that it is late."
    assert len(pieces) > 5
