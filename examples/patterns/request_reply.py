"""Request-reply: publish an event and wait for what the agent returns.

When: the caller cannot go on without the answer, and the answer comes soon.

Promised: the request is stored before the wait begins, so it is answered even if the caller has
gone. Not promised: an answer in time. `ResultTimeout` says only that this wait has ended; the task
goes on, and its result can be asked for again, for a day. With agents of several names on the topic
the first success is the answer.

    omnidaemon worker examples.patterns.request_reply:app
    python -m examples.patterns.request_reply
"""

import anyio
from msgspec import Struct

from omnidaemon import App, Reject, ResultTimeout, TaskFailed

# --8<-- [start:agent]
app = App("request-reply")

CENTS = {"lamp": 2950, "bulb": 499}


class Wish(Struct):
    product: str
    count: int = 1


@app.agent("quote.wanted")
async def quote(wish: Wish) -> dict[str, object]:
    """Names a price; ten or more are 10 % cheaper."""
    if wish.product not in CENTS:
        raise Reject(f"there is no {wish.product!r} in the price list")
    cents = CENTS[wish.product] * wish.count
    return {"product": wish.product, "cents": cents * 9 // 10 if wish.count >= 10 else cents}


# --8<-- [end:agent]


# --8<-- [start:publish]
async def main() -> None:
    async with app:
        print(await app.request("quote.wanted", Wish("bulb", 10), timeout=20))
        try:
            await app.request("quote.wanted", Wish("unicorn"), timeout=20)
        except TaskFailed as error:  # every agent gave it up; it is a dead letter now
            print(f"no quote: {error.causes['quote']}")
        task = await app.send("quote.wanted", Wish("lamp"), delay=1)
        try:
            print(await task.result(timeout=0.1))
        except ResultTimeout:
            print(f"not yet; asking again for {await task.result(timeout=20)}")


# --8<-- [end:publish]


if __name__ == "__main__":
    anyio.run(main)
