import shutil

import pytest

from lavit_deploy.common.errors import BundleError
from lavit_deploy.model.counts import multiply_adds
from lavit_deploy.profiles.subjects.names import resolve
from lavit_deploy.profiles.subjects.profiled_model import RunSettings

HERE = RunSettings()


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


def test_growth_of_an_artifact_is_that_of_its_architecture(tiny_bundle, tiny_checkpoint_file):
    sizes = (32, 64, 96)
    artifact = resolve(str(tiny_bundle.path), HERE).growth(sizes)
    assert artifact == resolve(str(tiny_checkpoint_file), HERE).growth(sizes)
