"""Asks the help desk, from another program."""

import asyncio

from desk import app


async def main() -> None:
    async with app:
        task = await app.send("question.asked", {"customer": "Ada", "text": "Do you ship?"})
        print(task.id)
        print(await task.result(timeout=10))


asyncio.run(main())
