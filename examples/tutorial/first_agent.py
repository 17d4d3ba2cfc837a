"""A help desk with one agent: `omnidaemon worker desk:app` runs it."""

from msgspec import Struct

from omnidaemon import App

app = App("desk")


class Question(Struct):
    customer: str
    text: str


@app.agent("question.asked")
async def answer(question: Question) -> dict[str, str]:
    """Answers a customer's question."""
    # Call your model, chain or agent here.
    return {"customer": question.customer, "answer": f"About {question.text!r}: yes."}
