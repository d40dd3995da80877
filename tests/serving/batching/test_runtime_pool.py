"""Batches as arrays, and who runs them."""

import asyncio

import numpy as np
import pytest

from event_loop import FOREVER, PATIENCE, entered, run, settled
from lavit_deploy.common.errors import InferenceError
from lavit_deploy.serving.batching.backoff import Backoff
from lavit_deploy.serving.batching.padding import PaddedSizes
from lavit_deploy.serving.batching.picture_queue import Job, PictureQueue, Reservation
from lavit_deploy.serving.batching.runtime_instance import FAILURES_UNTIL_BROKEN
from lavit_deploy.serving.batching.runtime_pool import RuntimePool
from lavit_deploy.serving.batching.waits import WaitPredictor
from lavit_deploy.serving.errors import NotReadyError

SHORT = 0.05  # of a batch, where the test wants it to be too long


class Pool:
    """A pool, and what it told."""

    def __init__(self, *runtimes, minimum=1, maximum=4, milliseconds=None, seconds=FOREVER):
        self.batches, self.changes = [], 0
        self.waits = WaitPredictor(maximum)
        self.queue = PictureQueue(32, self.waits, instances=lambda: 1)
        self.pool = RuntimePool(
            runtimes,
            sizes=PaddedSizes(minimum, maximum, milliseconds or {}),
            infer_seconds=seconds,
            waits=self.waits,
            reopen=lambda: runtimes[0],
            backoff=lambda: Backoff(FOREVER, FOREVER),
            on_batch=lambda pictures, seconds: self.batches.append((pictures, seconds)),
            on_restart=lambda success: None,
            on_change=self.changed,
        )

    def changed(self):
        self.changes += 1

    def jobs(self, *values):
        """Pictures of one value each, [64, 64, 3]."""
        loop = asyncio.get_running_loop()
        places = Reservation(self.queue, len(values), 0.0, None)
        return [
            Job(np.full((64, 64, 3), value, np.uint8), places, 0.0, loop.create_future())
            for value in values
        ]

    async def answers(self, *values):
        jobs = self.jobs(*values)
        assert self.pool.start(self.pool.assemble(jobs))
        return await asyncio.gather(*(job.answer for job in jobs), return_exceptions=True)


def test_pictures_lie_in_one_array_with_black_behind_them(runtime):
    async def main():
        house = Pool(runtime, minimum=3)
        batch = house.pool.assemble(house.jobs(9, 8))
        assert batch.images.shape == (3, 64, 64, 3)
        assert [int(image.min()) for image in batch.images] == [9, 8, 0]
        assert [int(image.max()) for image in batch.images] == [9, 8, 0]
        await house.pool.close(PATIENCE)

    run(main)


def test_nothing_of_an_earlier_batch_is_behind_the_pictures(runtime):
    async def main():
        house = Pool(runtime, milliseconds={1: 9.0, 4: 1.0})  # every size is padded to 4
        for _ in range(3):  # through every buffer, and once more
            house.pool.drop(house.pool.assemble(house.jobs(5, 6, 7, 8)))
        batch = house.pool.assemble(house.jobs(9))
        assert [int(image.max()) for image in batch.images] == [9, 0, 0, 0]
        await house.pool.close(PATIENCE)

    run(main)


def test_batches_in_the_house_never_share_their_memory(runtime):
    """One runs and one is assembled; a third is only where one does not come back."""

    async def main():
        house = Pool(runtime)
        batches = [house.pool.assemble(house.jobs(value)) for value in (1, 2, 3)]
        assert [int(batch.images[0, 0, 0, 0]) for batch in batches] == [1, 2, 3]
        await house.pool.close(PATIENCE)

    run(main)


def test_a_batch_that_ran_or_was_dropped_gives_its_memory_to_the_next(runtime):
    async def main():
        house = Pool(runtime)
        first = house.pool.assemble(house.jobs(1))
        house.pool.drop(first)
        assert house.pool.assemble(house.jobs(2)).buffer is first.buffer
        second = house.pool.assemble(jobs := house.jobs(3))
        assert house.pool.start(second)
        await jobs[0].answer
        await settled()
        assert house.pool.assemble(house.jobs(4)).buffer is second.buffer
        await house.pool.close(PATIENCE)

    run(main)


def test_a_batch_that_does_not_come_back_keeps_its_memory(runtime):
    runtime.held = True

    async def main():
        house = Pool(runtime, seconds=SHORT)
        stuck = house.pool.assemble(jobs := house.jobs(1))
        assert house.pool.start(stuck)
        with pytest.raises(InferenceError):
            await jobs[0].answer
        await settled()
        later = [house.pool.assemble(house.jobs(2)) for _ in range(3)]
        assert all(batch.buffer is not stuck.buffer for batch in later)
        assert int(stuck.images[0, 0, 0, 0]) == 1
        runtime.let_go()
        await house.pool.close(PATIENCE)

    run(main)


def test_each_picture_gets_its_own_row_and_what_its_batch_was(runtime):
    async def main():
        house = Pool(runtime, minimum=4)
        answers = await house.answers(0, 51, 255)
        # Means of equal integers are exact in float32; 10 / 255 costs one rounding.
        np.testing.assert_allclose([row.logits[0] for row in answers], [0, 2, 10], rtol=1e-6)
        assert [row.batch for row in answers] == [3, 3, 3]
        assert len({row.infer_seconds for row in answers}) == 1
        await settled()
        assert [pictures for pictures, _ in house.batches] == [3]
        assert house.batches[0][1] == answers[0].infer_seconds > 0
        await house.pool.close(PATIENCE)

    run(main)


def test_every_instance_runs_one_batch_at_a_time(runtime):
    other = type(runtime)()
    runtime.held = other.held = True

    async def main():
        house = Pool(runtime, other)
        batches = [house.pool.assemble(house.jobs(value)) for value in (1, 2, 3)]
        assert house.pool.idle == 2
        assert [house.pool.start(batch) for batch in batches] == [True, True, False]
        assert house.pool.idle == 0
        await entered(runtime)
        await entered(other)
        runtime.let_go()
        await asyncio.wait_for(asyncio.shield(batches[0].jobs[0].answer), PATIENCE)
        await settled()
        assert (house.pool.idle, house.changes) == (1, 1)
        assert house.pool.start(batches[2])
        runtime.let_go()
        other.let_go()
        await house.pool.finish()
        assert all(batch.jobs[0].answer.done() for batch in batches)
        await house.pool.close(PATIENCE)

    run(main)


def test_the_warm_up_measures_every_special_size_by_its_second_run(runtime):
    async def main():
        house = Pool(runtime, milliseconds={1: 9.0, 2: 9.0, 3: 1.0, 4: 9.0})
        await house.pool.warm_up()
        assert runtime.batches == [1, 1, 3, 3, 4, 4]
        assert house.waits.of_one_batch(3) > 0
        assert house.batches == []  # nobody's pictures
        await house.pool.close(PATIENCE)

    run(main)


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_answers_fail_the_batch(runtime, rows):
    runtime.answer = np.zeros((rows, 3), dtype=np.float32)

    async def main():
        house = Pool(runtime)
        assert [type(found) for found in await house.answers(1, 2)] == [InferenceError] * 2
        await settled()
        assert house.batches == []
        await house.pool.close(PATIENCE)

    run(main)


def test_a_failed_batch_is_told_of_without_internals_and_counts_against_its_instance(runtime):
    runtime.failure = ValueError("/secret/path")

    async def main():
        house = Pool(runtime)
        for number in range(FAILURES_UNTIL_BROKEN):
            assert (house.pool.working, house.pool.fault) == (1, None)
            (error,) = await house.answers(1)
            assert type(error) is InferenceError
            assert "secret" not in str(error)
            await settled()
            assert house.changes == number + 1
        assert (house.pool.working, house.pool.idle) == (0, 0)
        assert house.pool.fault.startswith(f"the last {FAILURES_UNTIL_BROKEN} batches failed")
        await house.pool.close(PATIENCE)

    run(main)


def test_failures_count_in_a_row(runtime):
    async def main():
        house = Pool(runtime)
        for failure in [ValueError(), ValueError(), None] * 2:
            runtime.failure = failure
            await house.answers(1)
            await settled()
        assert house.pool.fault is None
        await house.pool.close(PATIENCE)

    run(main)


def test_closing_frees_every_runtime_and_says_that_nothing_was_given_up(runtime):
    other = type(runtime)()

    async def main():
        house = Pool(runtime, other)
        await house.answers(1)
        assert await house.pool.close(PATIENCE)
        assert (runtime.closed, other.closed) == (True, True)

    run(main)


def test_closing_gives_up_a_batch_that_hangs_and_answers_its_pictures(runtime):
    runtime.held = True

    async def main():
        house = Pool(runtime)
        batch = house.pool.assemble(jobs := house.jobs(1))
        assert house.pool.start(batch)
        await entered(runtime)
        assert not await house.pool.close(SHORT)
        with pytest.raises(NotReadyError):
            await jobs[0].answer
        assert not runtime.closed  # its thread still has it
        runtime.let_go()

    run(main)
