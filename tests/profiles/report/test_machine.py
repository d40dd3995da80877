import pytest

from lavit_deploy.profiles.report.machine import (
    MachineState,
    MatrixPeak,
    Peaks,
    RooflinePoint,
    describe,
)


def test_both_moments_are_told():
    before = MachineState(clock_mhz=1500.0, governor="performance", stolen_seconds=2.5)
    said = describe(before, MachineState(clock_mhz=900.0, stolen_seconds=4.0))
    assert "clock 1500 MHz before, 900 after" in said
    assert "1.5 core-seconds" in said
    assert "governor performance" in said


def test_what_the_machine_hides_is_said_to_be_hidden():
    assert describe(MachineState(), MachineState()) == "no thermal sensor is visible"
    assert "not recorded" in describe(None, MachineState())


def test_a_peak_is_found_by_its_precision():
    peak = MatrixPeak(precision="fp32", multiply_adds_per_second=1.0, size=8)
    peaks = Peaks(products=(peak,), copy_bytes_per_second=1.0, copied_bytes=1, calls=1)
    assert peaks.of("fp32") == peak
    assert peaks.of("bf16") is None


def test_the_share_of_a_bound_may_exceed_one():
    point = RooflinePoint(
        stage="head", batch=1, milliseconds=1.0, intensity=1.0, multiply_adds_per_second=3.0,
        bytes_per_second=3.0, bound=2.0, limit="memory",
    )  # fmt: skip
    assert point.share == pytest.approx(1.5)
