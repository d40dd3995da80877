"""A runtime that breaks is opened again, and everything accepted is answered meanwhile."""

import asyncio

import numpy as np
import pytest

from event_loop import FOREVER, PATIENCE, entered, run
from lavit_deploy.common.errors import InferenceError
from lavit_deploy.serving.batching.backoff import Backoff
from lavit_deploy.serving.batching.batcher import Batcher, BatchLimits
from lavit_deploy.serving.batching.padding import PaddedSizes
from lavit_deploy.serving.batching.runtime_instance import FAILURES_UNTIL_BROKEN
from lavit_deploy.serving.errors import NotReadyError

SHORT = 0.05  # of a batch, where the test wants it to be too long


@pytest.fixture
def fresh(runtime):
    """Another runtime like the first, for what is opened again."""
    return type(runtime)()


@pytest.fixture
def make():
    """A batcher, and the outcomes of its restarts as a queue."""

    def build(*runtimes, reopen, delay=0.01, seconds=FOREVER, most=1):
        outcomes = asyncio.Queue()
        batcher = Batcher(
            runtimes,
            BatchLimits(
                sizes=PaddedSizes(1, most), max_wait=FOREVER, capacity=16, infer_seconds=seconds
            ),
            reopen=reopen,
            on_batch=lambda *_: None,
            on_restart=outcomes.put_nowait,
            backoff=lambda: Backoff(delay, delay),
        )
        return batcher, outcomes

    return build


async def one(batcher):
    with batcher.reserve(1) as places:
        return await places.infer(np.zeros((64, 64, 3), dtype=np.uint8))


async def break_it(batcher, runtime):
    runtime.failure = RuntimeError("device lost")
    for _ in range(FAILURES_UNTIL_BROKEN):
        with pytest.raises(InferenceError):
            await one(batcher)


def test_a_runtime_that_keeps_failing_is_closed_and_opened_again(make, runtime, fresh):
    async def main():
        batcher, outcomes = make(runtime, reopen=lambda: fresh)
        batcher.start()
        await break_it(batcher, runtime)
        assert await outcomes.get()
        assert runtime.closed
        assert fresh.batches == [1]  # the warm-up
        assert batcher.fault is None
        assert (await one(batcher)).batch == 1
        assert await batcher.close(PATIENCE)
        assert fresh.closed

    run(main)


def test_attempts_go_on_until_one_succeeds(make, runtime, fresh):
    attempts = []

    def reopen():
        attempts.append(len(attempts))
        if len(attempts) == 1:
            raise OSError("no such device")
        fresh.failure = RuntimeError("not yet") if len(attempts) == 2 else None
        return fresh

    async def main():
        batcher, outcomes = make(runtime, reopen=reopen)
        batcher.start()
        await break_it(batcher, runtime)
        assert [await outcomes.get() for _ in range(3)] == [False, False, True]
        assert len(attempts) == 3
        assert (await one(batcher)).batch == 1
        await batcher.close(PATIENCE)

    run(main)


def test_while_it_is_broken_pictures_are_refused(make, runtime, fresh):
    async def main():
        batcher, _ = make(runtime, reopen=lambda: fresh, delay=FOREVER)
        batcher.start()
        await break_it(batcher, runtime)
        assert batcher.working == 0
        assert batcher.fault.startswith(f"the last {FAILURES_UNTIL_BROKEN} batches failed")
        with pytest.raises(NotReadyError, match="opened again"):
            await one(batcher)
        await batcher.close(PATIENCE)

    run(main)


def test_a_batch_that_hangs_is_answered_and_those_behind_it_run_in_the_new_runtime(
    make, runtime, fresh
):
    runtime.held = True

    async def main():
        batcher, outcomes = make(runtime, reopen=lambda: fresh, seconds=SHORT)
        batcher.start()
        hangs = asyncio.create_task(one(batcher))
        await entered(runtime)
        waiting = [asyncio.create_task(one(batcher)) for _ in range(3)]
        with pytest.raises(InferenceError):
            await hangs
        assert await outcomes.get()
        assert [answer.batch for answer in await asyncio.gather(*waiting)] == [1, 1, 1]
        assert not runtime.closed  # the thread that hangs still has it
        runtime.let_go()
        while not runtime.closed:  # noqa: ASYNC110 - in another thread, which no event tells of
            await asyncio.sleep(0.001)
        assert await batcher.close(PATIENCE)

    run(main)


def test_what_waits_is_refused_where_the_runtime_cannot_be_opened_again(make, runtime):
    runtime.held = True

    def reopen():
        raise OSError("no such device")

    async def main():
        batcher, outcomes = make(runtime, reopen=reopen, seconds=SHORT)
        batcher.start()
        hangs = asyncio.create_task(one(batcher))
        await entered(runtime)
        waiting = [asyncio.create_task(one(batcher)) for _ in range(3)]
        assert not await outcomes.get()
        results = await asyncio.gather(hangs, *waiting, return_exceptions=True)
        assert [type(result) for result in results] == [InferenceError, *[NotReadyError] * 3]
        runtime.let_go()
        await batcher.close(PATIENCE)

    run(main)


def test_one_broken_instance_leaves_the_others_at_work(make, runtime, fresh):
    async def main():
        batcher, _ = make(runtime, fresh, reopen=lambda: runtime, delay=FOREVER)
        batcher.start()
        await break_it(batcher, runtime)
        assert (batcher.working, batcher.fault) == (1, None)
        assert (await one(batcher)).batch == 1
        assert fresh.batches == [1]
        await batcher.close(PATIENCE)

    run(main)


def test_the_batching_task_comes_back_after_a_fault_of_ours(make, runtime, monkeypatch):
    async def main():
        batcher, outcomes = make(runtime, reopen=lambda: runtime)

        def broken(_):
            raise AssertionError("a fault of ours")

        with monkeypatch.context() as patch:
            patch.setattr(batcher._pool, "assemble", broken)
            batcher.start()
            with pytest.raises(NotReadyError):
                await one(batcher)
        assert await outcomes.get()
        assert batcher.fault is None
        assert (await one(batcher)).batch == 1
        await batcher.close(PATIENCE)

    run(main)


def test_closing_does_not_wait_for_a_runtime_that_does_not_come_back(make, runtime):
    def reopen():
        raise OSError("no such device")

    async def main():
        batcher, _ = make(runtime, reopen=reopen, delay=FOREVER)
        batcher.start()
        await break_it(batcher, runtime)
        await batcher.close(PATIENCE)
        assert runtime.closed

    run(main)


def test_batches_run_at_the_same_time_on_every_instance(make, runtime, fresh):
    runtime.held = fresh.held = True

    async def main():
        batcher, _ = make(runtime, fresh, reopen=lambda: runtime)
        batcher.start()
        tasks = [asyncio.create_task(one(batcher)) for _ in range(2)]
        await entered(runtime)
        await entered(fresh)  # although the other has not answered
        runtime.let_go()
        fresh.let_go()
        await asyncio.gather(*tasks)
        assert await batcher.close(PATIENCE)
        assert runtime.closed
        assert fresh.closed

    run(main)


def test_a_lone_picture_does_not_wait_while_another_instance_is_idle(make, runtime, fresh):
    runtime.held = True

    async def main():
        batcher, _ = make(runtime, fresh, reopen=lambda: runtime)
        batcher.start()
        busy = asyncio.create_task(one(batcher))
        await entered(runtime)
        assert (await one(batcher)).batch == 1
        assert fresh.batches == [1]
        assert not busy.done()
        runtime.let_go()
        await busy
        await batcher.close(PATIENCE)

    run(main)


def test_a_batch_that_is_assembled_goes_to_whichever_instance_is_idle_first(make, runtime, fresh):
    runtime.held = fresh.held = True

    async def main():
        batcher, _ = make(runtime, fresh, reopen=lambda: runtime)
        batcher.start()
        tasks = [asyncio.create_task(one(batcher)) for _ in range(3)]
        await entered(runtime)
        await entered(fresh)
        fresh.let_go(2)
        await entered(fresh)
        assert (runtime.batches, fresh.batches) == ([1], [1, 1])
        runtime.let_go()
        await asyncio.gather(*tasks)
        await batcher.close(PATIENCE)

    run(main)


@pytest.mark.parametrize(("pictures", "shares"), [(2, [1, 1]), (4, [2, 2]), (12, [6, 6])])
def test_idle_instances_share_the_pictures_that_wait(make, runtime, fresh, pictures, shares):
    async def main():
        batcher, _ = make(runtime, fresh, reopen=lambda: runtime, most=8)
        batcher.start()
        await asyncio.gather(*(one(batcher) for _ in range(pictures)))
        assert sorted(runtime.batches + fresh.batches) == shares
        await batcher.close(PATIENCE)

    run(main)
