import sys

import pytest

from lavit_deploy.common.errors import ConfigError, MissingDependencyError
from lavit_deploy.model.config import preset
from lavit_deploy.model.counts import multiply_adds, parameter_count
from lavit_deploy.profiles.subjects.names import resolve
from lavit_deploy.profiles.subjects.profiled_model import RunSettings

HERE = RunSettings()


def test_a_preset_is_counted_with_the_papers_numbers_beside_it():
    report = resolve("lavit_t", HERE).measure()
    assert report.counts.total == multiply_adds(preset("lavit_t")).total()
    assert report.counts.total == report.counts.closed_form
    assert report.parameters == parameter_count(preset("lavit_t")).total()
    assert (report.published.parameters_m, report.published.gflops) == (10.9, 1.6)
    assert any("reading" in note for note in report.notes)


def test_the_papers_numbers_are_not_shown_for_another_size():
    report = resolve("lavit_t", RunSettings(image_size=256)).measure()
    assert report.published is None
    assert report.image_size == (256, 256)


def test_a_baseline_says_how_its_attention_runs():
    for attention in ("eager", "sdpa"):
        assert (
            resolve("pvt_v2_b1", RunSettings(attention=attention)).measure().attention == attention
        )


def test_a_checkpoint_is_its_own_model(tiny_checkpoint_file, tiny_model):
    report = resolve(str(tiny_checkpoint_file), HERE).measure()
    assert report.kind == "checkpoint"
    assert report.counts.total == multiply_adds(tiny_model.config).total()
    assert report.parameters == parameter_count(tiny_model.config).total()


def test_a_preset_refuses_a_size_that_its_stages_do_not_divide():
    with pytest.raises(ConfigError, match="does not divide"):
        resolve("lavit_s", RunSettings(image_size=100))


@pytest.mark.parametrize(
    ("text", "package", "modules"),
    [("pvt_tiny", "transformers", ()), ("lavit_micro", "torch", ("lavit_deploy.model.lavit",))],
)
def test_a_missing_package_names_the_extra_that_brings_it(monkeypatch, text, package, modules):
    monkeypatch.setitem(sys.modules, package, None)
    for module in modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(MissingDependencyError, match=r'pip install "lavit-deploy\[profile\]"'):
        resolve(text, HERE)
