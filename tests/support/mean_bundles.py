"""Fixtures: bundles of a graph whose answer is known, the mean colour of a picture."""

import dataclasses

import pytest
from onnx import TensorProto, helper, save

from lavit_deploy.bundle.bundle import Bundle
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
from lavit_deploy.model.config import lavit_micro
from lavit_deploy.preprocess import Preprocess

CONFIG = dataclasses.replace(
    lavit_micro(num_classes=3), image_size=(8, 8), patch_sizes=(1, 1, 1, 1), sr_ratios=(1, 1, 1, 1)
)
"""Of a model with the graph's pictures and classes."""


def write_mean_graph(path, *, dtype=TensorProto.UINT8):
    """logits = mean colour of the picture: uint8 [B, 8, 8, 3] -> float32 [B, 3]."""
    nodes = [
        helper.make_node("Cast", ["images"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wide", "axes"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("images", dtype, ["batch", 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), path)


def make_parity(*, passed=True, agreement=1.0):
    return Parity(
        method="run",
        images=4,
        source="test",
        max_difference=0.0,
        mean_difference=0.0,
        cosine=1.0,
        top1_agreement=agreement,
        passed=passed,
        reason="" if passed else "cosine 0.2, required 0.9",
    )


def make_artifact(folder, name, *, rate=1.0, passed=True, **changes):
    file = folder / f"{name}.onnx"
    write_mean_graph(file)
    return Artifact(
        name=name,
        file=file.name,
        sha256=sha256_of(file),
        size_bytes=file.stat().st_size,
        runtime="onnxruntime",
        runtime_version="1",
        format_version="opset 22",
        precision_requested="fp32",
        precision_found="fp32",
        compute_types={"fp32": 1},
        batch=BatchRange(minimum=1, optimum=2, maximum=4),
        devices=("cpu", "cuda"),
        device="cpu",
        build_seconds=0.1,
        parity=make_parity(passed=passed),
        timings=(BatchTiming(batch=1, median_ms=1e3 / rate, images_per_second=rate, runs=3),),
    ).model_copy(update=changes)


@pytest.fixture
def write_graph():
    """Write the graph to a path, with another input type where asked."""
    return write_mean_graph


@pytest.fixture
def parity():
    """Make a comparison that held, or did not."""
    return make_parity


@pytest.fixture
def artifact(tmp_path):
    """Make an artifact in `tmp_path` that gives `rate` images per second."""
    return lambda name, **options: make_artifact(tmp_path, name, **options)


@pytest.fixture
def write(tmp_path):
    """Write a bundle of these artifacts into `tmp_path` (or `folder`) and open it."""

    def written(*artifacts, folder=tmp_path, **changes):
        manifest = Manifest(
            project_version="0",
            name="mean",
            architecture="lavit_micro",
            config=CONFIG,
            classes=("red", "green", "blue"),
            preprocess=Preprocess(resize=8, crop=(8, 8)),
            checkpoint=CheckpointRecord(file="m.pth", sha256="0" * 64),
            artifacts=artifacts,
            environment=Environment.here(),
            command=("lavit-export",),
            created="2026-01-01T00:00:00+00:00",
        ).model_copy(update=changes)
        Bundle.write_manifest(folder, manifest)
        return Bundle.open(folder)

    return written
