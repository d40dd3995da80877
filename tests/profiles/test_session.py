"""Batches that do not fit into memory, and the curve of throughput."""

import pytest

from lavit_deploy.common.errors import InferenceError
from lavit_deploy.profiles.report.schema import ModelReport
from lavit_deploy.profiles.session import Session
from lavit_deploy.profiles.subjects.names import resolve
from lavit_deploy.profiles.subjects.profiled_model import ProfiledModel, RunSettings
from lavit_deploy.profiles.timing.runner import BatchTooLargeError
from lavit_deploy.profiles.timing.turns import TimingPlan


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
    counted = resolve("lavit_micro", RunSettings()).measure()

    class Stub(ProfiledModel):
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
            RunSettings(),
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


def test_an_artifact_that_does_not_take_a_batch_of_the_curve_is_left_out(session, runner):
    artifact = runner("artifact")
    artifact.max_batch = 2
    run = session([artifact, runner("free")], (1, 2, 4))
    run.curve = frozenset({2, 4})
    run.time()
    report = run.report(complete=True)
    assert batches(report, 0) == [1, 2]
    assert batches(report, 1) == [1, 2, 4]


def test_runners_are_closed_whatever_happens(scripted):
    class Stub(ProfiledModel):
        def __init__(self, label, seconds):
            self.label = label
            self.runner = scripted(label, seconds)

        def measure(self):
            raise NotImplementedError

        def open(self):
            return self.runner

        def split(self, batch, calls):
            raise NotImplementedError

        def growth(self, sizes):
            raise NotImplementedError

    subjects = [Stub("a", [0.1]), Stub("b", [KeyboardInterrupt(), 0.1])]
    with pytest.raises(KeyboardInterrupt):
        Session(subjects, RunSettings(), TimingPlan()).time()
    assert all(subject.runner.closed for subject in subjects)
