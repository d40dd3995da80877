"""A second task goes the whole way: what its outputs mean is known to nothing but its own file."""

import asyncio
import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from installed_packages import install_package
from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.first_run import verify, write_pictures
from lavit_deploy.bundle.inference import classify, open_runtime
from lavit_deploy.checkpoint import save_checkpoint
from lavit_deploy.common.errors import BundleError, UsageError
from lavit_deploy.export.api import export_checkpoint
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.serving.errors import WrongTaskError
from lavit_deploy.serving.models.open_models import open_models
from lavit_deploy.serving.models.registry import Registry
from lavit_deploy.serving.settings.settings import ServiceSettings
from lavit_deploy.serving.telemetry.metrics import Metrics

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).parents[1] / "support"
NAMES = ("red", "green", "blue")
PREPROCESS = Preprocess(resize=16, crop=(16, 16), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


def install_task(patch, make_folder):
    """The task and its family, installed as somebody else's package until `patch` is undone."""
    source = (SUPPORT / "tiny_family.py").read_text()
    install_package(patch, make_folder("site"), "tiny_family", source, {})
    points = {
        "lavit_deploy.tasks": {"amounts": "AMOUNTS"},
        "lavit_deploy.families": {"tiny_amounts": "FAMILY"},
    }
    source = (SUPPORT / "tiny_task.py").read_text()
    install_package(patch, make_folder("site"), "tiny_task", source, points)
    return importlib.import_module("tiny_task")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a bundle of that task; nothing is installed any more."""
    folder = tmp_path_factory.mktemp("amounts")
    with pytest.MonkeyPatch.context() as patch:
        package = install_task(patch, tmp_path_factory.mktemp)
        model = package.FAMILY.build(package.AmountsConfig()).eval()
        file = folder / "amounts.pth"
        save_checkpoint(file, model, preprocess=PREPROCESS, classes=NAMES)
        out = folder / "amounts.bundle"
        export_checkpoint(file, out, targets=("onnx",), half="fp16", device="cpu")
    return out


@pytest.fixture
def package(tmp_path_factory, monkeypatch):
    return install_task(monkeypatch, tmp_path_factory.mktemp)


@pytest.fixture
def bundle(exported, package, tmp_path):
    """A test's own copy, which it may change, with the package that it needs."""
    assert package.FAMILY.task == "amounts"
    return Bundle.open(shutil.copytree(exported, tmp_path / "amounts.bundle"))


def noise(count):
    return np.random.default_rng(3).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


async def ask(bundle, use):
    settings = ServiceSettings(bundles=(bundle.path,), threads=1, decoders=1)
    registry = Registry(open_models(settings), settings, Metrics())
    registry.start()
    try:
        await registry.until_ready()
        with registry.use() as model:
            return await use(model)
    finally:
        await registry.close(30)


def test_a_bundle_is_judged_read_and_answered_by_its_task(bundle, package, monkeypatch):
    assert bundle.manifest.task == "amounts"
    assert {item.parity.reason for item in bundle.manifest.artifacts} == {"judged by amounts"}
    images = noise(3)
    with open_runtime(bundle, "onnx-fp32") as runtime:
        outputs = runtime.infer(images)
        write_pictures(bundle.path, images, outputs)
        found = verify(bundle, bundle.artifact("onnx-fp32"), runtime)
    assert found.reason == "judged by amounts"
    bundle.task.check(outputs[0], NAMES)
    answer = bundle.task.answer(bundle.task.read(outputs[0], 3), NAMES)
    assert isinstance(answer, bundle.task.answer_type)
    assert answer.amounts == dict(zip(NAMES, outputs[0].tolist(), strict=True))

    monkeypatch.undo()  # its package is gone
    with pytest.raises(BundleError, match="no model family 'tiny_amounts'"):
        Bundle.open(bundle.path)


def test_what_classifies_refuses_it_and_says_what_it_is(bundle):
    with pytest.raises(UsageError, match="is a model for amounts"):
        classify(bundle, noise(1)[0])
    with pytest.raises(WrongTaskError, match=r"amounts"):
        asyncio.run(ask(bundle, lambda model: model.classify([b"a picture"], 1)))


def test_its_outputs_are_served_as_they_are(bundle):
    images = noise(2)
    results = asyncio.run(ask(bundle, lambda model: model.infer(list(images))))
    with open_runtime(bundle, "onnx-fp32") as runtime:
        expected = runtime.infer(images)
    found = np.stack([result.logits for result in results])
    # The service may run another batch size, or half precision where that is faster.
    np.testing.assert_allclose(found, expected, atol=2e-2 * np.abs(expected).max())


def test_a_task_that_is_not_known_is_refused(bundle):
    manifest = bundle.manifest.model_copy(update={"task": "guessing"})
    Bundle.write_manifest(bundle.path, manifest)
    with pytest.raises(BundleError, match="no task 'guessing'; there are classification, amounts"):
        Bundle.open(bundle.path)
