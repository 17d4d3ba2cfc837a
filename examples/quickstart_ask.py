"""Publishes to the agent of the quickstart and waits for its result."""

import asyncio

from examples.quickstart import app


async def main() -> None:
    async with app:
        task = await app.send("greet.user", {"name": "Alice"})
        print(task.id, await task.result(timeout=5))


asyncio.run(main())
