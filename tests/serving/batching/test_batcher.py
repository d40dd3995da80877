"""When batches leave, what they hold, and that everything accepted is answered."""

import asyncio

import numpy as np
import pytest

from event_loop import FOREVER, PATIENCE, entered, run, settled
from lavit_deploy.common.errors import InferenceError
from lavit_deploy.serving.batching.backoff import Backoff
from lavit_deploy.serving.batching.batcher import Batcher, BatchLimits
from lavit_deploy.serving.batching.padding import PaddedSizes
from lavit_deploy.serving.batching.runtime_instance import FAILURES_UNTIL_BROKEN
from lavit_deploy.serving.errors import NotReadyError, OverloadedError


def black():
    return np.zeros((64, 64, 3), dtype=np.uint8)


def make(runtime, **changes):
    batcher, batches, _ = make_several([runtime], **changes)
    return batcher, batches


def make_several(
    runtimes, *, min_batch=1, max_batch=4, reopen=None, delay=FOREVER, milliseconds=None, **changes
):
    """A batcher, the sizes of its batches, and the outcomes of its restarts, as they come."""
    batches, restarts = [], []
    limits = {"max_wait": FOREVER, "capacity": 16, "infer_seconds": FOREVER, **changes}
    batcher = Batcher(
        runtimes,
        BatchLimits(sizes=PaddedSizes(min_batch, max_batch, milliseconds or {}), **limits),
        reopen=reopen or (lambda: runtimes[0]),
        on_batch=lambda size, _: batches.append(size),
        on_restart=restarts.append,
        backoff=lambda: Backoff(delay, delay),
    )
    return batcher, batches, restarts


async def one(batcher, pixels=None):
    with batcher.reserve(1) as places:
        return await places.infer(black() if pixels is None else pixels)


def test_a_lone_picture_does_not_wait_when_the_runtime_is_idle(runtime):
    async def main():
        batcher, _ = make(runtime)  # it may wait an hour, but it must not
        batcher.start()
        assert (await one(batcher)).batch == 1
        assert await batcher.close(PATIENCE)

    run(main)


def test_pictures_that_arrive_while_the_runtime_is_busy_leave_together(runtime):
    runtime.held = True

    async def main():
        batcher, batches = make(runtime)
        batcher.start()
        first = asyncio.create_task(one(batcher))
        await entered(runtime)
        rest = [asyncio.create_task(one(batcher)) for _ in range(3)]
        await settled()
        assert batcher.depth == 3
        runtime.let_go(2)
        await asyncio.gather(first, *rest)
        assert runtime.batches == batches == [1, 3]
        assert await batcher.close(PATIENCE)

    run(main)


def test_a_full_batch_goes_at_once_although_more_pictures_are_coming(runtime):
    async def main():
        batcher, _ = make(runtime)
        batcher.start()
        with batcher.reserve(5) as places:  # one of them never arrives
            answers = await asyncio.gather(*(places.infer(black()) for _ in range(4)))
        assert [answer.batch for answer in answers] == [4, 4, 4, 4]
        assert await batcher.close(PATIENCE)

    run(main)


def test_a_picture_waits_for_one_that_is_being_decoded(runtime):
    async def main():
        batcher, _ = make(runtime)
        batcher.start()
        with batcher.reserve(2) as places:
            early = asyncio.create_task(places.infer(black()))
            await settled()
            assert runtime.batches == []
            late = await places.infer(black())
            assert (await early).batch == late.batch == 2
        assert await batcher.close(PATIENCE)

    run(main)


def test_a_picture_stops_waiting_when_the_other_cannot_be_decoded(runtime):
    async def main():
        batcher, _ = make(runtime)
        batcher.start()
        with batcher.reserve(2) as places:
            early = asyncio.create_task(places.infer(black()))
            await settled()
            places.cancel_one()
            assert (await early).batch == 1
        assert await batcher.close(PATIENCE)

    run(main)


def test_a_picture_waits_for_others_no_longer_than_the_limit(runtime):
    async def main():
        batcher, _ = make(runtime, max_wait=0.001)
        batcher.start()
        with batcher.reserve(2) as places:  # the second never comes, the block outlasts the wait
            assert (await places.infer(black())).batch == 1
        assert await batcher.close(PATIENCE)

    run(main)


def test_the_next_batch_is_assembled_while_the_last_one_runs(runtime):
    runtime.held = True

    async def main():
        batcher, _ = make(runtime, max_batch=2)
        batcher.start()
        first = asyncio.create_task(one(batcher))
        await entered(runtime)
        full = [asyncio.create_task(one(batcher)) for _ in range(2)]
        await settled()
        assert batcher.depth == 0  # taken off the queue, although the runtime is busy
        assert runtime.batches == [1]
        runtime.let_go(2)
        await asyncio.gather(first, *full)
        assert runtime.batches == [1, 2]
        assert await batcher.close(PATIENCE)

    run(main)


def test_no_batch_is_larger_than_the_limit(runtime):
    runtime.held = True

    async def main():
        batcher, batches = make(runtime, max_batch=4, capacity=64)
        batcher.start()
        tasks = [asyncio.create_task(one(batcher)) for _ in range(11)]
        runtime.let_go(11)
        await asyncio.gather(*tasks)
        assert sum(batches) == 11
        assert max(batches) <= 4
        assert await batcher.close(PATIENCE)

    run(main)


def test_each_picture_gets_its_own_logits(runtime):
    async def main():
        batcher, _ = make(runtime)
        batcher.start()
        pictures = [np.full((64, 64, 3), value, dtype=np.uint8) for value in (0, 51, 102, 255)]
        answers = await asyncio.gather(*(one(batcher, picture) for picture in pictures))
        # Means of equal integers are exact in float32; 10 / 255 costs one rounding.
        np.testing.assert_allclose(
            [answer.logits[0] for answer in answers], [0, 2, 4, 10], rtol=1e-6
        )
        assert await batcher.close(PATIENCE)

    run(main)


def test_a_small_batch_is_padded_to_what_the_artifact_takes(runtime):
    async def main():
        batcher, batches = make(runtime, min_batch=3)
        batcher.start()
        answer = await one(batcher, np.full((64, 64, 3), 255, dtype=np.uint8))
        assert runtime.batches == [3]
        assert batches == [answer.batch] == [1]
        np.testing.assert_allclose(answer.logits, 10, rtol=1e-6)
        assert await batcher.close(PATIENCE)

    run(main)


def test_a_cancelled_picture_is_dropped_before_its_batch_is_made(runtime):
    runtime.held = True

    async def main():
        batcher, _ = make(runtime)
        batcher.start()
        first = asyncio.create_task(one(batcher))
        await entered(runtime)
        gone, stays = (asyncio.create_task(one(batcher)) for _ in range(2))
        await settled()
        gone.cancel()
        await settled()
        assert batcher.depth == 1
        assert batcher.accepted == 2
        runtime.let_go(2)
        await asyncio.gather(first, stays)
        assert runtime.batches == [1, 1]
        assert await batcher.close(PATIENCE)

    run(main)


def test_more_pictures_than_the_queue_holds_are_refused_and_room_comes_back(runtime):
    async def main():
        batcher, _ = make(runtime, capacity=3)
        batcher.start()
        with batcher.reserve(2):
            with pytest.raises(OverloadedError, match="2 pictures are waiting and the limit is 3"):
                batcher.reserve(2).__enter__()
            with batcher.reserve(1):
                assert batcher.accepted == 3
        assert batcher.accepted == 0
        assert await batcher.close(PATIENCE)

    run(main)


def test_a_failing_runtime_costs_its_batch_and_not_the_next(runtime):
    async def main():
        batcher, _ = make(runtime)
        batcher.start()
        runtime.failure = ValueError("out of memory")
        with pytest.raises(InferenceError) as caught:
            await one(batcher)
        assert "out of memory" not in str(caught.value)  # internals stay in the log
        runtime.failure = None
        assert (await one(batcher)).batch == 1
        assert batcher.fault is None
        assert await batcher.close(PATIENCE)

    run(main)


def test_several_failures_in_a_row_are_a_fault_and_refuse_pictures(runtime):
    async def main():
        batcher, _ = make(runtime)
        batcher.start()
        runtime.failure = RuntimeError("device lost")
        for _ in range(FAILURES_UNTIL_BROKEN):
            assert batcher.fault is None
            with pytest.raises(InferenceError):
                await one(batcher)
        fault = f"the last {FAILURES_UNTIL_BROKEN} batches failed; the model is opened again"
        assert batcher.fault == fault
        with pytest.raises(NotReadyError, match=fault):
            await one(batcher)
        assert await batcher.close(PATIENCE)

    run(main)


def test_too_few_answers_fail_the_batch_instead_of_leaving_a_picture_without(runtime):
    runtime.answer = np.zeros((0, 3), dtype=np.float32)

    async def main():
        batcher, _ = make(runtime)
        batcher.start()
        with pytest.raises(InferenceError):
            await one(batcher)
        assert await batcher.close(PATIENCE)

    run(main)


def test_closing_answers_what_was_accepted_and_refuses_what_comes_after(runtime):
    runtime.held = True

    async def main():
        batcher, _ = make(runtime)
        batcher.start()
        tasks = [asyncio.create_task(one(batcher)) for _ in range(6)]
        await entered(runtime)
        closing = asyncio.create_task(batcher.close(PATIENCE))
        await settled()
        with pytest.raises(NotReadyError):
            await one(batcher)
        runtime.let_go(6)
        assert len(await asyncio.gather(*tasks)) == 6
        assert await closing

    run(main)


def test_closing_answers_also_when_the_runtime_hangs(runtime):
    runtime.held = True

    async def main():
        batcher, _ = make(runtime)
        batcher.start()
        running = asyncio.create_task(one(batcher))
        await entered(runtime)
        waiting = asyncio.create_task(one(batcher))
        await settled()
        assert not await batcher.close(0.01)
        results = await asyncio.gather(running, waiting, return_exceptions=True)
        assert [type(result) for result in results] == [NotReadyError, NotReadyError]
        runtime.let_go()

    run(main)


def test_closing_answers_an_assembled_batch_behind_a_runtime_that_hangs(runtime):
    runtime.held = True

    async def main():
        batcher, _ = make(runtime, max_batch=1)
        batcher.start()
        tasks = [asyncio.create_task(one(batcher)) for _ in range(2)]
        await entered(runtime)
        await settled()
        assert batcher.depth == 0  # one runs, one is assembled
        assert not await batcher.close(0.01)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [NotReadyError, NotReadyError]
        runtime.let_go()

    run(main)


def test_a_fault_in_the_batching_itself_is_reported_and_answered(runtime, monkeypatch):
    async def main():
        batcher, _ = make(runtime)

        def broken(_):
            raise AssertionError("a fault of ours")

        monkeypatch.setattr(batcher._pool, "assemble", broken)
        batcher.start()
        with pytest.raises(NotReadyError):
            await one(batcher)
        assert batcher.fault == "the batching task ended unexpectedly"
        with pytest.raises(NotReadyError):
            await one(batcher)
        await batcher.close(PATIENCE)

    run(main)


def test_the_warm_up_runs_the_smallest_and_the_largest_batch_twice(runtime):
    async def main():
        batcher, batches = make(runtime, min_batch=2, max_batch=4)
        await batcher.warm_up()
        assert runtime.batches == [2, 2, 4, 4]
        assert batches == []  # no client's pictures, so not counted
        await batcher.close(PATIENCE)

    run(main)


def test_a_batch_is_padded_to_a_bucket_that_was_measured_faster(runtime):
    async def main():
        batcher, batches, _ = make_several([runtime], milliseconds={1: 9.0, 4: 3.0})
        batcher.start()
        answer = await one(batcher, np.full((64, 64, 3), 255, dtype=np.uint8))
        assert runtime.batches == [4]
        assert batches == [answer.batch] == [1]
        np.testing.assert_allclose(answer.logits, 10, rtol=1e-6)
        assert await batcher.close(PATIENCE)

    run(main)


def test_the_predicted_wait_counts_the_instances(runtime):
    async def main():
        several, _, _ = make_several([runtime, type(runtime)()], max_batch=1)
        batcher, _, _ = make_several([type(runtime)()], max_batch=1)
        for made in (several, batcher):
            made._pool._waits.batches.measured(1, 0.5)
        assert [several.predicted_wait(count) for count in (1, 2, 3, 4)] == [0.5, 0.5, 1.0, 1.0]
        assert [batcher.predicted_wait(count) for count in (1, 2)] == [0.5, 1.0]
        for made in (several, batcher):
            await made.close(PATIENCE)

    run(main)
