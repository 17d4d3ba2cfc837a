"""The classic SDK: `python classic_sdk.py` serves an agent, `python classic_sdk.py Ada` asks it."""

import asyncio
import sys
from typing import Any

from omnidaemon import (
    AgentConfig,
    EventEnvelope,
    OmniDaemonSDK,
    PayloadBase,
    SubscriptionConfig,
)

sdk = OmniDaemonSDK()


async def greet(message: dict[str, Any]) -> dict[str, str]:
    """Greets whoever the event names."""
    return {"greeting": f"Hello, {message['content']['name']}!"}


async def serve() -> None:
    await sdk.register_agent(
        agent_config=AgentConfig(
            topic="greet.user",
            callback=greet,
            name="greeter",
            description="Greets people",
            config=SubscriptionConfig(consumer_count=3, max_retries=2),
        )
    )
    await sdk.start()
    try:
        while True:
            await asyncio.sleep(3600)
    finally:
        await sdk.shutdown()


async def ask(name: str) -> None:
    event = EventEnvelope(topic="greet.user", payload=PayloadBase(content={"name": name}))
    task_id = await sdk.publish_task(event_envelope=event)
    while (record := await sdk.get_result(task_id)) is None:
        await asyncio.sleep(0.1)
    print(record["result"]["greeting"])


if __name__ == "__main__":
    asyncio.run(ask(sys.argv[1]) if sys.argv[1:] else serve())
