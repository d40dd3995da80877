"""The delay of the event loop, where there is one."""

import asyncio
import time

from lavit_deploy.serving.http.loop_lag import LONGEST_LAG, LoopLag


def test_a_blocked_event_loop_is_late_and_recovers():
    async def main():
        lag = LoopLag()
        assert lag.seconds == 0.0
        lag.start()
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 - this is the fault
        assert lag.seconds > 0.2
        async with asyncio.timeout(30):
            while lag.seconds > LONGEST_LAG:  # noqa: ASYNC110 - nothing tells when it is
                await asyncio.sleep(0.01)
        await lag.stop()
        assert lag.seconds == 0.0

    asyncio.run(main())
