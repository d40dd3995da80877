import numpy as np
import pytest

from installed_packages import install  # noqa: F401 - a fixture
from lavit_deploy.bundle.open import open_artifact
from lavit_deploy.bundle.selection import Criteria, select
from lavit_deploy.common.errors import BundleError, UsageError
from lavit_deploy.runtimes.specs import SPECS, distributions, find_spec, runtime_names

TINY = """
import numpy as np

from lavit_deploy.runtimes.base import Runtime, TensorSpec
from lavit_deploy.runtimes.spec import RuntimeSpec


class Mean(Runtime):
    name = "tiny"
    device = "cpu"

    def __init__(self, opening):
        self.max_batch = opening.artifact.batch.maximum
        self.input = TensorSpec("uint8", (None, 8, 8, 3))
        self.words = opening.file.read_bytes()

    def _infer(self, images):
        return images.mean(axis=(1, 2), dtype=np.float32)

    def close(self):
        self.words = b""


def unlucky(artifact, here):
    return "has an unlucky name" if artifact.name == "thirteen" else ""


SPEC = RuntimeSpec(
    "tiny", module="tiny_engine", extra="serve", distributions=("tiny_engine",), open=Mean,
    obstacle=unlucky,
)
"""


@pytest.fixture
def tiny_runtime(install):
    install("tiny_engine", TINY, {"lavit_deploy.runtimes": {"tiny": "SPEC"}})


def test_an_added_runtime_is_named_chosen_and_opened(tiny_runtime, write, artifact):
    assert runtime_names() == (*(spec.name for spec in SPECS), "tiny")
    assert "tiny_engine" in distributions()
    bundle = write(
        artifact("slow", rate=10),
        artifact("thirteen", rate=90, runtime="tiny"),
        artifact("fast", rate=30, runtime="tiny"),
    )
    chosen = select(bundle, Criteria())
    assert chosen.artifact.name == "fast"
    assert chosen.notes == ("thirteen is faster (90 images/s) but has an unlucky name",)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    with open_artifact(bundle, chosen.artifact) as runtime:
        assert type(runtime).__name__ == "Mean"
        np.testing.assert_allclose(runtime.infer(images), images.mean(axis=(1, 2)), rtol=1e-6)


def test_without_its_package_the_same_artifact_is_passed_over(write, artifact):
    bundle = write(artifact("slow", rate=10), artifact("fast", rate=30, runtime="tiny"))
    assert select(bundle, Criteria()).artifact.name == "slow"
    with pytest.raises(BundleError, match="fast is for tiny, which runs on no server"):
        open_artifact(bundle, bundle.artifact("fast"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("SPEC = 3", "broken:SPEC, .* is a int, expected a RuntimeSpec"),
        ("", "broken:SPEC, .* cannot be imported"),
        ("import not_there_at_all", "broken:SPEC, .* cannot be imported: No module"),
    ],
)
def test_a_package_that_adds_no_runtime_is_named(source, message, install):
    install("broken", source, {"lavit_deploy.runtimes": {"broken": "SPEC"}})
    with pytest.raises(UsageError, match=message):
        runtime_names()


def test_runtimes_have_names_of_their_own_and_are_found_by_them():
    assert len(set(runtime_names())) == len(SPECS)
    assert all(find_spec(spec.name) is spec for spec in SPECS)
    assert find_spec("coreml") is None


def test_the_versions_of_every_runtimes_package_are_recorded():
    assert {"onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch"} <= set(
        distributions()
    )
