"""The moderator: judges a file by rules, and by a model if there is one; moves what is bad."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import anyio.to_thread
import msgspec

from examples.content_moderation.opinion import NoOpinion, ask
from examples.content_moderation.pii import pii
from examples.content_moderation.reading import Content, NotAFile, read
from examples.content_moderation.state import State
from examples.content_moderation.tools import hate, profanity, spam
from examples.content_moderation.values import (
    REVIEWS,
    TASKS,
    FileTask,
    Finding,
    Verdict,
    decide,
    stricter,
)
from omnidaemon import AgentRouter, Context, Reject, Retry

logger = logging.getLogger(__name__)

TOOLS = (spam, profanity, pii, hate)
PATIENCE = 3
"""Runs in which a model that does not answer is waited for; after them, a person decides."""

router = AgentRouter()


def examine(content: Content) -> list[Finding]:
    """What all tools see; a file that nobody can read is itself a finding."""
    if content.text is None:
        return [Finding("reading", "unreadable", "medium", content.why_none)]
    return [finding for tool in TOOLS for finding in tool(content.text)]


@router.agent(
    TASKS,
    name="moderator",
    reply_to=REVIEWS,
    consumers=4,
    retries=5,
    tools=[tool.__name__ for tool in TOOLS],
)
async def moderate(task: FileTask, ctx: Context) -> Verdict | None:
    """Judges a file; its verdict goes to the reviewer in the step that settles the run."""
    state: State = ctx.state
    # A run of this very event may have moved the file and been killed before it was settled.
    earlier = await anyio.to_thread.run_sync(state.quarantine.find, ctx.id)
    if earlier is not None:
        return earlier
    path = _allowed(task.path, state)
    try:
        content = await anyio.to_thread.run_sync(read, path)
    except FileNotFoundError:
        logger.info("task %s: the file is gone, there is nothing to judge", ctx.id)
        return None
    except NotAFile as error:
        raise Reject(str(error)) from error
    findings = await anyio.to_thread.run_sync(examine, content)
    verdict = Verdict(
        ctx.id, str(path), content.sha256, decide(findings), findings, time.time(),
        metadata=task.metadata,
    )  # fmt: skip
    if verdict.action != "quarantine" and content.text is not None:
        verdict = await with_second_opinion(verdict, content.text, ctx)
    if verdict.action == "quarantine":
        verdict = await anyio.to_thread.run_sync(state.quarantine.put, content, verdict)
    state.counters.judged(verdict)
    return verdict


def _allowed(path: str, state: State) -> Path:
    """Whoever can publish could have any file moved away, if no folders are named."""
    file = Path(path)
    if not file.is_absolute():
        raise Reject(f"{path!r} is not absolute: the agent runs in a folder of its own")
    folders = state.settings.folders
    place = file.parent.resolve() / file.name  # the file itself may be a link: `read` refuses it
    if folders and not any(place.is_relative_to(folder) for folder in folders):
        raise Reject(f"{path} lies in none of MODERATION_FOLDERS")
    return place


async def with_second_opinion(verdict: Verdict, text: str, ctx: Context) -> Verdict:
    """The verdict after the model was asked, if there is one: as strict, or stricter."""
    state: State = ctx.state
    if state.settings.model is None:
        return verdict
    try:
        opinion = await ask(state.client, state.settings.model, text)
    except NoOpinion as error:
        if ctx.attempt < PATIENCE:
            raise Retry(str(error)) from error
        action, said = stricter(verdict.action, "review"), f"none: {error}"
    else:
        action = stricter(verdict.action, opinion.action)
        said = f"{opinion.action}: {opinion.reason}"
    return msgspec.structs.replace(verdict, action=action, second_opinion=said)
