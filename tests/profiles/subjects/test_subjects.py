import shutil
import sys

import pytest

from lavit_deploy.common.errors import (
    BundleError,
    CheckpointError,
    ConfigError,
    MissingDependencyError,
    UsageError,
)
from lavit_deploy.model.config import preset
from lavit_deploy.model.counts import multiply_adds, parameter_count
from lavit_deploy.profiles.baselines import BASELINES
from lavit_deploy.profiles.subjects.subjects import Settings, profile_extra, resolve

HERE = Settings()


def test_a_preset_is_counted_with_the_papers_numbers_beside_it():
    report = resolve("lavit_t", HERE).measure()
    assert report.counts.total == multiply_adds(preset("lavit_t")).total()
    assert report.counts.total == report.counts.closed_form
    assert report.parameters == parameter_count(preset("lavit_t")).total()
    assert (report.published.parameters_m, report.published.gflops) == (10.9, 1.6)
    assert any("reading" in note for note in report.notes)


def test_the_papers_numbers_are_not_shown_for_another_size():
    report = resolve("lavit_t", Settings(image_size=256)).measure()
    assert report.published is None
    assert report.image_size == (256, 256)


def test_a_baseline_says_how_its_attention_runs():
    for attention in ("eager", "sdpa"):
        assert resolve("pvt_v2_b1", Settings(attention=attention)).measure().attention == attention


def test_a_checkpoint_is_its_own_model(tiny_checkpoint_file, tiny_model):
    report = resolve(str(tiny_checkpoint_file), HERE).measure()
    assert report.kind == "checkpoint"
    assert report.counts.total == multiply_adds(tiny_model.config).total()
    assert report.parameters == parameter_count(tiny_model.config).total()


@pytest.mark.parametrize("named", [False, True])
def test_a_bundle_is_opened_by_its_folder_and_by_an_artifacts_name(tiny_bundle, tiny_model, named):
    (artifact,) = tiny_bundle.manifest.artifacts
    text = f"{tiny_bundle.path}:{artifact.name}" if named else str(tiny_bundle.path)
    subject = resolve(text, HERE)
    report = subject.measure()
    assert report.label == text
    assert report.counts.method == "closed form"
    assert report.counts.total == multiply_adds(tiny_model.config).total()
    with subject.open() as runner:
        runner.prepare(2)
        assert runner.call() > 0


def test_an_unknown_artifact_lists_those_there_are(tiny_bundle):
    (artifact,) = tiny_bundle.manifest.artifacts
    with pytest.raises(BundleError, match=artifact.name):
        resolve(f"{tiny_bundle.path}:onnx-int3", HERE)


def test_an_altered_artifact_is_refused_before_it_is_timed(tiny_bundle, tmp_path):
    copy = tmp_path / "copy.bundle"
    shutil.copytree(tiny_bundle.path, copy)
    (artifact,) = tiny_bundle.manifest.artifacts
    with (copy / artifact.file).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match="sha256"):
        resolve(str(copy), HERE).open()


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UsageError) as caught:
        resolve("lavit_xxl", HERE)
    for name in ("'lavit_xxl'", "lavit_s", *BASELINES):
        assert name in str(caught.value)


def test_a_missing_checkpoint_is_not_called_an_unknown_model(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        resolve(str(tmp_path / "gone.pth"), HERE)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    file = tmp_path / "notes.pth"
    file.write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=r"notes\.pth"):
        resolve(str(file), HERE)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="not a bundle"):
        resolve(str(tmp_path), HERE)


def test_trained_weights_cannot_be_resized(tiny_checkpoint_file, tiny_bundle):
    for text in (str(tiny_checkpoint_file), str(tiny_bundle.path)):
        with pytest.raises(UsageError, match="32 x 32"):
            resolve(text, Settings(image_size=64))


def test_a_preset_refuses_a_size_that_its_stages_do_not_divide():
    with pytest.raises(ConfigError, match="does not divide"):
        resolve("lavit_s", Settings(image_size=100))


@pytest.mark.parametrize(
    ("text", "package", "modules"),
    [
        (
            "pvt_tiny",
            "transformers",
            (
                "lavit_deploy.profiles.baselines.build",
                "lavit_deploy.profiles.baselines.from_transformers",
            ),
        ),
        ("lavit_micro", "torch", ("lavit_deploy.model.lavit",)),
    ],
)
def test_a_missing_package_names_the_extra_that_brings_it(monkeypatch, text, package, modules):
    monkeypatch.setitem(sys.modules, package, None)
    for module in modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(MissingDependencyError, match=r'pip install "lavit-deploy\[profile\]"'):
        resolve(text, HERE)


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


def test_other_missing_modules_are_faults_of_the_program():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), profile_extra("try"):
        import no_such_module  # noqa: F401 - it does not exist


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
    assert resolve("lavit_micro", Settings(runtime="torch-compile")).split(1, 1) is None


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


def test_growth_of_an_artifact_is_that_of_its_architecture(tiny_bundle, tiny_checkpoint_file):
    sizes = (32, 64, 96)
    artifact = resolve(str(tiny_bundle.path), HERE).growth(sizes)
    assert artifact == resolve(str(tiny_checkpoint_file), HERE).growth(sizes)


def test_growth_to_a_size_that_does_not_exist_names_it():
    with pytest.raises(UsageError, match="100 pixels"):
        resolve("lavit_micro", HERE).growth((64, 100))


def test_a_name_that_is_almost_right_is_answered_with_the_right_one():
    for given, meant in (("swin_tny", "swin_tiny"), ("lavit-s", "lavit_s")):
        with pytest.raises(UsageError, match=f"no model '{given}'.* Did you mean {meant}?"):
            resolve(given, Settings())
    with pytest.raises(UsageError, match=r"@ can be followed by torch, torch-compile, cuda-graph"):
        resolve("lavit_s@onnx", Settings())
