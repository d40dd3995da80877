"""ncnn: a text file of layers (`.param`) and their weights (`.bin`), written by pnnx."""

from __future__ import annotations

import os
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lavit_deploy.export.mobile.formats import Classify
from lavit_deploy.export.mobile.formats.format import Format, MobileVariant

FORMAT = Format(
    name="ncnn",
    source="planar",
    variants=(
        MobileVariant("ncnn-fp32", "fp32.ncnn.param", "fp32", "the exact one"),
        MobileVariant("ncnn-fp16", "fp16.ncnn.param", "fp16", "half the size"),
    ),
    modules=("ncnn", "pnnx", "torch"),
    requirement="ncnn==1.0.20261020 pnnx==20261020 torch==2.13.0",
    layout="float32 [C, H, W]",
    colours="0..255, as ncnn::Mat::from_pixels gives it",
)

_HALF_FLAG = 0x01306B47
"""What ncnn's model loader takes for the start of float16 weights."""


def imports() -> None:
    """Load the packages that `load` needs."""
    import ncnn  # noqa: F401 - loaded for its cost alone


def convert(
    program: Path,
    out: Path,
    precision: str,
    _about: dict[str, Any],
) -> dict[str, Any]:
    """Write one `.param`, and its `.bin` beside it.

    Args:
        program: a saved `torch.export` program that takes float32 [1, C, H, W].
        out: the `.param` to write.
        precision: "fp32" or "fp16" (weights).
        _about: the format has no place for it.

    Returns:
        The version.

    Raises:
        RuntimeError: pnnx wrote nothing; its own exit status says nothing about that.
    """
    import pnnx
    import torch

    loaded = torch.export.load(program)
    example = loaded.example_inputs[0][0]
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / "model.pt"
        with torch.no_grad():
            trace: Any = torch.jit.trace
            trace(loaded.module(), example, check_trace=False).save(str(script))
        shape = ",".join(str(size) for size in example.shape)
        half = int(precision == "fp16")
        ran = subprocess.run(  # noqa: S603 - the package's own program on our own file
            [pnnx.EXEC_PATH, script.name, f"inputshape=[{shape}]", f"fp16={half}"],
            cwd=scratch,
            capture_output=True,
            text=True,
            check=False,
        )
        param = Path(scratch) / "model.ncnn.param"
        if not param.is_file():
            raise RuntimeError(f"pnnx wrote no file: {(ran.stderr or ran.stdout)[-300:]}")
        out.write_bytes(param.read_bytes())
        out.with_suffix(".bin").write_bytes(param.with_suffix(".bin").read_bytes())
    return {
        "version": version("ncnn"),
        "format": f"ncnn, pnnx {version('pnnx')}",
        "undelegated": {},
    }


def precision_found(file: Path) -> str:
    """Whether weights of products are float16: the word before each of them says so.

    Words are counted and not followed from layer to layer: that takes every layer's own layout.
    """
    layers = [line.split()[0] for line in file.read_text(encoding="ascii").splitlines()[2:]]
    products = sum(name in {"InnerProduct", "Convolution", "Gemm"} for name in layers)
    words = np.frombuffer(file.with_suffix(".bin").read_bytes(), dtype="<u4")
    return "fp16" if (words == _HALF_FLAG).sum() > products / 2 else "fp32"


def load(file: Path) -> Classify:
    """A function of uint8 [1, H, W, C] that gives logits [1, K].

    Weights may be float16 in the file, arithmetic is float32: left alone, ncnn computes in
    bfloat16 or float16 wherever the processor can.

    Raises:
        ValueError: ncnn cannot load the file.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = len(os.sched_getaffinity(0))
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    if net.load_param(str(file)) or net.load_model(str(file.with_suffix(".bin"))):
        raise ValueError(f"ncnn cannot load {file.name}")

    def classify(image: np.ndarray) -> np.ndarray:
        # [1, H, W, C] -> [C, H, W], as `from_pixels` makes of the pixels that it has a name for
        planes = np.ascontiguousarray(image[0].transpose(2, 0, 1), dtype=np.float32)
        mat = ncnn.Mat(planes)
        with net.create_extractor() as extractor:
            extractor.input("in0", mat)
            status, logits = extractor.extract("out0")
            if status:
                raise ValueError(f"ncnn failed with status {status}")
            return np.array(logits).reshape(1, -1)  # [K] -> [1, K]

    return classify
