import sys

import pytest

from lavit_deploy.common.errors import MissingDependencyError, UsageError
from lavit_deploy.profiles.subjects.names import resolve
from lavit_deploy.profiles.subjects.profiled_model import RunSettings

HERE = RunSettings()


def test_a_missing_fvcore_names_the_extra_too(monkeypatch):
    subject = resolve("lavit_micro", HERE)
    for name in [name for name in sys.modules if name.partition(".")[0] == "fvcore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fvcore", None)
    for name in (
        "lavit_deploy.profiles.counting.trace",
        "lavit_deploy.profiles.counting.operator_rules",
    ):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(MissingDependencyError, match="fvcore"):
        subject.measure()


def test_costs_come_by_stage_and_part_by_operator_and_by_module():
    report = resolve("lavit_micro", HERE).measure()
    assert sum(cell.multiply_adds for cell in report.cells) == report.counts.total
    assert sum(cell.parameters for cell in report.cells) == report.parameters
    assert sum(one.multiply_adds for one in report.operators) == report.counts.total
    whole = report.modules[0]
    assert (whole.module, whole.multiply_adds) == ("", report.counts.total)
    assert whole.bytes_moved == sum(cell.bytes_moved for cell in report.cells)


def test_time_of_an_eager_model_is_split_over_the_cells_of_its_costs():
    subject = resolve("lavit_micro", HERE)
    split = subject.split(batch=2, calls=3)
    assert (split.batch, split.calls) == (2, 3)
    costly = {(cell.stage, cell.part) for cell in subject.measure().cells if cell.multiply_adds}
    assert {(cell.stage, cell.part) for cell in split.cells} == costly
    assert 0 <= split.unattributed_share < 1


def test_a_compiled_model_has_no_modules_to_split_by():
    assert resolve("lavit_micro", RunSettings(runtime="torch-compile")).split(1, 1) is None


@pytest.mark.parametrize("name", ["lavit_micro", "swin_tiny", "deit_tiny"])
def test_growth_is_that_of_the_closed_form(name):
    growth = resolve(name, HERE).growth((448, 224))
    assert growth.sizes == (224, 448)
    columns = zip(*(part.multiply_adds for part in growth.parts), strict=True)
    assert tuple(sum(column) for column in columns) == growth.total
    assert growth.total[1] > 3.9 * growth.total[0]


def test_growth_of_a_model_without_closed_form_is_traced():
    growth = resolve("resnet_18", HERE).growth((64, 128))
    assert {part.part: part.exponent for part in growth.parts} == pytest.approx(
        {"patch_embed": 1.0, "convolutions": 1.0, "head": 0.0}
    )


def test_growth_to_a_size_that_does_not_exist_names_it():
    with pytest.raises(UsageError, match="100 pixels"):
        resolve("lavit_micro", HERE).growth((64, 100))
