import importlib.util

import pytest

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.selection import Criteria, select
from lavit_deploy.common.errors import UsageError
from lavit_deploy.export.cli import main

pytestmark = pytest.mark.slow

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"
)


@pytest.fixture(scope="module")
def bundle(shallow_checkpoint_file, picture_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("int8") / "tiny.bundle"
    arguments = ["--ckpt", str(shallow_checkpoint_file), "--int8", "--calib", str(picture_folder)]
    # Labels are arbitrary for this model, so accuracy says nothing: the loss may be anything.
    arguments += ["--max-drop", "100", "--out", str(out), "--batch", "1", "4", "16"]
    assert main(arguments) in {0, 1}  # 1: of so small a model a class may change
    return Bundle.open(out)


def test_onnx_int8_computes_in_int8(bundle):
    artifact = bundle.artifact("onnx-int8")
    assert artifact.precision_found == "int8"
    assert artifact.compute_types["int8"] > artifact.compute_types.get("int8-weights", 0)
    assert artifact.quantization.worst_layer
    assert artifact.parity.cosine > 0.98  # 16 % of error turn a vector by 1 - 0.16^2 / 2 = 0.987
    assert artifact.quantization.float_operators["LayerNormalization"]


def test_weights_alone_are_found_as_such(bundle):
    assert bundle.artifact("onnx-int8-weights").precision_found == "int8-weights"


@needs_openvino
def test_openvino_int8_computes_in_int8_with_either_rest(bundle):
    for item in bundle.manifest.artifacts:
        if item.name.startswith("openvino-int8"):
            assert item.precision_found == item.precision_requested
            assert item.parity.cosine > 0.98
    rests = [
        item.quantization.rest
        for item in bundle.manifest.artifacts
        if item.precision_requested == "int8" and item.runtime == "openvino"
    ]
    assert rests[0] == "fp32"


def test_the_bundle_holds_the_table_and_the_plot_of_sensitivity(bundle):
    assert (bundle.path / "int8-sensitivity.png").stat().st_size > 1000
    table = (bundle.path / "int8-sensitivity.md").read_text()
    for block in bundle.artifact("onnx-int8").quantization.sensitivity:
        assert block in table


@needs_openvino
def test_where_a_bfloat16_rest_cannot_hold_the_file_is_made_for_float32(
    shallow_checkpoint_file, picture_folder, tmp_path, monkeypatch, unmeasured
):
    """What bfloat16 itself loses, no block in float mends: it must not fail float32 as well."""
    from lavit_deploy.export.quantization.accuracy_loss import Loss
    from lavit_deploy.export.quantization.int8_judge import Judge
    from lavit_deploy.export.targets import openvino_int8

    if len(openvino_int8.cpu_precisions()) == 1:
        pytest.skip("this CPU has no bfloat16")
    run, rests = openvino_int8._run, [None]

    def watched(judge, xml, rest):
        rests.append(rest)
        return run(judge, xml, rest)

    # The ONNX files first; then int8 as it is, and with blocks in float.
    lost = {None: [0.0], "bf16": [9.0], "fp32": [2.0, 0.0]}

    def loss(judge, logits):
        points = lost[rests[-1]]
        return Loss(1.0, 1.0 - (points.pop(0) if len(points) > 1 else points[0]) / 100, 1.0)

    monkeypatch.setattr(openvino_int8, "_run", watched)
    monkeypatch.setattr(Judge, "loss", loss)
    out = tmp_path / "b.bundle"
    arguments = ["--ckpt", str(shallow_checkpoint_file), "--int8", "--calib", str(picture_folder)]
    arguments += ["--target", "openvino", "--max-drop", "1", "--out", str(out)]
    main([*arguments, "--batch", "1", "2", "16"])
    made = Bundle.open(out)
    single, brief = made.artifact("openvino-int8"), made.artifact("openvino-int8-bf16")
    assert len(single.quantization.float_blocks) == 1
    assert single.quantization.drop == 0.0
    assert "loses 9.00 points" in brief.parity.reason
    assert single.file == brief.file
    table = (out / "int8-sensitivity.md").read_text()
    assert f"| {single.quantization.float_blocks[0]} |" in table
    assert "openvino-int8 |" in table


def test_int8_is_chosen_only_where_it_agrees_enough(bundle):
    chosen = select(bundle, Criteria(agreement=1.0)).artifact
    assert chosen.parity.top1_agreement == 1.0
    assert chosen.passed


def test_a_loss_above_max_drop_fails_the_artifact_and_float_stays(
    shallow_checkpoint_file, picture_folder, tmp_path, monkeypatch, unmeasured
):
    from lavit_deploy.export.quantization import int8_judge
    from lavit_deploy.export.quantization.accuracy_loss import Loss

    monkeypatch.setattr(int8_judge, "loss", lambda *_: Loss(1.0, 0.9, 0.9))
    out = tmp_path / "b.bundle"
    arguments = ["--ckpt", str(shallow_checkpoint_file), "--int8", "--calib", str(picture_folder)]
    assert main([*arguments, "--target", "onnx", "--out", str(out), "--batch", "1", "2", "16"]) == 1
    made = Bundle.open(out)
    assert "loses 10.00 points, allowed 0.50" in made.artifact("onnx-int8").parity.reason
    assert select(made, Criteria()).artifact.name == "onnx-fp32"


def test_the_manifest_says_whether_int8_is_faster_and_accurate(bundle):
    assert bundle.manifest.int8.startswith("int8 is ")


def test_int8_without_pictures_is_refused(shallow_checkpoint_file, tmp_path):
    with pytest.raises(UsageError, match="--int8 needs --calib"):
        main(["--ckpt", str(shallow_checkpoint_file), "--int8", "--out", str(tmp_path / "b")])
    with pytest.raises(UsageError, match="--calib is for --int8"):
        main(
            [
                "--ckpt",
                str(shallow_checkpoint_file),
                "--calib",
                "digits",
                "--out",
                str(tmp_path / "b"),
            ]
        )
