"""A help desk that looks things up, and what becomes of a question when that fails."""

from pathlib import Path

from msgspec import Struct

from omnidaemon import App, Backoff, Context, Reject, Retry

app = App("desk")


class Question(Struct):
    customer: str
    text: str


@app.agent("question.asked", retries=2, backoff=Backoff(initial=0.5))
def answer(question: Question, ctx: Context) -> str:
    """Answers from the price list, which somebody has to write first."""
    if not question.text.strip():
        raise Reject("there is nothing to answer")
    if "weather" in question.text and ctx.attempt == 1:
        raise Retry("the weather service is busy", delay=2)
    prices = Path("prices.txt").read_text()
    return f"{question.customer}, here are our prices: {prices.strip()}"
