"""Batches that do not fit into memory, and the curve of throughput."""

import pytest

from lavit_deploy.common.errors import InferenceError
from lavit_deploy.profiles.report.schema import ModelReport
from lavit_deploy.profiles.session import Session
from lavit_deploy.profiles.subjects.subjects import Settings, Subject, resolve
from lavit_deploy.profiles.timing.batch_sizes import batch_curve
from lavit_deploy.profiles.timing.timing import (
    BatchTimings,
    BatchTooLargeError,
    TimingPlan,
    time_batch,
)


@pytest.mark.parametrize(
    ("largest", "curve"), [(1, [1]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])]
)
def test_the_curve_doubles_up_to_the_largest_batch(largest, curve):
    assert list(batch_curve(largest)) == curve


@pytest.fixture
def runner(scripted):
    """A runner that can hold `room` images, or says what one of them takes."""

    class Limited(scripted):
        def __init__(self, label, room=None, one=None):
            super().__init__(label)
            self.room, self.one, self.batch = room, one, 0

        def prepare(self, batch):
            super().prepare(batch)
            self.batch = batch
            if self.room is not None and batch > self.room:
                raise BatchTooLargeError(f"{self.label}: a batch of {batch} does not fit")

        def peak_memory(self):
            return None if self.one is None else self.one * self.batch

    return Limited


@pytest.fixture
def session(runner):
    """A session over such runners, with the counts of a real model."""
    counted = resolve("lavit_micro", Settings()).measure()

    class Stub(Subject):
        def __init__(self, one):
            self.label, self.runner = one.label, one

        def measure(self) -> ModelReport:
            return counted.model_copy(update={"label": self.label})

        def open(self):
            return self.runner

        def split(self, batch, calls):
            raise NotImplementedError

        def growth(self, sizes):
            raise NotImplementedError

    def make(runners, batches, **plan):
        made = Session(
            [Stub(one) for one in runners],
            Settings(),
            TimingPlan(batches=batches, calls=18, **plan),
        )
        made.count()
        return made

    return make


def batches(report, index):
    return [timing.batch for timing in report.models[index].timings]


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_the_report_says_so(session, runner):
    run = session([runner("roomy"), runner("small", room=5)], (1, 16))
    run.time()
    report = run.report(complete=True)
    assert batches(report, 0) == [1, 16]
    assert batches(report, 1) == [1, 4]
    assert [(limit.batch, limit.halved_to) for limit in report.models[1].limits] == [
        (16, 4),
        (8, 4),
    ]
    assert "does not fit" in report.models[1].limits[0].reason
    assert report.models[0].limits == ()


def test_nothing_larger_is_tried_after_a_batch_that_did_not_fit(session, runner):
    small = runner("small", room=2)
    run = session([small], (1, 2, 4, 8))
    run.time()
    assert batches(run.report(complete=True), 0) == [1, 2]
    assert 8 not in small.batches


def test_not_even_one_image_is_an_error(session, runner):
    with pytest.raises(InferenceError, match="does not fit"):
        session([runner("none", room=0)], (1,)).time()


def test_on_a_cpu_a_batch_above_the_limit_is_not_even_tried(session, runner):
    heavy = runner("heavy", one=100)
    run = session([heavy], (1, 2, 4, 8), memory=500)
    run.time()
    report = run.report(complete=True)
    assert batches(report, 0) == [1, 2, 4]
    assert 8 not in heavy.batches
    assert "the limit is" in report.models[0].limits[0].reason


def test_a_model_that_does_not_fit_leaves_the_others_to_be_timed(runner):
    result = BatchTimings(4)
    time_batch([runner("a", room=2), runner("b")], TimingPlan(calls=18), result)
    assert set(result.turns) == {"b"}
    assert set(result.refused) == {"a"}


def test_an_artifact_that_does_not_take_a_batch_of_the_curve_is_left_out(session, runner):
    artifact = runner("artifact")
    artifact.max_batch = 2
    run = session([artifact, runner("free")], (1, 2, 4))
    run.curve = frozenset({2, 4})
    run.time()
    report = run.report(complete=True)
    assert batches(report, 0) == [1, 2]
    assert batches(report, 1) == [1, 2, 4]
