"""A request that is cancelled is counted; whatever else goes wrong is not touched."""

import asyncio

import pytest

from lavit_deploy.serving.process.abandoned import AbandonedRequests


def ask(application, kind="http"):
    async def main():
        app = AbandonedRequests(application)
        task = asyncio.create_task(app({"type": kind}, None, None))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return app.count, task.cancelled()

    return asyncio.run(main())


async def waits(scope, receive, send):
    await asyncio.Event().wait()


async def answers(scope, receive, send):
    """Has no time to be cancelled in."""


def test_a_request_that_is_cancelled_is_counted_and_ends():
    assert ask(waits) == (1, False)


def test_an_answered_one_is_not_counted():
    assert ask(answers) == (0, False)


def test_the_lifespan_is_no_request():
    assert ask(waits, "lifespan") == (0, True)


def test_a_fault_is_passed_on():
    async def fails(scope, receive, send):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(AbandonedRequests(fails)({"type": "http"}, None, None))
