import shutil

import numpy as np
import pytest

from export.cli import main
from export.plan import make_plan
from export.request import Request
from export.targets.aoti import AotiTarget, plan_aoti
from lavit_deploy.bundle import Bundle
from lavit_deploy.errors import BundleError, InferenceError, UsageError
from lavit_deploy.runtimes import aoti
from lavit_deploy.runtimes.aoti import AotiRuntime
from lavit_deploy.runtimes.opening import open_artifact


@pytest.fixture(scope="module")
def package(tiny_checkpoint_file, tmp_path_factory):
    """A bundle with the package that AOTInductor compiles for this CPU."""
    if shutil.which("g++") is None:
        pytest.skip("AOTInductor needs a C++ compiler")
    out = tmp_path_factory.mktemp("aoti") / "tiny.bundle"
    arguments = ["--ckpt", str(tiny_checkpoint_file), "--target", "aoti", "--device", "cpu"]
    assert main([*arguments, "--batch", "1", "2", "8", "--out", str(out)]) == 0
    return Bundle.open(out)


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
        AotiRuntime(tmp_path / "m.pt2", max_batch=8, image_size=(32, 32))


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
    assert planned.target == AotiTarget(("fp32", "fp16"), "cuda")
    assert planned.extras == {"aoti-fp32", "aoti-fp16"}


def test_without_a_compiler_the_plan_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    (step,) = plan_aoti(Request(device="cuda")).steps
    assert (step.action, step.why) == ("skip", "no C++ compiler: install g++")
    with pytest.raises(UsageError, match="needs a C\\+\\+ compiler"):
        make_plan(Request(frozenset({"aoti"})), "cpu")
