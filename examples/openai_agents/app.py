"""OpenAI Agents SDK: a support desk that hands over to specialists; sessions by correlation id."""

import os

from agents import Agent, Runner, SQLiteSession, function_tool
from msgspec import Struct

from omnidaemon import App, Context

MODEL = os.environ.get("MODEL", "gpt-4.1-mini")
SHIPPED = {1042: "left the warehouse on Monday", 1043: "waits for its parts"}

app = App("openai_agents")


class Question(Struct):
    text: str


class Answer(Struct):
    text: str
    by: str


@function_tool
def order_status(order_id: int) -> str:
    """Where an order is."""
    return f"Order {order_id} {SHIPPED.get(order_id, 'is not known here')}."


@function_tool
def return_label(order_id: int) -> str:
    """Makes a label with which an order can be sent back."""
    return f"Your return label is R-{order_id}."


orders = Agent(
    name="Orders",
    handoff_description="Knows where orders are.",
    instructions="Say where the customer's order is.",
    tools=[order_status],
    model=MODEL,
)
returns = Agent(
    name="Returns",
    handoff_description="Takes orders back.",
    instructions="Help the customer to send an order back.",
    tools=[return_label],
    model=MODEL,
)
desk = Agent(
    name="Desk",
    instructions="You are the support desk. Hand over to the specialist who can help.",
    handoffs=[orders, returns],
    model=MODEL,
)


@app.agent("support.asked", consumers=4, timeout=120)
async def support(question: Question, ctx: Context) -> Answer:
    """Answers a customer, who may come back to what was said before."""
    session = SQLiteSession(ctx.correlation_id or ctx.id, "support.db")
    try:
        result = await Runner.run(desk, question.text, session=session)
    finally:
        session.close()
    return Answer(str(result.final_output), by=result.last_agent.name)
