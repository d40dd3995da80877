import pytest

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.measurement import measure, measure_footprint, save
from lavit_deploy.common.environment import Environment
from lavit_deploy.common.errors import BundleError, InferenceError
from lavit_deploy.model.config import lavit_micro
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.runtimes.specs import distributions


@pytest.fixture
def bundle(write, artifact):
    """Two artifacts that run and one that failed, measured on another machine."""
    elsewhere = Environment.here().model_copy(update={"cpu": "Other CPU"})
    items = (artifact("a"), artifact("b", rate=7.0), artifact("wrong", passed=False))
    return write(*items, environment=elsewhere)


def test_every_artifact_that_passed_is_measured_anew(bundle, monkeypatch):
    monkeypatch.setattr("lavit_deploy.bundle.measurement.measure_footprint", lambda *_, **__: None)
    steps = []
    tuned = measure(bundle, device="cpu", progress=steps.append).manifest
    a, b, wrong = tuned.artifacts
    for item in (a, b):
        assert [timing.batch for timing in item.timings] == [1, 2]
        assert all(timing.runs > 0 and timing.median_ms > 0 for timing in item.timings)
    assert wrong.timings == ()
    assert tuned.timed_on == Environment.here(distributions())
    assert tuned.environment.cpu == "Other CPU"
    assert "latency at batch 2" in steps


def test_new_measurements_are_saved_and_the_files_untouched(bundle):
    before = (bundle.path / "a.onnx").read_bytes()
    changed = bundle.manifest.model_copy(update={"timed_on": Environment.here()})
    save(Bundle(bundle.path, changed))
    assert Bundle.open(bundle.path).manifest.timed_on == Environment.here()
    assert (bundle.path / "a.onnx").read_bytes() == before


def test_a_bundle_that_cannot_be_written_is_named(bundle):
    gone = Bundle(bundle.path / "a.onnx", bundle.manifest)
    with pytest.raises(BundleError, match="cannot be saved"):
        save(gone)


def test_a_process_that_fails_is_an_error_with_its_last_line(write, artifact):
    # The manifest's model takes 64 x 64 pictures, the graph does not.
    bundle = write(
        artifact("a"),
        config=lavit_micro(num_classes=3),
        preprocess=Preprocess(resize=64, crop=(64, 64)),
    )
    with pytest.raises(InferenceError, match=r"memory of a failed: .*takes uint8"):
        measure_footprint(bundle, bundle.artifact("a"), device="cpu")
