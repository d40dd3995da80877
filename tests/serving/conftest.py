"""A bundle whose answers are known in closed form, and a runtime that a test holds in its hand."""

import contextlib
import io
import json
import math
import queue
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import mean_colour
from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.open import open_artifact
from lavit_deploy.bundle.selection import Criteria, Selection, select
from lavit_deploy.common.atomic_files import sha256_of
from lavit_deploy.common.environment import Environment
from lavit_deploy.manifest import (
    Artifact,
    BatchRange,
    BatchTiming,
    CheckpointRecord,
    Manifest,
    Parity,
)
from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.runtimes.base import Runtime, TensorSpec
from lavit_deploy.serving.http.app import create_app
from lavit_deploy.serving.models.open_models import OpenedModel
from lavit_deploy.serving.models.registry import Registry
from lavit_deploy.serving.settings.model_source import ModelKey, ModelSource
from lavit_deploy.serving.settings.settings import ServiceSettings
from lavit_deploy.serving.telemetry.metrics import Metrics
from mean_colour import SCALE

CLASSES = ("red", "green", "blue")
PATIENCE = 30.0  # seconds until a wait counts as a hang; nothing here takes that long


@pytest.fixture(scope="session")
def colours():
    """Softmax of a picture of one colour (r, g, b), by closed form: class -> probability."""

    def probabilities(colour):
        weights = [math.exp(SCALE * value / 255) for value in colour]
        return {name: weight / sum(weights) for name, weight in zip(CLASSES, weights, strict=True)}

    return probabilities


@pytest.fixture(scope="session")
def picture():
    """The bytes of a picture of one colour."""

    def encode(colour=(255, 0, 0), size=(64, 64), kind="PNG"):
        buffer = io.BytesIO()
        Image.new("RGB", size, colour).save(buffer, kind)
        return buffer.getvalue()

    return encode


def parity(*, passed=True):
    return Parity(
        method="run",
        images=8,
        source="a test",
        max_difference=0.0 if passed else 3.0,
        mean_difference=0.0,
        cosine=1.0,
        top1_agreement=1.0,
        passed=passed,
        reason="" if passed else "max difference 3.0 is over 0.001",
    )


def artifact_of(file, *, name="onnx-fp32", rate=100.0, passed=True):
    return Artifact(
        name=name,
        file=file.name,
        sha256=sha256_of(file),
        size_bytes=file.stat().st_size,
        runtime="onnxruntime",
        runtime_version="1",
        format_version="opset 18",
        precision_requested="fp32",
        precision_found="fp32",
        compute_types={},
        batch=BatchRange(minimum=1, optimum=4, maximum=8),
        devices=("cpu",),
        device="cpu",
        build_seconds=0.1,
        parity=parity(passed=passed),
        timings=(BatchTiming(batch=1, median_ms=1e3 / rate, images_per_second=rate, runs=3),),
    )


def manifest_of(*artifacts, name="colours", checkpoint="0123456789ab"):
    return Manifest(
        project_version="0.1.0",
        name=name,
        architecture="custom",
        config=LaViTConfig(
            image_size=(64, 64),
            num_classes=3,
            depths=(1, 1, 2, 3),
            dims=(8, 8, 16, 16),
            heads=(1, 1, 2, 2),
            mlp_ratios=(2, 2, 2, 2),
            sr_ratios=(8, 4, 2, 1),
            la_start=(0, 0, 2, 2),
        ),
        classes=CLASSES,
        preprocess=Preprocess(resize=64, crop=(64, 64)),
        checkpoint=CheckpointRecord(file="colours.pth", sha256=checkpoint + "0" * 52),
        artifacts=artifacts,
        environment=Environment.here(),
        command=("lavit-export", "--ckpt", "colours.pth"),
        created="2026-01-01T00:00:00Z",
    )


@pytest.fixture
def write_bundle(tmp_path):
    """Writes a bundle: `write_bundle(passed=False)` for one whose parity failed.

    Another `checkpoint` tells one bundle from the next; `folder` is where it lies.
    """

    def write(name="colours", *, passed=True, folder="colours.bundle", checkpoint="0123456789ab"):
        return bundle_in(tmp_path / folder, name, passed=passed, checkpoint=checkpoint)

    return write


def bundle_in(path, name="colours", *, passed=True, checkpoint="0123456789ab"):
    path.mkdir(exist_ok=True)
    file = path / "model.onnx"
    shutil.copyfile(mean_colour.FILE, file)
    manifest = manifest_of(artifact_of(file, passed=passed), name=name, checkpoint=checkpoint)
    Bundle.write_manifest(path, manifest)
    return path


@pytest.fixture
def bundle_path(write_bundle):
    return write_bundle()


class HeldRuntime(Runtime):
    """Mean colours like the graph; while `held`, each call waits until the test lets it go."""

    name = "held"
    device = "cpu"
    max_batch = 8
    input = TensorSpec("uint8", (None, 64, 64, 3))

    def __init__(self):
        self.batches = []
        self.entered = threading.Semaphore(0)
        self.held = False
        self.failure = None
        self.answer = None
        self.closed = False
        self._allowed = threading.Semaphore(0)

    def _infer(self, images):
        self.batches.append(len(images))
        self.entered.release()
        if self.held:
            assert self._allowed.acquire(timeout=PATIENCE)
        if self.failure is not None:
            raise self.failure
        if self.answer is not None:
            return self.answer
        return (images.mean(axis=(1, 2)) * (SCALE / 255)).astype(np.float32)

    def let_go(self, calls=1):
        self._allowed.release(calls)

    def close(self):
        self.closed = True


@pytest.fixture
def runtime():
    return HeldRuntime()


@pytest.fixture
def make_registry(tmp_path):
    """A registry over one model whose instances are these runtimes, with any setting changed."""

    def make(*runtimes, reopen=None, **changes):
        settings = ServiceSettings(**{"bundles": (tmp_path,), "decoders": 2, **changes})
        file = tmp_path / "stand-in"
        file.touch()
        artifact = artifact_of(file)
        metrics = Metrics()
        model = OpenedModel(
            key=ModelKey("colours", "1"),
            source=ModelSource(tmp_path),
            manifest=manifest_of(artifact),
            artifact=artifact,
            runtimes=runtimes,
            reopen=reopen or (lambda: runtimes[0]),
            selection=Selection(artifact, "named", ()),
        )
        return Registry([model], settings, metrics), settings, metrics

    return make


@pytest.fixture
def make_client(make_registry):
    """A started and ready application over a runtime, as a client."""
    with contextlib.ExitStack() as stack:

        def make(*runtimes, **changes):
            registry, settings, metrics = make_registry(*runtimes, **changes)
            app = create_app(registry, settings, metrics)
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            client.portal.call(registry.until_ready)
            client.registry = registry
            with registry.use() as classifier:
                client.classifier = classifier
            return client

        yield make


@pytest.fixture
def client(bundle_path, make_client):
    """The application over the real graph in the real runtime."""
    bundle = Bundle.open(bundle_path)
    with open_artifact(bundle, select(bundle, Criteria()).artifact, threads=1) as opened:
        yield make_client(opened, max_bytes=200_000, max_pixels=1_000_000, max_files=4)


class Served:
    """A `lavit-serve` process on a port of its own choice."""

    def __init__(self, code, bundle, *options):
        command = [sys.executable, "-c", code, str(bundle), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--threads", "1", "--log-format", "json", *options],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self._lines = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.start = self.expect("serving")
        self.url = self.start["serving"]
        self.port = int(self.url.rpartition(":")[2])
        self.expect("ready")

    def _read(self):
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def expect(self, topic):
        """The next line that has this field, or this message."""
        seen = []
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            seen.append(line)
            values = json.loads(line) if line.startswith("{") else {}
            if topic in values or values.get("message") == topic:
                return values
        raise AssertionError(f"it ended before it said {topic!r}: {''.join(seen)}")

    def expect_message(self, start):
        """The next line whose message begins like this."""
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self.last = json.loads(line) if line.startswith("{") else {"message": ""}
            if self.last["message"].startswith(start):
                return self.last["message"]
        raise AssertionError(f"it ended before it said {start!r}")

    def rest(self):
        """All lines until it ends that nobody has asked for."""
        return "".join(iter(partial(self._lines.get, timeout=PATIENCE), None))

    def tell(self):
        """Write a line to its standard input."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@pytest.fixture
def serve():
    """Starts `lavit-serve` on a bundle and waits until it says that it is ready."""
    with serving() as start:
        yield start


@pytest.fixture(scope="module")
def module_serve():
    """As `serve`, for servers that all tests of a module share and leave as they were."""
    with serving() as start:
        yield start


@pytest.fixture(scope="module")
def module_bundle_path(tmp_path_factory):
    """As `bundle_path`, for all tests of a module."""
    return bundle_in(tmp_path_factory.mktemp("served") / "colours.bundle")


@pytest.fixture(scope="module")
def module_server(module_serve, module_bundle_path):
    """One `lavit-serve` for all tests of a module that leave it as it was."""
    return module_serve(module_bundle_path)


@contextlib.contextmanager
def serving():
    started = []

    def start(bundle, *options, code="from lavit_deploy.serving.cli import entry; entry()"):
        started.append(Served(code, bundle, *options))
        return started[-1]

    try:
        yield start
    finally:
        for server in started:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def post():
    """POST to a real server: (status, JSON answer)."""

    def send(url, data, content_type="image/png"):
        request = urllib.request.Request(url, data, {"Content-Type": content_type})  # noqa: S310 - always http
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:  # noqa: S310 - as above
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    return send
