"""The same agent with the classic SDK: `python -m examples.google_adk.classic`."""

import asyncio
from typing import Any

from examples.google_adk.clerk import answer, file_clerk
from omnidaemon import AgentConfig, OmniDaemonSDK, SubscriptionConfig

sdk = OmniDaemonSDK()


async def main() -> None:
    clerk = file_clerk()

    async def do_file_task(message: dict[str, Any]) -> dict[str, str]:
        """Does a task on the files."""
        user = message["tenant_id"] or "someone"
        return {"answer": await answer(clerk, message["content"]["prompt"], user)}

    await sdk.register_agent(
        agent_config=AgentConfig(
            topic="file_system.tasks",
            callback=do_file_task,
            name="file_clerk",
            description="Does tasks on files",
            tools=["read_text_file", "write_file", "list_directory"],
            config=SubscriptionConfig(consumer_count=2, max_retries=3),
        )
    )
    await sdk.start()
    try:
        await asyncio.Event().wait()
    finally:
        await sdk.shutdown()
        await clerk.close()


if __name__ == "__main__":
    asyncio.run(main())
