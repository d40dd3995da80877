"""The whole way of models whose pictures are not square RGB ones."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from lavit_deploy.bundle.inference import classify, open_runtime
from lavit_deploy.checkpoint import load_checkpoint, save_checkpoint
from lavit_deploy.export.api import export_checkpoint
from lavit_deploy.export.judging.reference import reference_logits
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.preprocess import Preprocess, prepare, to_mode
from lavit_deploy.profiles.subjects.names import resolve
from lavit_deploy.profiles.subjects.profiled_model import RunSettings
from lavit_deploy.serving.http.app import create_app
from lavit_deploy.serving.models.open_models import open_models
from lavit_deploy.serving.models.registry import Registry
from lavit_deploy.serving.settings.settings import ServiceSettings
from lavit_deploy.serving.telemetry.metrics import Metrics
from tiny_models import TINY

pytestmark = pytest.mark.slow

CLASSES = ("ant", "bee", "cat", "dog", "eel")
CASES = {"grey, 32 x 64": (1, (32, 64)), "RGBA": (4, (32, 32))}


@pytest.fixture(scope="module", params=CASES, ids=str)
def made(request, tmp_path_factory):
    """A checkpoint of such a model, and its bundle."""
    channels, size = CASES[request.param]
    torch.manual_seed(3)
    config = dataclasses.replace(TINY, in_channels=channels, image_size=size)
    model = LaViT(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape), alpha=0.1)
    folder = tmp_path_factory.mktemp("channels")
    save_checkpoint(
        folder / "m.pth",
        model,
        preprocess=Preprocess.for_size(size, channels),
        classes=CLASSES,
    )
    bundle = export_checkpoint(
        folder / "m.pth", folder / "m.bundle", targets=("onnx", "openvino"), device="cpu"
    )
    return load_checkpoint(folder / "m.pth"), bundle


def picture():
    """A PNG with colours and alpha of every value."""
    samples = np.random.default_rng(8).integers(0, 256, (5, 9, 4), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(samples).resize((90, 50)).save(file, "PNG")
    return file.getvalue()


def test_every_artifact_passes_parity_and_was_timed(made):
    _, bundle = made
    assert bundle.manifest.not_built == {}
    assert {item.runtime for item in bundle.manifest.artifacts} == {"onnxruntime", "openvino"}
    for item in bundle.manifest.artifacts:
        assert item.passed
        assert item.timings
        assert item.footprint is not None


def test_python_and_the_service_answer_what_the_checkpoint_predicts(made):
    checkpoint, bundle = made
    pixels = prepare(picture(), checkpoint.preprocess)
    assert pixels.shape == checkpoint.preprocess.shape
    logits = reference_logits(checkpoint.build(), pixels[None], checkpoint.preprocess)[0]
    with open_runtime(bundle, "onnx-fp32") as runtime:
        # two float32 computations of a few hundred sums: 1e-4 of the logits' scale
        np.testing.assert_allclose(runtime.infer(pixels[None])[0], logits, atol=1e-4)
    shares = np.exp(logits - logits.max())
    expected = dict(zip(CLASSES, shares / shares.sum(), strict=True))

    image = Image.open(io.BytesIO(picture()))
    pixels_of_all = np.asarray(to_mode(image, checkpoint.preprocess.mode))
    for given in (picture(), image, pixels_of_all):
        ranked = dict(classify(bundle, given))
        assert ranked == pytest.approx(expected, abs=1e-4)

    settings = ServiceSettings(bundles=(bundle.path,), decoder_isolation="processes", decoders=1)
    metrics = Metrics()
    registry = Registry(open_models(settings), settings, metrics)
    with TestClient(create_app(registry, settings, metrics)) as client:
        client.portal.call(registry.until_ready)
        answer = client.post("/classify", content=picture(), headers={"Content-Type": "image/png"})
        assert answer.status_code == 200, answer.text
        (result,) = answer.json()["results"]
        ranked = {item["label"]: item["probability"] for item in result["predictions"]}
        assert ranked == pytest.approx(expected, abs=1e-4)
        model = client.get(f"/v2/models/{bundle.manifest.name}").json()
        assert model["inputs"][0]["shape"] == [-1, *pixels.shape]
        images = {
            "name": "images",
            "datatype": "UINT8",
            "shape": [1, *pixels.shape],
            "data": pixels.flatten().tolist(),
        }
        answer = client.post(
            f"/v2/models/{bundle.manifest.name}/infer", json={"inputs": [images]}
        ).json()
        np.testing.assert_allclose(answer["outputs"][0]["data"], logits, atol=1e-4)


def test_it_is_profiled(made):
    checkpoint, bundle = made
    counted = resolve(str(checkpoint.file), RunSettings()).measure().counts
    assert counted.total == counted.closed_form
    assert resolve(str(bundle.path), RunSettings()).measure().counts.total == counted.total
