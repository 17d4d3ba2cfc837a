"""LangGraph: a conversation per correlation id, kept across restarts and workers."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from msgspec import Struct

from omnidaemon import App, Context

HOURS = {"library": "9:00 to 18:00", "museum": "10:00 to 17:00, not on Mondays"}


class Said(Struct):
    text: str


@tool
def opening_hours(place: Literal["library", "museum"]) -> str:
    """When a place in town is open."""
    return f"The {place} is open from {HOURS[place]}."


model = ChatOpenAI(model=os.environ.get("MODEL", "gpt-4.1-mini")).bind_tools([opening_hours])


async def ask_model(state: MessagesState) -> dict[str, Any]:
    """The node that asks the model, with all that was said."""
    system = SystemMessage("You help the visitors of a small town. Be brief.")
    return {"messages": [await model.ainvoke([system, *state["messages"]])]}


graph = StateGraph(MessagesState)
graph.add_node("model", ask_model)
graph.add_node("tools", ToolNode([opening_hours]))
graph.add_edge(START, "model")
graph.add_conditional_edges("model", tools_condition)
graph.add_edge("tools", "model")


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[Any]:
    """Compiles the graph onto the file where all workers of this machine keep conversations."""
    async with AsyncSqliteSaver.from_conn_string("conversations.db") as saver:
        yield graph.compile(checkpointer=saver)


app = App("langgraph", lifespan=lifespan)


@app.agent("visitor.said", consumers=4)
async def guide(said: Said, ctx: Context) -> str:
    """Answers a visitor, and knows what was said before."""
    # The correlation id is the conversation; without one, the event begins a new one.
    config = {"configurable": {"thread_id": ctx.correlation_id or ctx.id}}
    # With the event's id on it, a repeated run replaces the message and does not say it twice.
    message = HumanMessage(said.text, id=ctx.id)
    state = await ctx.state.ainvoke({"messages": [message]}, config)
    return str(state["messages"][-1].text)
