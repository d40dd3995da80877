import dataclasses
import io
import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from rich.console import Console

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.open import open_artifact
from lavit_deploy.bundle.selection import Criteria, select
from lavit_deploy.checkpoint import save_checkpoint
from lavit_deploy.common.errors import ParityError, UsageError
from lavit_deploy.export.cli import entry, main, make_parser, read_classes
from lavit_deploy.export.console import print_plan, print_result
from lavit_deploy.export.graphs.onnx_graph import write_onnx
from lavit_deploy.export.judging.divergence import first_divergent_layer
from lavit_deploy.export.judging.parity_pictures import (
    ParityPictures,
    folder_pictures,
    sample_pictures,
)
from lavit_deploy.export.judging.reference import reference_logits
from lavit_deploy.export.pipeline import ExportJob
from lavit_deploy.export.plan import make_plan
from lavit_deploy.export.request import Request
from lavit_deploy.export.targets.openvino import OpenVinoTarget, run_openvino
from lavit_deploy.manifest import BatchRange
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.runtimes.openvino import cpu_precisions
from lavit_deploy.tasks.logits_parity import TOLERANCES, compare

pytestmark = pytest.mark.slow

BATCHES = ("--batch", "1", "4", "16")
"""As those of the shared bundle: the exporter is asked once for a graph that tests share."""


def test_the_bundle_holds_what_the_manifest_says(tiny_bundle):
    manifest = tiny_bundle.manifest
    openvino = [f"openvino-{precision}" for precision in cpu_precisions()]
    names = [item.name for item in manifest.artifacts]
    assert names == ["onnx-fp32", "onnx-fp16", *openvino]
    assert {item.name for item in tiny_bundle.path.iterdir()} == {
        "manifest.json",
        *(item.file for item in manifest.artifacts),
        *(extra.file for item in manifest.artifacts for extra in item.extra_files),
    }
    for item in manifest.artifacts:
        file = tiny_bundle.verified_file(item)
        assert file.stat().st_size == item.size_bytes
        assert item.precision_found == item.precision_requested
        assert item.passed
        assert item.parity.images == 64
        assert [timing.batch for timing in item.timings] == [1, 4]
        assert all(timing.median_ms > 0 for timing in item.timings)
        assert 0 < item.footprint.own_mib < item.footprint.peak_mib
    assert manifest.classes == ("ant", "bee", "cat", "dog", "eel")


def test_targets_of_repeated_options_add_up():
    parse = make_parser().parse_args
    assert parse(["--ckpt", "a", "--target", "onnx", "aoti"]).target == ["onnx", "aoti"]
    repeated = ["--ckpt", "a", "--target", "onnx", "--target", "aoti"]
    assert parse(repeated).target == ["onnx", "aoti"]


def test_half_precision_is_about_half_the_weights(tiny_checkpoint, tiny_bundle):
    sizes = {}
    for name in ("onnx-fp32", "onnx-fp16"):
        graph = onnx.load(tiny_bundle.verified_file(tiny_bundle.artifact(name))).graph
        sizes[name] = sum(len(item.raw_data) for item in graph.initializer)
    assert sizes["onnx-fp16"] < 0.75 * sizes["onnx-fp32"]


def test_every_artifact_predicts_what_the_checkpoint_predicts(
    tiny_bundle, tiny_model, tiny_preprocess, pictures
):
    reference = reference_logits(tiny_model, pictures, tiny_preprocess)
    for item in tiny_bundle.manifest.artifacts:
        with open_artifact(tiny_bundle, item) as runtime:
            found = np.concatenate([runtime.infer(pictures[i : i + 5]) for i in range(0, 12, 5)])
        assert compare(found, reference, item.precision_requested, source="test").passed


def test_an_existing_bundle_is_kept_unless_forced(tiny_checkpoint_file, tmp_path, unmeasured):
    out = tmp_path / "b"
    arguments = ["--ckpt", str(tiny_checkpoint_file), "--out", str(out), "--target", "onnx"]
    arguments += BATCHES
    assert main(arguments) == 0
    created = Bundle.open(out).manifest.created
    with pytest.raises(UsageError, match="--force replaces it"):
        main(arguments)
    assert Bundle.open(out).manifest.created == created
    assert main([*arguments, "--force", "--name", "second", "--no-fold"]) == 0
    assert Bundle.open(out).manifest.name == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_folder_that_is_no_bundle_is_never_replaced(tiny_checkpoint_file, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is not a bundle"):
        main(["--ckpt", str(tiny_checkpoint_file), "--out", str(tmp_path), "--force"])
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("out", [".", "..", "/proc", ""])
def test_a_folder_that_cannot_be_moved_is_refused_before_anything_is_built(
    tiny_checkpoint_file, tmp_path, monkeypatch, out
):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match=r"new folder inside it|cannot be written"):
        main(["--ckpt", str(tiny_checkpoint_file), "--out", out, "--force"])
    assert not any(folder.iterdir())


@pytest.fixture(scope="module")
def overflowing(tiny_checkpoint, tmp_path_factory):
    """A checkpoint that float16 cannot hold: one layer's features exceed 65504."""
    model = LaViT(tiny_checkpoint.config)
    model.load_state_dict(tiny_checkpoint.state_dict)
    with torch.no_grad():
        model.stages[2].blocks[1].mlp.fc1.weight.mul_(1e6)
        model.stages[2].blocks[1].mlp.fc2.weight.mul_(1e-6)
    path = tmp_path_factory.mktemp("overflow") / "overflow.pth"
    save_checkpoint(
        path, model, preprocess=tiny_checkpoint.preprocess, classes=tiny_checkpoint.classes
    )
    return path


def test_failed_parity_ends_in_1_keeps_the_artifact_and_names_the_layer(
    overflowing, tmp_path, capsys, unmeasured
):
    out = tmp_path / "b"
    assert main(["--ckpt", str(overflowing), "--fp16", "--out", str(out), "--target", "onnx"]) == 1
    bundle = Bundle.open(out)
    fp32, fp16 = bundle.manifest.artifacts
    assert fp32.parity.passed
    assert not fp16.parity.passed
    assert "not finite" in fp16.parity.reason
    assert fp16.parity.first_divergent_layer.startswith("stages.2.blocks.1 ")
    assert (out / fp16.file).is_file()
    assert select(bundle, Criteria()).artifact == fp32
    with pytest.raises(ParityError, match="failed parity"):
        select(bundle, Criteria("onnx-fp16"))
    assert "stages.2.blocks.1" in " ".join(capsys.readouterr().out.split())


def test_an_extra_that_fails_parity_does_not_fail_the_export(
    tiny_checkpoint_file, tmp_path, monkeypatch, capsys, unmeasured
):
    """Nobody asked for it; it is reported, stays in the bundle as failed, and is never served."""
    strict = dataclasses.replace(TOLERANCES["bf16"], cosine=1.1)
    monkeypatch.setitem(TOLERANCES, "bf16", strict)
    monkeypatch.setattr("lavit_deploy.export.targets.openvino.cpu_precisions", lambda: ("bf16",))
    out, named = tmp_path / "extra", tmp_path / "named"
    if "bf16" not in cpu_precisions():
        pytest.skip("this CPU has no bfloat16 instructions")
    arguments = [*BATCHES, "--ckpt", str(tiny_checkpoint_file), "--out"]
    assert main([*arguments, str(out)]) == 0
    assert "openvino-bf16 failed parity" in " ".join(capsys.readouterr().out.split())
    assert select(Bundle.open(out), Criteria()).artifact.name == "onnx-fp32"
    assert main([*arguments, str(named), "--target", "openvino"]) == 1


def test_bf16_says_that_it_was_not_run_as_it_is(tiny_checkpoint_file, tmp_path):
    out = tmp_path / "b"
    arguments = ["--ckpt", str(tiny_checkpoint_file), "--bf16", "--out", str(out), *BATCHES]
    assert main([*arguments, "--device", "cpu"]) == 0
    bundle = Bundle.open(out)
    bf16 = bundle.artifact("onnx-bf16")
    assert bf16.devices == ("cuda",)
    assert bf16.timings == ()
    assert "rounded to bf16" in bf16.parity.method
    assert bf16.precision_found == "bf16"
    assert select(bundle, Criteria(runtime="onnxruntime")).artifact.name == "onnx-fp32"


def test_class_names_are_read_from_text_and_json(tmp_path):
    text, table = tmp_path / "c.txt", tmp_path / "c.json"
    text.write_text("tabby cat\negyptian cat\n\n", encoding="utf-8-sig")  # as Notepad writes it
    table.write_text(json.dumps(["tabby cat", "egyptian cat"]))
    assert read_classes(text, 2) == read_classes(table, 2) == ("tabby cat", "egyptian cat")
    with pytest.raises(UsageError, match="has 2 names, the model has 3 classes"):
        read_classes(text, 3)
    table.write_text('{"a": 1}')
    with pytest.raises(UsageError, match="JSON list"):
        read_classes(table, 2)
    with pytest.raises(UsageError, match="cannot be read"):
        read_classes(tmp_path / "absent.txt", 2)


def test_parity_pictures_come_from_a_folder_and_unreadable_ones_are_listed(
    tiny_preprocess, tmp_path
):
    for index in range(3):
        Image.effect_noise((40, 50), 80).convert("RGB").save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    found = folder_pictures(tmp_path, tiny_preprocess)
    assert found.images.shape == (3, 32, 32, 3)
    assert [line.split(":")[0] for line in found.skipped] == ["notes.txt"]


def test_a_folder_without_pictures_is_an_error(tiny_preprocess, tmp_path):
    with pytest.raises(UsageError, match="no readable picture"):
        folder_pictures(tmp_path, tiny_preprocess)
    with pytest.raises(UsageError, match="no folder"):
        folder_pictures(tmp_path / "absent", tiny_preprocess)


def test_the_sample_pictures_are_real_and_all_different(tiny_preprocess):
    images = sample_pictures(tiny_preprocess).images
    assert images.shape == (64, 32, 32, 3)
    assert len(np.unique(images.reshape(64, -1), axis=0)) == 64
    assert images.std(axis=(1, 2, 3)).min() > 5


@pytest.mark.parametrize("batch", [("0", "1", "2"), ("2", "1", "4"), ("1", "8", "4")])
def test_an_impossible_batch_range_is_refused(tiny_checkpoint_file, tmp_path, batch):
    with pytest.raises(UsageError, match="MIN <= OPT <= MAX"):
        main(["--ckpt", str(tiny_checkpoint_file), "--out", str(tmp_path / "b"), "--batch", *batch])


def test_cuda_without_a_gpu_is_refused_with_the_reason(tiny_checkpoint_file, tmp_path):
    import shutil

    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(UsageError, match="--device cuda: "):
        main(
            ["--ckpt", str(tiny_checkpoint_file), "--out", str(tmp_path / "b"), "--device", "cuda"]
        )


OPTIONS = {
    "--arch",
    "--batch",
    "--bf16",
    "--builder-memory",
    "--calib",
    "--ckpt",
    "--classes",
    "--compute-capability",
    "--device",
    "--eval",
    "--force",
    "--fp16",
    "--hardware-compatible",
    "--help",
    "--image-size",
    "--int8",
    "--la",
    "--max-drop",
    "--max-refused",
    "--mlp",
    "--mobile",
    "--name",
    "--no-fold",
    "--optimization-level",
    "--out",
    "--parity-images",
    "--plugin",
    "--refit",
    "--strip",
    "--target",
    "--tf32",
    "--timing-cache",
    "--use-ema",
    "--version",
    "--version-compatible",
    "--weights",
}


def test_the_options_are_these():
    """A new option is a promise to users: this list changes only on purpose."""
    found = {
        s for action in make_parser()._actions for s in action.option_strings if s.startswith("--")
    }
    assert found == OPTIONS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt", "x.pth", "--fp17"], "unrecognized arguments: --fp17"),
        ([], "required: --ckpt"),
    ],
)
def test_a_users_mistake_is_one_message_and_no_traceback(tmp_path, arguments, message):
    program = (
        "import sys; sys.argv[0] = 'lavit-export'\n"
        "from lavit_deploy.export.cli import entry; entry()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert message in ran.stderr
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    assert ran.stdout == ""


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("absent.pth", "no checkpoint at absent.pth"),
        ("text.pth", "text.pth is damaged or not a PyTorch checkpoint"),
    ],
)
def test_a_checkpoint_that_is_none_is_one_message_too(
    tmp_path, monkeypatch, capsys, checkpoint, message
):
    (tmp_path / "text.pth").write_text("hello")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lavit-export", "--ckpt", checkpoint])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its handlers
    with pytest.raises(SystemExit) as ended:
        entry()
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(tiny_checkpoint_file, tmp_path, number):
    # A shell's background jobs, and with them what they start, ignore SIGINT.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "sys.argv[0] = 'lavit-export'; from lavit_deploy.export.cli import entry; entry()"
    )
    arguments = ["--ckpt", str(tiny_checkpoint_file), "--out", str(tmp_path / "b")]
    command = [sys.executable, "-u", "-c", program, *arguments, "--target", "onnx"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout:
            if line == "  ... build onnx-fp32\n":
                break
        assert [path.name.startswith(".b.") for path in tmp_path.iterdir()] == [True]
        running.send_signal(number)
        running.stdout.read()
        assert running.wait(60) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_done(
    tiny_checkpoint_file, tmp_path
):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "sub" / "b.bundle"
    with pytest.raises(UsageError, match=r"b.bundle cannot be written: .*file: Not a directory"):
        main(["--ckpt", str(tiny_checkpoint_file), "--out", str(out)])


def test_a_log_of_80_columns_cuts_no_table(tiny_bundle):
    server, *_ = tiny_bundle.manifest.artifacts
    slow = tuple(item.model_copy(update={"median_ms": 1234.5}) for item in server.timings)
    names = {"name": "openvino-int8-weights", "precision_found": "int8-weights", "timings": slow}
    mobile = {
        "name": "executorch-fp16",
        "runtime": "executorch",
        "timings": tuple(item.model_copy(update={"median_ms": 126.4}) for item in slow),
        "undelegated_operators": {"layer_norm": 117},
        "undelegated_share": 0.45,
    }
    artifacts = (server.model_copy(update=names), server.model_copy(update=names | mobile))
    manifest = tiny_bundle.manifest.model_copy(update={"artifacts": artifacts})
    job = SimpleNamespace(folding=None, plan=SimpleNamespace(triton_repository=False))
    console = Console(file=io.StringIO(), width=80)
    print_result(console, job, Bundle(tiny_bundle.path, manifest), 1.0)
    shown = console.file.getvalue()
    assert "\u2026" not in shown
    assert "openvino-int8-weights" in shown
    assert "126.4/126.4" in shown
    assert "117:45%" in shown


def test_names_that_look_like_markup_are_shown_whole(tiny_checkpoint):
    checkpoint = dataclasses.replace(tiny_checkpoint, file=Path("run[best].pth"))
    batch = BatchRange(minimum=1, optimum=1, maximum=1)
    pictures = ParityPictures(np.zeros((1, 32, 32, 3), np.uint8), "none")
    job = ExportJob(checkpoint, make_plan(Request(), "cpu"), pictures, batch, "run", fold=False)
    console = Console(file=io.StringIO(), width=40)
    print_plan(console, job, Path("a[b]/run[best].bundle"))
    first, *_ = console.file.getvalue().splitlines()
    assert first.startswith("run[best].pth: custom, 32 x 32, 5 classes")
    assert first.endswith(" -> a[b]/run[best].bundle")


def test_a_precision_that_was_not_built_fails_the_artifact(
    tiny_checkpoint_file, tmp_path, monkeypatch, unmeasured
):
    """An artifact that silently computes in something else must not pass for what was asked."""
    monkeypatch.setattr(
        "lavit_deploy.export.judging.context.to_precision", lambda model, _precision: model
    )
    out = tmp_path / "b"
    arguments = ["--ckpt", str(tiny_checkpoint_file), "--fp16", "--target", "onnx", *BATCHES]
    assert main([*arguments, "--out", str(out)]) == 1
    fp16 = Bundle.open(out).artifact("onnx-fp16")
    assert not fp16.passed
    assert fp16.failure.reason == "asked for fp16, the artifact computes in fp32"


def test_without_openvino_the_plan_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("lavit_deploy.export.targets.openvino.find_spec", lambda _name: None)
    planned = make_plan(Request(), "cpu")
    assert not any(isinstance(target, OpenVinoTarget) for target in planned.targets)
    (step,) = [step for step in planned.steps if step.what == "openvino"]
    assert (step.action, step.why) == (
        "skip",
        'not installed: pip install "lavit-deploy[openvino]"',
    )


def test_the_plan_leaves_out_bf16_where_the_cpu_has_none(monkeypatch):
    monkeypatch.setattr("lavit_deploy.export.targets.openvino.cpu_precisions", lambda: ("fp32",))
    planned = make_plan(Request(frozenset({"openvino"}), "fp16"), "cpu")
    assert [target.precisions for target in planned.targets] == [("fp32", "fp16"), ("fp32",)]
    assert ("openvino-bf16", "skip") in [(step.what, step.action) for step in planned.steps]


def test_an_openvino_departure_is_found_in_openvino(
    tiny_checkpoint, tiny_model, pictures, tmp_path
):
    """The layers are compared as OpenVINO computes them, not as ONNX Runtime does."""
    batch = BatchRange(minimum=1, optimum=4, maximum=16)
    graph = write_onnx(
        tiny_checkpoint, tiny_model, tmp_path / "m.onnx", batch=batch, precision="fp32"
    )
    damaged = onnx.ModelProto()
    damaged.CopyFrom(graph)
    (bias,) = [
        i for i in damaged.graph.initializer if i.name.endswith("stages.2.blocks.0.mlp.fc2.bias")
    ]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    found = first_divergent_layer(
        damaged,
        tiny_model,
        pictures[:2],
        tiny_checkpoint.preprocess,
        tolerance=1e-3,
        run=partial(run_openvino, precision="fp32"),
    )
    assert found.startswith("stages.2.blocks.0 ")
