"""A help desk whose answers go on: to a check, and from there to mail and archive."""

from msgspec import Struct

from omnidaemon import App, Context

app = App("desk")


class Question(Struct):
    customer: str
    text: str


class Draft(Struct):
    customer: str
    answer: str


@app.agent("question.asked", reply_to="answer.drafted")
async def answer(question: Question) -> Draft:
    """Drafts an answer."""
    return Draft(question.customer, f"About {question.text!r}: yes.")


@app.agent("answer.drafted", reply_to="answer.approved")
async def check(draft: Draft) -> Draft | None:
    """Lets short answers through; the others go no further."""
    return draft if len(draft.answer) < 200 else None


@app.agent("answer.approved")
async def mail(draft: Draft, ctx: Context) -> str:
    """Sends the answer to the customer."""
    print(f"To {draft.customer}: {draft.answer} ({ctx.correlation_id})")
    return "sent"


@app.agent("answer.approved")
async def archive(draft: Draft) -> int:
    """Keeps the answer."""
    return len(draft.answer)
