"""A second family goes the whole way, and nothing but its own file knows it."""

import numpy as np
import pytest
import torch

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.inference import classify, open_runtime
from lavit_deploy.checkpoint import load_checkpoint, save_checkpoint
from lavit_deploy.common.errors import BundleError, CheckpointError
from lavit_deploy.export.api import export_checkpoint
from lavit_deploy.export.judging.reference import reference_logits
from lavit_deploy.export.quantization.quantizable_nodes import blocks, products
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.profiles.subjects.names import resolve
from lavit_deploy.profiles.subjects.profiled_model import RunSettings

pytestmark = pytest.mark.slow

NAMES = ("red", "green", "blue")
PREPROCESS = Preprocess(resize=16, crop=(16, 16), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


@pytest.fixture
def checkpoint(tiny_family, tmp_path):
    """A network of it, saved."""
    model = tiny_family.TINY.build(tiny_family.TinyConfig()).eval()
    with torch.no_grad():
        model.head.weight.mul_(20)  # so that classes differ
    file = tmp_path / "tiny.pth"
    save_checkpoint(file, model, preprocess=PREPROCESS, classes=NAMES)
    return file


def noise(count):
    return np.random.default_rng(3).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def test_a_checkpoint_says_its_family_and_is_built_again(checkpoint, tiny_family):
    read = load_checkpoint(checkpoint)
    assert (read.family.name, read.architecture) == ("tiny", "tiny_8")
    assert read.config == tiny_family.TinyConfig()
    assert type(read.build()).__name__ == "TinyNet"


def test_bare_tensors_are_recognised_by_their_shapes(checkpoint, tmp_path):
    bare = tmp_path / "bare.pth"
    torch.save(load_checkpoint(checkpoint).state_dict, bare)
    read = load_checkpoint(bare)
    assert read.family.name == "tiny"
    assert read.inferred[0] == "architecture tiny_8 [16, 16], from the tensor shapes"


def test_without_its_package_a_checkpoint_names_what_is_missing(checkpoint, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="no model family 'tiny'; there are lavit"):
        load_checkpoint(checkpoint)


def test_from_checkpoint_to_bundle_answer_and_profile(
    checkpoint, tmp_path, tiny_family, monkeypatch
):
    out = tmp_path / "tiny.bundle"
    bundle = export_checkpoint(checkpoint, out, targets=("onnx",), half="fp16", device="cpu")
    manifest = bundle.manifest
    assert (manifest.family, manifest.task, manifest.architecture) == (
        *("tiny", "classification"),
        "tiny_8",
    )
    assert manifest.config == tiny_family.TinyConfig()
    full, half = manifest.artifacts
    assert full.passed
    assert half.passed
    assert (full.precision_found, half.precision_found) == ("fp32", "fp16")
    assert half.compute_types == {"fp16": 2, "fp32": 1}  # the head stays float32
    assert not full.folded
    assert full.footprint is not None  # measured in a process of its own

    images = noise(4)
    expected = reference_logits(load_checkpoint(checkpoint).build(), images, PREPROCESS)
    with open_runtime(out, "onnx-fp32") as runtime:
        # Two float32 computations of sums of 72 terms: 1e-5 of the logits' scale.
        np.testing.assert_allclose(runtime.infer(images), expected, atol=1e-4)
    answers = classify(out, list(images), top_k=1, artifact="onnx-fp32")
    assert [answer[0][0] for answer in answers] == [NAMES[row.argmax()] for row in expected]

    report = resolve(str(out), RunSettings()).measure()
    traced = resolve(str(checkpoint), RunSettings()).measure()
    assert report.counts.total == traced.counts.total == 16 * (3 * 8 * 16 + 8 * 8 * 9) + 8 * 3
    assert report.parameters == traced.parameters
    assert report.counts.by_stage == traced.counts.by_stage
    assert report.counts.by_part == traced.counts.by_part

    monkeypatch.undo()  # its package is gone
    with pytest.raises(BundleError, match="no model family 'tiny'; there are lavit"):
        Bundle.open(out)


def test_layers_are_the_blocks_that_int8_is_decided_for(checkpoint, tmp_path):
    import onnx

    bundle = export_checkpoint(checkpoint, tmp_path / "b", targets=("onnx",), device="cpu")
    found = products(onnx.load(bundle.path / bundle.manifest.artifacts[0].file))
    assert blocks(found) == ("mix", "head")  # the first one reads the picture


def test_a_preset_is_profiled_by_its_name(tiny_family):
    report = resolve("tiny_8", RunSettings(image_size=32)).measure()
    assert report.counts.total == report.counts.closed_form == 64 * (3 * 8 * 16 + 8 * 8 * 9) + 24
