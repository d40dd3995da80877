"""When a batch leaves and which pictures it holds, without a runtime."""

import asyncio

import numpy as np
import pytest

from event_loop import FOREVER, run, settled
from lavit_deploy.serving.batching.batch_former import BatchFormer
from lavit_deploy.serving.batching.picture_queue import PictureQueue, refuse
from lavit_deploy.serving.batching.waits import WaitPredictor
from lavit_deploy.serving.errors import DeadlineError

SLACK = 5.0  # seconds that an event loop may lose on a busy machine


class House:
    """A queue, its batch former, and as many idle instances as the test says."""

    def __init__(self, *, idle=1, max_batch=4, max_wait=FOREVER, capacity=32):
        self.idle = idle
        self.waits = WaitPredictor(max_batch)
        self.queue = PictureQueue(capacity, self.waits, instances=lambda: 1)
        self.former = BatchFormer(
            self.queue,
            self.waits,
            max_batch=max_batch,
            max_wait=max_wait,
            idle=lambda: self.idle,
        )
        self.asked = []
        self.left = []

    async def arrive(self, *pictures, places=None, deadline=None):
        """Bring pictures, a request each; whoever has `places` brings them there."""
        for picture in pictures:
            pixels = np.full((4, 4, 3), picture, dtype=np.uint8)
            self.asked.append(asyncio.create_task(self._ask(pixels, places, deadline)))
        await settled()

    async def _ask(self, pixels, places, deadline):
        if places is not None:
            return await places.infer(pixels)
        with self.queue.reserve(1) as place:
            place.deadline = deadline  # past the admission: it is the batch's turn that is tested
            return await place.infer(pixels)

    async def leave(self):
        """The pictures of the next batch, by their first value."""
        batch = await self.former.next_batch()
        self.left += batch
        return [int(job.pixels[0, 0, 0]) for job in batch]

    async def stays(self):
        """Assert that no batch leaves now, and give what waits for one."""
        waiting = asyncio.create_task(self.leave())
        await settled()
        assert not waiting.done()
        return waiting

    async def end(self):
        self.queue.closed = True
        self.queue.refuse_all()
        refuse(self.left)
        await asyncio.gather(*self.asked, return_exceptions=True)


def now():
    return asyncio.get_running_loop().time()


def test_a_lone_picture_leaves_at_once_for_an_idle_instance():
    async def main():
        house = House()
        await house.arrive(7)
        assert await house.leave() == [7]
        await house.end()

    run(main)


def test_pictures_wait_while_no_instance_is_idle_and_leave_together_when_one_is():
    async def main():
        house = House(idle=0)
        await house.arrive(1, 2)
        waiting = await house.stays()
        await house.arrive(3)
        house.idle = 1
        house.queue.notify()
        assert await waiting == [1, 2, 3]
        await house.end()

    run(main)


def test_a_full_batch_leaves_although_no_instance_is_idle_and_more_is_being_decoded():
    async def main():
        house = House(idle=0)
        with house.queue.reserve(1):
            await house.arrive(1, 2, 3, 4)
            assert await house.leave() == [1, 2, 3, 4]
        await house.end()

    run(main)


def test_no_batch_is_larger_than_a_full_one():
    async def main():
        house = House()
        await house.arrive(*range(1, 12))
        assert [await house.leave() for _ in range(3)] == [
            [1, 2, 3, 4],
            [5, 6, 7, 8],
            [9, 10, 11],
        ]
        await house.end()

    run(main)


def test_it_waits_for_a_picture_that_is_being_decoded():
    async def main():
        house = House()
        with house.queue.reserve(2) as places:
            await house.arrive(1, places=places)
            waiting = await house.stays()
            await house.arrive(2, places=places)
            assert await waiting == [1, 2]
            await house.end()

    run(main)


def test_it_waits_no_longer_once_the_other_will_not_come():
    async def main():
        house = House()
        with house.queue.reserve(2) as places:
            await house.arrive(1, places=places)
            waiting = await house.stays()
            places.cancel_one()
            assert await waiting == [1]
            await house.end()

    run(main)


def test_it_waits_for_what_is_being_decoded_no_longer_than_the_limit():
    async def main():
        house = House(max_wait=0.02)
        with house.queue.reserve(2) as places:
            begun = now()
            await house.arrive(1, places=places)
            assert await house.leave() == [1]
            assert 0.02 - 1e-3 <= now() - begun < SLACK
            await house.end()

    run(main)


@pytest.mark.parametrize(
    ("pictures", "idle", "batches"),
    [(4, 2, [2, 2]), (5, 2, [3, 2]), (2, 4, [1, 1]), (12, 2, [6, 6]), (20, 2, [8, 6, 6])],
)
def test_idle_instances_share_what_waits(pictures, idle, batches):
    async def main():
        house = House(idle=idle, max_batch=8)
        await house.arrive(*range(pictures))
        left = []
        for _ in batches:
            left.append(len(await house.leave()))
            house.idle = max(1, house.idle - (left[-1] < 8))  # a full one waits for its turn
        assert left == batches
        await house.end()

    run(main)


def test_what_waits_is_not_shared_while_more_is_coming():
    """Those that come are for the other instances."""

    async def main():
        house = House(idle=2, max_wait=0)
        with house.queue.reserve(3) as places:
            await house.arrive(1, 2, places=places)
            assert await house.leave() == [1, 2]
            await house.end()

    run(main)


def test_a_picture_whose_batch_would_end_after_its_deadline_makes_room_for_the_next():
    async def main():
        house = House(max_batch=2)
        house.waits.batches.measured(1, 60.0)
        house.waits.batches.measured(2, 60.0)
        await house.arrive(1, deadline=now() + 60 - SLACK)
        await house.arrive(2, deadline=now() + 60 + SLACK)
        await house.arrive(3)
        assert await house.leave() == [2, 3]
        with pytest.raises(DeadlineError, match="deadline would have passed before its batch"):
            await house.asked[0]
        await house.end()

    run(main)


def test_what_is_given_up_counts_as_late_by_the_batch_that_it_would_have_had():
    async def main():
        house = House()
        await house.arrive(1, deadline=now() + 60 - SLACK)  # admitted when nothing was measured
        house.waits.batches.measured(1, 60.0)
        house.queue.closed = True
        assert await house.leave() == []
        assert house.waits.until_answer(0.0, accepted=1) == pytest.approx(60, abs=SLACK)
        await house.end()

    run(main)


def test_the_deadline_is_held_against_a_batch_on_an_idle_machine():
    """A stall must not make every prediction too long, for then no batch would correct it."""

    async def main():
        house = House()
        house.waits.batches.measured(1, 1.0)
        house.waits.batches.observed(1, 3600.0)
        await house.arrive(1, deadline=now() + 1 + SLACK)
        assert await house.leave() == [1]
        await house.end()

    run(main)


def test_where_all_that_waits_comes_too_late_the_next_picture_leaves():
    async def main():
        house = House(max_batch=2)
        house.waits.batches.measured(1, 60.0)
        for picture in (1, 2):  # a full batch of pictures that are given up
            await house.arrive(picture, deadline=now() + 1)
        waiting = await house.stays()
        assert len(house.queue) == 0
        await house.arrive(3)
        assert await waiting == [3]
        await house.end()

    run(main)


def test_an_empty_batch_says_that_all_is_done():
    async def main():
        house = House()
        waiting = await house.stays()
        house.queue.closed = True
        house.queue.notify()
        assert await waiting == []

    run(main)


def test_what_was_accepted_before_the_end_still_leaves():
    async def main():
        house = House()
        with house.queue.reserve(2) as places:
            house.queue.closed = True
            await house.arrive(1, places=places)
            waiting = await house.stays()  # the second is being decoded
            await house.arrive(2, places=places)
            assert await waiting == [1, 2]
            assert await house.leave() == []
            await house.end()

    run(main)
