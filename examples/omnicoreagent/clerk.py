"""The agent of OmniCoreAgent: it looks after a folder's files with the tools of an MCP server."""

import os
import shlex
import sys
from pathlib import Path

from omnicoreagent import OmniCoreAgent

FOLDER = Path(os.environ.get("FILES", "examples/files")).resolve()
SERVER = os.environ.get("MCP_FILESYSTEM", f"{sys.executable} -m examples.mcp_filesystem")


def file_clerk() -> OmniCoreAgent:
    """Makes it; `connect_mcp_servers` starts its MCP server, and `cleanup` ends it."""
    command, *arguments = shlex.split(SERVER)
    return OmniCoreAgent(
        name="file_clerk",
        system_instruction=f"You look after the files in {FOLDER}. Use the tools; never guess.",
        model_config={"provider": "openai", "model": os.environ.get("MODEL", "gpt-4.1-mini")},
        mcp_tools=[
            {
                "name": "filesystem",
                "transport_type": "stdio",
                "command": command,
                "args": [*arguments, str(FOLDER)],
            }
        ],
        agent_config={"max_steps": 8},
    )


async def answer(clerk: OmniCoreAgent, prompt: str, session: str) -> str:
    """Runs the agent; it knows what was said in the session before.

    Raises:
        RuntimeError: It did not come to an answer.
    """
    result = await clerk.run(prompt, session_id=session)
    answer: str | None = result["response"]
    # It tells its failures as answers, or has none. Raised, they are retried.
    if not answer or answer.startswith(("Model encountered an error", "[SYSTEM_CONTEXT:")):
        raise RuntimeError(answer or "the agent came to no answer")
    return answer
