import importlib.util

import pytest

from lavit_deploy.bundle import selection
from lavit_deploy.bundle.selection import Criteria, select
from lavit_deploy.common.environment import Environment
from lavit_deploy.common.errors import BundleError, ParityError


def test_the_fastest_artifact_that_passed_is_chosen(write, artifact, parity):
    bundle = write(
        artifact("slow", rate=10),
        artifact("fast", rate=30),
        artifact("wrong", rate=90, passed=False),
        artifact("elsewhere", rate=90, devices=("cuda",)),
        artifact("overflows", rate=90, rounded_parity=parity(passed=False)),
    )
    chosen = select(bundle, Criteria())
    assert chosen.artifact.name == "fast"
    assert chosen.reason == "fastest of 2: 30 images/s"
    assert [note.split()[0] for note in chosen.notes] == ["wrong", "elsewhere", "overflows"]
    assert select(bundle, Criteria("slow")).artifact.name == "slow"
    assert select(bundle, Criteria(device="cuda")).artifact.name == "elsewhere"


def test_an_artifact_that_failed_parity_is_never_chosen(write, artifact):
    bundle = write(artifact("wrong", passed=False))
    for name in ("auto", "wrong"):
        with pytest.raises(ParityError, match=r"wrong failed parity \(cosine 0.2"):
            select(bundle, Criteria(name))


def test_an_artifact_without_kernels_for_the_device_is_refused(write, artifact):
    bundle = write(artifact("gpu", devices=("cuda",)))
    for name in ("auto", "gpu"):
        with pytest.raises(BundleError, match="gpu cannot run on cpu, only on cuda"):
            select(bundle, Criteria(name))


def test_an_unknown_name_lists_those_there_are(write, artifact):
    with pytest.raises(BundleError, match="no artifact 'c'; it has a, b"):
        select(write(artifact("a"), artifact("b")), Criteria("c"))


def test_an_artifact_that_agrees_too_little_is_passed_over(write, artifact, parity):
    bundle = write(
        artifact("exact", rate=10), artifact("rough", rate=30, parity=parity(agreement=0.985))
    )
    strict, lax = select(bundle, Criteria(agreement=0.99)), select(bundle, Criteria(agreement=0.98))
    assert strict.artifact.name == "exact"
    assert "agrees with float32 in 98.5% of the pictures" in strict.notes[0]
    assert lax.artifact.name == "rough"


def test_a_runtime_that_is_asked_for_is_the_one_taken(write, artifact):
    bundle = write(artifact("a", rate=10), artifact("b", rate=30, runtime="openvino"))
    assert select(bundle, Criteria(runtime="onnxruntime")).artifact.name == "a"
    assert select(bundle, Criteria(runtime="openvino")).artifact.name == "b"


def test_a_runtime_that_is_not_installed_is_named_with_its_command(write, artifact, monkeypatch):
    bundle = write(artifact("a", rate=10), artifact("b", rate=30, runtime="openvino"))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        selection.importlib.util,
        "find_spec",
        lambda name: None if name == "openvino" else found(name),
    )
    chosen = select(bundle, Criteria())
    assert chosen.artifact.name == "a"
    assert chosen.notes[0] == (
        'b is faster (30 images/s) but needs openvino: pip install "lavit-deploy[openvino]"'
    )


def test_what_is_for_a_phone_is_not_noted_as_faster(write, artifact):
    chosen = select(
        write(artifact("a", rate=10), artifact("b", rate=30, runtime="ncnn")), Criteria()
    )
    assert (chosen.artifact.name, chosen.notes) == ("a", ())


def test_bfloat16_is_not_chosen_on_a_cpu_without_it(write, artifact):
    here = Environment.here()
    without = here.model_copy(update={"cpu_features": ("avx2",)})
    with_it = here.model_copy(update={"cpu_features": ("avx2", "avx512_bf16")})
    bf16 = {"runtime": "openvino", "precision_found": "bf16", "rate": 30}
    bundle = write(artifact("a", rate=10), artifact("b", **bf16), environment=here)
    assert select(bundle, Criteria(), without).artifact.name == "a"
    assert select(bundle, Criteria(), with_it).artifact.name == "b"


def test_a_bundle_from_another_machine_says_so(write, artifact):
    here = Environment.here()
    bundle = write(artifact("a"), environment=here.model_copy(update={"cpu": "Other CPU"}))
    (note,) = select(bundle, Criteria(), here).notes
    assert "measured on another machine (Other CPU" in note
    assert "--measure" in note


def test_measurements_made_here_need_no_note(write, artifact):
    here = Environment.here()
    elsewhere = here.model_copy(update={"cpu": "Other CPU"})
    assert (
        select(write(artifact("a"), environment=elsewhere, timed_on=here), Criteria()).notes == ()
    )
