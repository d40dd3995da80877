import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.open import open_artifact
from lavit_deploy.common.errors import BundleError, ExportError, InferenceError, UsageError
from lavit_deploy.export.cli import main
from lavit_deploy.export.plan import make_plan
from lavit_deploy.export.request import EngineOptions, Request
from lavit_deploy.export.targets.aoti import AotiTarget, PackageCandidate, plan_aoti
from lavit_deploy.model.config import lavit_micro
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.runtimes import aoti
from lavit_deploy.runtimes.aoti import AotiRuntime

pytestmark = pytest.mark.slow


def bundle_of(checkpoint, folder, *options):
    """A bundle whose package takes batches of 1 to 16."""
    if shutil.which("g++") is None:
        pytest.skip("AOTInductor needs a C++ compiler")
    out = folder / "tiny.bundle"
    arguments = ["--ckpt", str(checkpoint), "--target", "aoti", "--device", "cpu", *options]
    assert main([*arguments, "--batch", "1", "2", "16", "--out", str(out)]) == 0
    return Bundle.open(out)


@pytest.fixture(scope="module")
def package(shallow_checkpoint_file, tmp_path_factory):
    """A bundle with the package that AOTInductor compiles for this CPU."""
    return bundle_of(shallow_checkpoint_file, tmp_path_factory.mktemp("aoti"))


def test_a_compiled_package_predicts_what_the_checkpoint_predicts(package, pictures):
    item = package.artifact("aoti-fp32")
    assert item.passed
    assert item.parity.method == "run"
    assert item.precision_found == "fp32"
    assert [timing.batch for timing in item.timings] == [1, 2]
    with (
        open_artifact(package, item) as compiled,
        open_artifact(package, package.artifact("onnx-fp32")) as reference,
    ):
        for size in (1, 3, 8):
            found, expected = compiled.infer(pictures[:size]), reference.infer(pictures[:size])
            # two float32 runtimes, each within 1e-5 of the scale of the logits
            np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    with pytest.raises(InferenceError, match="closed"):
        compiled.infer(pictures[:1])


@pytest.fixture(scope="module")
def fused(shallow_checkpoint_file, tmp_path_factory):
    """The same with narrow MLPs as one operator."""
    with pytest.MonkeyPatch.context() as patch:  # it is not timed: that takes another PyTorch
        patch.setattr("lavit_deploy.export.pipeline.measure", lambda bundle, **_options: bundle)
        return bundle_of(shallow_checkpoint_file, tmp_path_factory.mktemp("aoti"), "--mlp", "fused")


def test_fused_mlps_predict_what_the_checkpoint_predicts(fused, package):
    item, plain = fused.artifact("aoti-fp32"), package.artifact("aoti-fp32")
    assert item.passed
    assert item.kernels.mlp == "fused"
    assert item.kernels.mlp_why == "asked for"
    assert item.kernels.less_attention == "native"
    assert plain.kernels.mlp == "native"
    assert plain.kernels.mlp_why == "no GPU here to time the kernel on"
    # An operator holds two products, and its weights count as those of linear layers do.
    assert item.compute_types == plain.compute_types
    assert item.precision_found == "fp32"


_ALONE = """
import sys, torch
package = torch._inductor.aoti_load_package(sys.argv[1])
logits = package(torch.zeros(3, 32, 32, 3, dtype=torch.uint8))
assert not [name for name in sys.modules if name.startswith(("lavit_deploy", "export"))]
print(logits.tolist())
"""


def test_a_package_with_our_operators_needs_none_of_our_code(fused, tmp_path):
    file = fused.verified_file(fused.artifact("aoti-fp32"))
    ran = subprocess.run(
        [sys.executable, "-c", _ALONE, file], cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    with open_artifact(fused, fused.artifact("onnx-fp32")) as reference:
        expected = reference.infer(np.zeros((3, 32, 32, 3), np.uint8))
    found = np.array(json.loads(ran.stdout.splitlines()[-1]))
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def candidate(mlp, *, passed=True):
    parity = SimpleNamespace(passed=passed, reason="" if passed else "cosine 0.2")
    return PackageCandidate(mlp, Path(mlp), None, 1.0, parity)


def chosen(monkeypatch, native, fused, milliseconds):
    monkeypatch.setattr(AotiTarget, "_time", lambda *_: milliseconds)
    made = {"native": native, "fused": fused}

    def make(form):
        if isinstance(made[form], Exception):
            raise made[form]
        return made[form]

    context = SimpleNamespace(batch=SimpleNamespace(optimum=8))
    best, why = AotiTarget(("fp32",), "cuda")._faster(make, context)
    return best.mlp, why


def test_on_a_gpu_the_faster_form_is_taken_and_both_times_are_kept(monkeypatch):
    forms = candidate("native"), candidate("fused")
    assert chosen(monkeypatch, *forms, {"native": 2.0, "fused": 1.5}) == (
        "fused",
        "faster at batch 8: native 2.00 ms, fused 1.50 ms",
    )
    assert chosen(monkeypatch, *forms, {"native": 1.0, "fused": 1.5})[0] == "native"


def test_a_form_that_fails_loses_and_does_not_end_the_export(monkeypatch):
    good, bad = candidate("native"), candidate("fused", passed=False)
    never = {"native": 9.0, "fused": 1.0}
    assert chosen(monkeypatch, good, bad, never) == (
        "native",
        "the fused form failed parity: cosine 0.2",
    )
    failed = candidate("native", passed=False), candidate("fused")
    assert chosen(monkeypatch, *failed, never)[0] == "fused"
    assert chosen(monkeypatch, good, ExportError("no registers"), never) == (
        "native",
        "the fused form failed: no registers",
    )


def lavit_of(dims):
    """A LaViT of these widths, without memory for its weights."""
    with torch.device("meta"):
        return LaViT(dataclasses.replace(lavit_micro(), dims=dims, heads=(1, 1, 1, 1)))


def test_what_can_be_fused_decides_which_forms_are_built():
    def forms(mlp, device, *, dims=(64, 128, 320, 512), folded=True):
        context = SimpleNamespace(folded=folded or None, model=lavit_of(dims))
        return AotiTarget(("fp32",), device, mlp)._forms(context)

    assert forms("auto", "cuda")[0] == ("native", "fused")
    assert forms("auto", "cpu") == (("native",), "no GPU here to time the kernel on")
    assert forms("native", "cuda") == (("native",), "asked for")
    assert forms("fused", "cpu") == (("fused",), "asked for")
    wide = "no stage of 16, 32, 64, 128 channels"
    assert forms("auto", "cuda", dims=(96, 192, 384, 768)) == (("native",), wide)
    with pytest.raises(ExportError, match="--mlp fused: no stage of 16"):
        forms("fused", "cuda", dims=(96, 192, 384, 768))
    assert forms("auto", "cuda", folded=False) == (("native",), "the graph is not folded")


def test_la_native_keeps_pytorchs_operators_on_a_gpu_too():
    context = SimpleNamespace(folded=object(), model=lavit_of((64, 128, 320, 512)))
    for asked, fuses in (("auto", True), ("plugin", True), ("native", False)):
        request = Request(device="cuda", engine=EngineOptions(less_attention=asked))
        assert plan_aoti(request).target._fuses_less_attention(context) == fuses
    assert not AotiTarget(("fp32",), "cpu")._fuses_less_attention(context)


def test_fused_mlps_without_a_package_to_put_them_in_are_refused(shallow_checkpoint_file, tmp_path):
    arguments = ["--ckpt", str(shallow_checkpoint_file), "--out", str(tmp_path / "b"), "--device"]
    for target in ("onnx", "auto"):
        with pytest.raises(UsageError, match="add --target aoti"):
            main([*arguments, "cpu", "--target", target, "--mlp", "fused"])
    with pytest.raises(UsageError, match="leave out --no-fold"):
        main([*arguments, "cpu", "--target", "aoti", "--mlp", "fused", "--no-fold"])


def test_a_package_for_another_gpu_is_refused():
    """Its machine code would fail at the first call, in words about a kernel image."""
    file = Path("m.pt2")
    for built_for, here in (
        ("80", "8.0"),
        ("80", "8.6"),
        ("90", "9.0"),
        ("120", "12.0"),
        ("", "9.0"),
    ):
        aoti._check_gpu(file, built_for, here)
    for built_for, here in (("80", "9.0"), ("89", "8.6"), ("90", "8.9"), ("120", "12.1")):
        with pytest.raises(BundleError, match=f"this GPU has {here}: export the checkpoint here"):
            aoti._check_gpu(file, built_for, here)


def test_a_package_for_another_processor_is_refused(package, monkeypatch):
    """Its machine code would end the process with an illegal instruction."""
    item = package.artifact("aoti-fp32")

    class Elsewhere:
        cpu_features = ()

        @classmethod
        def here(cls):
            return cls()

    monkeypatch.setattr(aoti, "Environment", Elsewhere)
    metadata = {"AOTI_DEVICE_KEY": "cpu", "AOTI_CPU_ISA": "AVX512 AVX512_VNNI"}
    file = package.verified_file(item)
    with pytest.raises(BundleError, match="a processor with AVX512, this one has none of it"):
        aoti._check_processor(file, metadata, "cpu")
    with pytest.raises(BundleError, match="compiled for cpu, not for cuda"):
        aoti._check_processor(file, metadata, "cuda")
    aoti._check_processor(file, {"AOTI_DEVICE_KEY": "cpu", "AOTI_CPU_ISA": ""}, "cpu")


def test_a_file_that_is_no_package_is_refused(tmp_path):
    (tmp_path / "m.pt2").write_bytes(b"hello")
    with pytest.raises(BundleError, match="cannot open"):
        AotiRuntime(tmp_path / "m.pt2", max_batch=8, picture=(32, 32, 3))


def test_on_a_cpu_it_is_built_when_named(monkeypatch):
    (step,) = plan_aoti(Request()).steps
    assert (step.action, step.why) == (
        "skip",
        "for GPUs; --target aoti builds it for this CPU too",
    )
    planned = plan_aoti(Request(frozenset({"aoti"}), half="bf16"))
    assert planned.target == AotiTarget(("fp32", "bf16"), "cpu")
    assert planned.extras == frozenset()
    planned = plan_aoti(Request(device="cuda", half="fp16"))
    assert planned.target == AotiTarget(("fp32", "fp16"), "cuda", "auto", "auto")
    assert planned.extras == {"aoti-fp32", "aoti-fp16"}


def test_without_a_compiler_the_plan_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    (step,) = plan_aoti(Request(device="cuda")).steps
    assert (step.action, step.why) == ("skip", "no C++ compiler: install g++")
    with pytest.raises(UsageError, match="needs a C\\+\\+ compiler"):
        make_plan(Request(frozenset({"aoti"})), "cpu")
