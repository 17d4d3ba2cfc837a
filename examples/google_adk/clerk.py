"""The agent of Google ADK: it looks after a folder's files with the tools of an MCP server."""

import os
import shlex
import sys
from pathlib import Path

from google.adk.agents import LlmAgent
from google.adk.runners import InMemoryRunner
from google.adk.tools.mcp_tool import McpToolset, StdioConnectionParams
from google.genai.types import Content, Part
from mcp import StdioServerParameters

FOLDER = Path(os.environ.get("FILES", "examples/files")).resolve()
SERVER = os.environ.get("MCP_FILESYSTEM", f"{sys.executable} -m examples.mcp_filesystem")


def file_clerk() -> InMemoryRunner:
    """Makes it; its MCP server starts with the first task, and ends with `close`."""
    command, *arguments = shlex.split(SERVER)
    server = StdioServerParameters(command=command, args=[*arguments, str(FOLDER)])
    files = McpToolset(connection_params=StdioConnectionParams(server_params=server, timeout=30))
    agent = LlmAgent(
        name="file_clerk",
        model=os.environ.get("MODEL", "gemini-2.5-flash"),
        instruction=f"You look after the files in {FOLDER}. Use the tools; never guess.",
        tools=[files],
    )
    return InMemoryRunner(agent=agent, app_name="file_system")


async def answer(clerk: InMemoryRunner, prompt: str, user: str) -> str:
    """Runs the agent in a session of its own, so that a repeated run starts afresh."""
    sessions, app_name = clerk.session_service, clerk.app_name
    session = await sessions.create_session(app_name=app_name, user_id=user)
    message = Content(role="user", parts=[Part(text=prompt)])
    answer = ""
    try:
        async for event in clerk.run_async(
            user_id=user, session_id=session.id, new_message=message
        ):
            if event.error_code:  # raised, it is retried
                raise RuntimeError(f"the model failed: {event.error_code} {event.error_message}")
            if event.is_final_response() and event.content and event.content.parts:
                answer = "".join(part.text or "" for part in event.content.parts)
    finally:
        await sessions.delete_session(app_name=app_name, user_id=user, session_id=session.id)
    return answer
