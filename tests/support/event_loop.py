"""Runs a test's coroutine, and what such tests wait for; nothing takes as long as the patience."""

import asyncio

PATIENCE = 30.0
"""Seconds until a wait counts as a hang."""

FOREVER = 3600.0
"""Seconds that no test would survive: for a limit that must not matter."""


def run(main):
    """Run `main()` on an event loop of its own."""

    async def limited():
        async with asyncio.timeout(PATIENCE):
            await main()

    asyncio.run(limited())


async def settled():
    """Let every task that can run, run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def entered(runtime):
    """Wait until a call has reached a held runtime."""
    assert await asyncio.to_thread(runtime.entered.acquire, timeout=PATIENCE)
