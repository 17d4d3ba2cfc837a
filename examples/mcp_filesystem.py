"""A small MCP server for the files below one folder: `python -m examples.mcp_filesystem FOLDER`.

It has three tools of the well-known `@modelcontextprotocol/server-filesystem`, with their names and
parameters, and needs no Node.js: only the package `mcp`.
"""

import sys
from pathlib import Path

import anyio

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
except ModuleNotFoundError:  # mcp 1, which OmniCoreAgent wants
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.server.fastmcp.exceptions import ToolError

server = MCPServer("filesystem")
root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()


def inside(path: str) -> Path:
    """The path below the folder; nothing outside of it is reached, by links either."""
    found = (root / path).resolve()
    if not found.is_relative_to(root):
        raise ToolError(f"access denied: {path} is outside of the folder")
    return found


@server.tool()
def read_text_file(path: str) -> str:
    """Read the contents of a text file."""
    file = inside(path)
    if not file.is_file():
        raise ToolError(f"there is no file {path}")
    return file.read_text(encoding="utf-8")


@server.tool()
def write_file(path: str, content: str) -> str:
    """Create a file, or overwrite it, with the content."""
    inside(path).write_text(content, encoding="utf-8")
    return f"Successfully wrote to {path}"


@server.tool()
def list_directory(path: str) -> str:
    """List the files and folders in a folder."""
    folder = inside(path)
    if not folder.is_dir():
        raise ToolError(f"there is no folder {path}")
    entries = sorted(folder.iterdir())
    return "\n".join(f"[{'DIR' if e.is_dir() else 'FILE'}] {e.name}" for e in entries)


if __name__ == "__main__":
    anyio.run(server.run_stdio_async)
