import pytest

from lavit_deploy.profiles.timing import machine_peaks
from lavit_deploy.profiles.timing.machine_peaks import measure_peaks


@pytest.fixture
def clock(monkeypatch):
    """Every call takes this many seconds."""

    def set_seconds(seconds):
        def timed(call, device):
            call()
            return seconds

        monkeypatch.setattr(machine_peaks, "_seconds", timed)

    return set_seconds


def test_peaks_are_work_over_the_time_of_a_call(clock):
    clock(0.5)
    found = measure_peaks("cpu", 1, sizes=[8], copied=4096)
    assert [peak.precision for peak in found.products] == ["fp32", "bf16", "fp16"]
    assert all(peak.multiply_adds_per_second == 8**3 / 0.5 for peak in found.products)
    assert found.copy_bytes_per_second == 2 * 4096 / 0.5  # read and written


def test_the_fastest_size_counts(clock):
    clock(0.5)
    found = measure_peaks("cpu", 1, sizes=[8, 9], copied=4096)
    assert found.of("fp32").size == 9


def test_a_size_that_would_take_too_long_is_not_tried(clock):
    clock(0.5)
    assert measure_peaks("cpu", 1, sizes=[8, 64], copied=4096).of("fp32").size == 8


def test_a_real_measurement_tells_its_steps_and_gives_positive_peaks():
    told = []
    found = measure_peaks(
        "cpu", 1, lambda what, share: told.append(share), sizes=[32], copied=1 << 16
    )
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert all(peak.multiply_adds_per_second > 0 for peak in found.products)
    assert found.of("fp64") is None
