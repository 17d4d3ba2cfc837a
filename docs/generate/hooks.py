"""What mkdocs calls while it builds: adds the pages made from code, and looks at what came out."""

from __future__ import annotations

import logging
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.generate.commands import command_page
from docs.generate.routes import routes_page

logger = logging.getLogger("mkdocs.hooks.omnidaemon")  # a warning ends a strict build

_LOADED = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(?P<source>(?:https?:)?//[^\"' >]+)"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preload|preconnect|icon))[^>]*"
    r"\bhref=[\"']?(?P<link>(?:https?:)?//[^\"' >]+)"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the reference of the command line and of the HTTP API."""
    files.append(File.generated(config, "reference/commands.md", content=command_page()))
    files.append(File.generated(config, "reference/http.md", content=routes_page()))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:  # noqa: ARG001  mkdocs' own
    """Warns of a page that would load something from elsewhere."""
    for found in _LOADED.finditer(output):
        logger.warning("%s loads %s", page.file.src_uri, found["source"] or found["link"])
    return output
