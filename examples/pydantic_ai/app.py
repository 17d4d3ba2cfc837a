"""PydanticAI: orders read from mails into a validated model, and booked by the next agent."""

import os

from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelRetry, UnexpectedModelBehavior

from omnidaemon import App, Context

PRICES = {"paper clips": 0.05, "fountain pen": 24.90}

app = App("pydantic_ai")


class Mail(BaseModel):
    text: str


class Order(BaseModel):
    """An order as the books want it."""

    customer: str
    article: str
    quantity: int = Field(gt=0)
    price: float = Field(gt=0, description="of one piece")


clerk = Agent(
    f"openai:{os.environ.get('MODEL', 'gpt-4.1-mini')}",
    output_type=Order,
    instructions="Read the order in the mail. Look up the article's price; never invent one.",
    defer_model_check=True,  # the key is needed by the first run, not by the import
)


@clerk.tool_plain
def article_price(article: str) -> dict[str, float]:
    """The price of one piece of the article."""
    if article.lower() not in PRICES:
        raise ModelRetry(f"There is no such article; there are: {', '.join(PRICES)}.")
    return {"price": PRICES[article.lower()]}


# A model that does not manage the form, told so by PydanticAI, will not the next time either: that
# is a dead letter for a person to look at. A model that is down is tried again.
@app.agent("mail.received", give_up_on=(UnexpectedModelBehavior,), reply_to="order.read")
async def read_order(mail: Mail) -> Order:
    """Reads the order in a mail."""
    order: Order = (await clerk.run(mail.text)).output
    return order


@app.agent("order.read")
async def book(order: Order, ctx: Context) -> dict[str, object]:
    """Books an order; the mail's event id is its number, however often it is booked."""
    total = round(order.quantity * order.price, 2)
    return {"number": ctx.causation_id, "customer": order.customer, "total": total}
