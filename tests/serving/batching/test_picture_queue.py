"""Places in the queue: who gets one, when they come back, and who learns from whom."""

import asyncio
import contextlib
import time

import numpy as np
import pytest

from event_loop import FOREVER, run, settled
from lavit_deploy.serving.batching.picture_queue import Inferred, PictureQueue
from lavit_deploy.serving.batching.waits import WaitPredictor
from lavit_deploy.serving.errors import NotReadyError, OverloadedError, PredictedWaitError

PIXELS = np.zeros((4, 4, 3), dtype=np.uint8)
SLACK = 5.0  # seconds that an event loop may lose on a busy machine


@pytest.fixture
def waits():
    """Every batch takes 60 s and holds one picture."""
    made = WaitPredictor(max_batch=1)
    made.batches.measured(1, 60.0)
    return made


@pytest.fixture
def make(waits):
    return lambda capacity=8, instances=1: PictureQueue(
        capacity, waits, instances=lambda: instances
    )


def now():
    return asyncio.get_running_loop().time()


def test_places_are_held_until_the_block_ends_however_it_ends(make):
    queue = make()
    places = queue.reserve(3)
    places.__enter__()
    assert (queue.accepted, queue.still_decoding) == (3, 3)
    assert not places.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert (queue.accepted, queue.still_decoding) == (0, 0)


def test_as_many_as_there_are_places_get_in_and_not_one_more(make):
    queue = make(capacity=3)
    with queue.reserve(2):
        assert not queue.full
        with pytest.raises(OverloadedError, match=r"2 pictures .* limit is 3: no room for 2"):
            queue.reserve(2).__enter__()
        with queue.reserve(1):
            assert queue.full
            with pytest.raises(OverloadedError):
                queue.reserve(1).__enter__()
        assert not queue.full


def test_who_was_refused_holds_no_place(make):
    queue = make(capacity=1)
    with contextlib.suppress(OverloadedError):
        queue.reserve(2).__enter__()
    assert (queue.accepted, queue.still_decoding) == (0, 0)


def test_a_deadline_decides_by_the_batches_ahead(make):
    async def main():
        queue = make()
        with queue.reserve(1):  # two batches of 60 s are ahead of a second picture's answer
            with pytest.raises(PredictedWaitError, match="an answer would take 120000 ms"):
                queue.reserve(1, deadline=now() + 120 - SLACK).__enter__()
            assert queue.accepted == 1
            with queue.reserve(1, deadline=now() + 120 + SLACK):
                assert queue.accepted == 2

    run(main)


def test_the_predicted_wait_counts_the_instances_and_what_was_accepted(make):
    one, two = make(), make(instances=2)
    assert [one.predicted_wait(count) for count in (1, 2)] == [60, 120]
    assert [two.predicted_wait(count) for count in (1, 2)] == [60, 60]
    with one.reserve(2), two.reserve(2):
        assert (one.predicted_wait(), two.predicted_wait()) == (180, 120)


def test_pictures_stand_in_line_as_they_come_and_are_answered_one_by_one(make):
    async def main():
        queue = make()
        with queue.reserve(2) as places:
            first, second = (asyncio.create_task(places.infer(PIXELS + n)) for n in (1, 2))
            await settled()
            assert (len(queue), queue.still_decoding, places.still_decoding) == (2, 0, 0)
            assert 0 <= time.perf_counter() - queue.oldest_arrival < SLACK
            job = queue.pop()
            assert job.pixels[0, 0, 0] == 1
            job.answer.set_result(answer := Inferred(np.zeros(3, np.float32), 0.0, 0.0, 1))
            assert await first is answer
            assert not second.done()
            queue.refuse_all()
            assert len(queue) == 0
            with pytest.raises(NotReadyError, match="the service stopped"):
                await second

    run(main)


def test_nobody_brings_more_pictures_than_places_were_reserved_for(make):
    async def main():
        with make().reserve(1) as places:
            places.cancel_one()
            for more in (places.cancel_one, lambda: places.infer(PIXELS).send(None)):
                with pytest.raises(RuntimeError, match="more pictures than places"):
                    more()

    run(main)


def test_a_refusal_after_the_answer_changes_nothing(make):
    async def main():
        queue = make()
        with queue.reserve(1) as places:
            task = asyncio.create_task(places.infer(PIXELS))
            await settled()
            job = queue.pop()
            job.answer.set_result(answer := Inferred(np.zeros(3, np.float32), 0.0, 0.0, 1))
            job.fail(ZeroDivisionError())
            assert await task is answer

    run(main)


@pytest.mark.parametrize("left", [False, True])
def test_a_client_that_goes_leaves_the_line_unless_its_batch_has_left(make, left):
    async def main():
        queue = make()
        with queue.reserve(2) as places:
            tasks = [asyncio.create_task(places.infer(PIXELS)) for _ in range(2)]
            await settled()
            if left:
                queue.pop()
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            assert len(queue) == 1
            queue.refuse_all()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(main)


@pytest.mark.parametrize(("deadline", "learns"), [(None, False), (FOREVER, False), (0.0, True)])
def test_only_an_answer_that_came_too_late_teaches_as_it_is_given_up(make, waits, deadline, learns):
    """A client that hangs up early would teach that answers are quick."""

    async def main():
        queue = make()
        waits.answered(0.0, predicted=1000.0)  # without a lesson, nothing is late
        admitted = None if deadline is None else now() + 60 + SLACK
        with queue.reserve(1, deadline=admitted) as places:
            places.deadline = None if deadline is None else now() + deadline
            task = asyncio.create_task(places.infer(PIXELS))
            await settled()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        late = waits.until_answer(500.0, accepted=1)
        # Lessons are seconds beyond the predicted 60: some -60 where it learns, -1000 before.
        assert late == (pytest.approx(440.0, abs=SLACK) if learns else 0.0)

    run(main)


def test_what_an_answer_took_counts_from_the_admission_and_against_its_own_prediction(make, waits):
    async def main():
        with make().reserve(1) as places:
            places.learn(waits, more=90.0)
        # 90 s more than the milliseconds that it waited; predicted were 60.
        assert waits.until_answer(0.0, accepted=1) == pytest.approx(30.0, abs=SLACK)

    run(main)


def test_it_has_ended_when_it_is_closed_and_nothing_waits_or_is_decoded(make):
    async def main():
        queue = make()
        assert not queue.ended
        with queue.reserve(1) as places:
            queue.closed = True
            assert not queue.ended  # a picture is on its way
            task = asyncio.create_task(places.infer(PIXELS))
            await settled()
            assert not queue.ended  # it waits
            queue.pop().fail(NotReadyError("no"))
            assert queue.ended
            await asyncio.gather(task, return_exceptions=True)

    run(main)


@pytest.mark.parametrize(
    "change",
    [
        lambda queue, places: queue.notify(),
        lambda queue, places: places.cancel_one(),
        lambda queue, places: asyncio.ensure_future(places.infer(PIXELS)),
    ],
    ids=["notified", "one will not come", "one has arrived"],
)
def test_who_waits_for_a_change_is_woken_by_it(make, change):
    async def main():
        queue = make()
        with queue.reserve(1) as places:
            waiting = asyncio.create_task(queue.change())
            await settled()
            assert not waiting.done()
            made = change(queue, places)
            await waiting
            queue.refuse_all()
            if made is not None:
                await asyncio.gather(made, return_exceptions=True)

    run(main)


def test_the_end_of_a_request_wakes_who_waits_for_room(make):
    async def main():
        queue = make()
        with queue.reserve(1):
            waiting = asyncio.create_task(queue.change())
            await settled()
            assert not waiting.done()
        await waiting

    run(main)


def test_a_wait_for_a_change_ends_after_its_time(make):
    async def main():
        queue = make()
        begun = now()
        await queue.change(0.02)
        assert now() - begun >= 0.02 - 1e-3  # the loop's clock has this resolution, or a better one

    run(main)
