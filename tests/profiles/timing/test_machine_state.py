import pytest

from lavit_deploy.profiles.report.machine import MachineState, describe
from lavit_deploy.profiles.timing import machine_state as module
from lavit_deploy.profiles.timing.machine_state import machine_state


@pytest.fixture
def root(tmp_path):
    """A machine whose clocks, sensors and counters are known."""
    files = {
        "proc/cpuinfo": "processor : 0\ncpu MHz\t: 1000.0\nprocessor : 1\ncpu MHz\t: 2000.0\n",
        "proc/stat": "cpu  1 2 3 4 5 6 7 250 9 10\ncpu0 1\n",
        "sys/class/thermal/thermal_zone0/temp": "41000\n",
        "sys/class/thermal/thermal_zone1/temp": "55500\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_clocks_temperature_governor_and_stolen_time_are_read(root):
    assert machine_state("cpu", root=root) == MachineState(
        clock_mhz=1500.0, governor="performance", temperature_c=55.5, stolen_seconds=2.5
    )


def test_a_machine_that_tells_nothing_is_described_as_such(tmp_path):
    nothing = machine_state("cpu", root=tmp_path)
    assert nothing == MachineState()
    assert "no thermal sensor" in describe(nothing, nothing)
    assert "not recorded" in describe(None, nothing)


def test_a_gpu_is_asked_through_its_drivers_tool(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "answer_of", lambda *_: "1980, 2619, 45, [N/A]")
    found = machine_state("cuda", root=tmp_path)
    assert (found.gpu_clock_mhz, found.gpu_memory_clock_mhz) == (1980.0, 2619.0)
    assert (found.gpu_temperature_c, found.gpu_power_w) == (45.0, None)
