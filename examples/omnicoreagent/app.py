"""OmniCoreAgent: tasks on files, published as events and done by an agent with MCP tools."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct

from examples.omnicoreagent.clerk import answer, file_clerk
from omnidaemon import App, Context


class Task(Struct):
    prompt: str


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[Any]:
    """Keeps one agent, and its MCP server, for all runs of the worker."""
    clerk = file_clerk()
    await clerk.connect_mcp_servers()
    try:
        yield clerk
    finally:
        await clerk.cleanup()


app = App("omnicoreagent", lifespan=lifespan)


@app.agent("file_system.tasks", consumers=2, timeout=300)
async def do_file_task(task: Task, ctx: Context) -> str:
    """Does a task on the files; events of one correlation id are one session."""
    return await answer(ctx.state, task.prompt, session=ctx.correlation_id or ctx.id)
