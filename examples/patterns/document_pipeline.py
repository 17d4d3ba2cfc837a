"""document.uploaded -> text.extracted -> analysis.completed: a pipeline that branches.

When: a document goes through steps, and a step has several agents. Facts are topics, named by what
has happened; whoever is interested listens.

Promised: each agent's result goes on in the step that settles its run, so once per agent, all with
the correlation id of the upload. Not promised: that the two analyses come in an order, or that the
file is still there; a missing one is a dead letter, to be replayed when it is back.

    omnidaemon worker examples.patterns.document_pipeline:app
    python -m examples.patterns.document_pipeline README.md
"""

import re
import sys
from collections import Counter
from pathlib import Path

import anyio
from msgspec import Struct

from omnidaemon import App, Context, Reject

# --8<-- [start:agent]
app = App("document-pipeline")


class Text(Struct):
    name: str
    words: list[str]


@app.agent("document.uploaded", reply_to="text.extracted")
async def extract(path: str) -> Text:
    """Reads the file; of one with over 1 MB of text, pass on where it lies instead of the words."""
    try:
        text = await anyio.Path(path).read_text("utf-8")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise Reject(f"{path}: {error}") from error
    return Text(Path(path).name, re.findall(r"\w+", text.lower()))


@app.agent("text.extracted", reply_to="analysis.completed")
async def measure(text: Text) -> dict[str, object]:
    return {"document": text.name, "words": len(text.words), "minutes": len(text.words) // 230}


@app.agent("text.extracted", reply_to="analysis.completed")
async def keywords(text: Text) -> dict[str, object]:
    long = Counter(word for word in text.words if len(word) > 6)
    return {"document": text.name, "keywords": [word for word, _ in long.most_common(5)]}


@app.agent("analysis.completed")
async def announce(analysis: dict[str, object], ctx: Context) -> dict[str, object]:
    """Gets both analyses, each as an event of its own."""
    return {**analysis, "upload": ctx.correlation_id}


# --8<-- [end:agent]


# --8<-- [start:publish]
async def main(path: Path = Path(__file__)) -> None:
    async with app:
        upload = await app.send("document.uploaded", str(path))
        await upload.result(timeout=20)
        found: list[object] = []
        with anyio.fail_after(20):
            while len(found) < 2:
                records = await app.tasks.newest("analysis.completed")
                found = [run.value for run in records if run.correlation_id == upload.id]
                await anyio.sleep(0.1)
    for analysis in found:
        print(analysis)


# --8<-- [end:publish]


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1] if sys.argv[1:] else __file__).resolve())
