"""Plain Python: an agent that asks a model over HTTP, and one that files what it answers."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from msgspec import Struct

from omnidaemon import App, Context, Reject, Retry

MODEL = os.environ.get("MODEL", "gpt-4.1-mini")
FOLDER = Path("summaries")


class Article(Struct):
    title: str
    text: str


class Summary(Struct):
    title: str
    summary: str


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Opens one client for all runs of the worker."""
    base_url = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=60) as client:
        yield client


app = App("plain", lifespan=lifespan)


@app.agent("article.written", consumers=4, reply_to="summary.ready")
async def summarize(article: Article, ctx: Context) -> Summary:
    """Sums an article up in one sentence."""
    question = f"Sum this article up in one sentence:\n{article.text}"
    request = {"model": MODEL, "messages": [{"role": "user", "content": question}]}
    response = await ctx.state.post("/chat/completions", json=request)
    if response.status_code == 429:
        # Not the event's fault: it comes back when the model wants it, and no retry is used up.
        delay = float(response.headers.get("Retry-After", 10))
        raise Retry("the model is busy", delay=delay, charged=False)
    if response.status_code in (400, 401, 403, 404):
        # It would be the same the next time: a dead letter at once.
        raise Reject(f"the model refuses: {response.status_code} {response.text}")
    response.raise_for_status()  # anything else is retried
    return Summary(article.title, response.json()["choices"][0]["message"]["content"])


@app.agent("summary.ready")
def file(summary: Summary, ctx: Context) -> str:
    """Writes the summary to a file named by the event's id: a repeated run writes the same one."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{ctx.id}.md"
    path.write_text(f"# {summary.title}\n\n{summary.summary}\n", encoding="utf-8")
    return str(path)
