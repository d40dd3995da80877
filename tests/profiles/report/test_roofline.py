import pytest

from lavit_deploy.profiles.report.costs import Cell, Counts
from lavit_deploy.profiles.report.machine import MatrixPeak, Peaks
from lavit_deploy.profiles.report.roofline import moved_bytes, roofline
from lavit_deploy.profiles.report.schema import ModelReport
from lavit_deploy.profiles.report.times import TimeCell, TimeSplit

PEAKS = Peaks(
    products=(MatrixPeak(precision="fp32", multiply_adds_per_second=1000.0, size=8),),
    copy_bytes_per_second=100.0,
    copied_bytes=1,
    calls=1,
)


def model(cells, times, *, batch=1, precision="fp32"):
    split = TimeSplit(
        method="made up",
        batch=batch,
        calls=1,
        cells=tuple(TimeCell(stage=s, part=p, milliseconds=ms) for s, p, ms in times),
        total_ms=sum(ms for *_, ms in times),
        unattributed_ms=0.0,
    )
    return ModelReport(
        label="m", kind="preset", runtime="torch", precision=precision, attention="eager",
        image_size=(8, 8), parameters=0, parameters_by_part={},
        counts=Counts(total=1, method="traced", closed_form=1, by_part={}, by_stage={}),
        cells=tuple(cells), time_splits=(split,),
    )  # fmt: skip


def cell(stage, part, work, size, parameters=0):
    return Cell(
        stage=stage, part=part, parameters=parameters, multiply_adds=work, activations=0,
        bytes_moved=size,
    )  # fmt: skip


def test_a_stage_is_set_against_the_lower_of_both_roofs():
    cells = [cell("stage 1", "mlp", 200, 100), cell("stage 2", "mlp", 4000, 100)]
    times = [("stage 1", "mlp", 2000.0), ("stage 2", "mlp", 8000.0)]
    low, high = roofline(model(cells, times), PEAKS)
    assert (low.intensity, low.bound, low.limit) == (2.0, 200.0, "memory")
    assert (low.multiply_adds_per_second, low.share) == (100.0, 0.5)
    assert low.bytes_per_second == 50.0
    assert (high.intensity, high.bound, high.limit) == (40.0, 1000.0, "matrix product")
    assert high.share == 0.5


def test_parts_of_a_stage_are_added_up():
    cells = [cell("stage 1", "mlp", 100, 50), cell("stage 1", "attention_projections", 100, 50)]
    times = [("stage 1", "mlp", 500.0), ("stage 1", "attention_projections", 500.0)]
    (point,) = roofline(model(cells, times), PEAKS)
    assert point.milliseconds == 1000.0
    assert (point.intensity, point.multiply_adds_per_second) == (2.0, 200.0)


def test_weights_are_read_once_a_call_and_the_rest_once_an_image():
    one = cell("head", "head", 1, 100, parameters=10)
    assert [moved_bytes(one, batch) for batch in (1, 8)] == [100, 40 + 8 * 60]


@pytest.mark.parametrize("change", ["no cells", "no peak"])
def test_without_costs_or_a_peak_in_its_precision_a_model_has_no_roofline(change):
    cells = [] if change == "no cells" else [cell("head", "head", 1, 1)]
    precision = "bf16" if change == "no peak" else "fp32"
    assert roofline(model(cells, [("head", "head", 1.0)], precision=precision), PEAKS) == ()
