"""ExecuTorch: `.pte` files whose work is delegated to XNNPACK."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Classify = Callable[[np.ndarray], np.ndarray]


def imports() -> None:
    """Load the packages that `load` needs."""
    import torch
    from executorch.runtime import Runtime

    del torch, Runtime


def convert(
    program: Path, out: Path, precision: str, calibration: np.ndarray | None, _about: dict[str, Any]
) -> dict[str, Any]:
    """Write one `.pte`.

    Args:
        program: a saved `torch.export` program that takes uint8 [1, H, W, 3].
        out: the file to write.
        precision: "fp32" or "int8" (static, weights per channel).
        calibration: uint8 [B, H, W, 3], for int8.
        _about: the format has no place for it.

    Returns:
        The version and the operators that are not delegated, with how often they occur.
    """
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    loaded = torch.export.load(program)
    if precision == "int8":
        if calibration is None:
            raise ValueError("int8 needs calibration pictures")
        loaded = _quantized(loaded, calibration)
    lowered = to_edge_transform_and_lower(loaded, partitioner=[XnnpackPartitioner()])
    left = Counter(
        str(node.target.name() if hasattr(node.target, "name") else node.target)
        for node in lowered.exported_program().graph.nodes
        if node.op == "call_function"
        and "executorch_call_delegate" not in str(node.target)
        and "getitem" not in str(node.target)
    )
    out.write_bytes(lowered.to_executorch().buffer)
    return {
        "version": version("executorch"),
        "format": "ExecuTorch program, XNNPACK",
        "left": dict(left),
    }


def _quantized(loaded: Any, calibration: np.ndarray) -> Any:  # noqa: ANN401 - exported programs, imported late
    """Linear and convolution layers in int8, by PyTorch's export quantization (PT2E)."""
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = get_symmetric_quantization_config(is_per_channel=True)
    quantizer = XNNPACKQuantizer()
    # Globally the quantizer also takes additions, which the delegate then fails to lower.
    for kind in (torch.nn.Linear, torch.nn.Conv2d):
        quantizer.set_module_type(kind, config)
    prepared = prepare_pt2e(loaded.module(), quantizer)
    for picture in calibration:
        prepared(torch.from_numpy(picture[None]))
    converted = convert_pt2e(prepared)
    return torch.export.export(converted, (torch.from_numpy(calibration[:1]),))


def load(file: Path) -> Classify:
    """A function of uint8 [1, H, W, 3] that gives logits [1, K]."""
    import torch
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(file)
    method = program.load_method("forward")
    if method is None:
        raise ValueError(f"{file} has no method `forward`")

    def classify(image: np.ndarray) -> np.ndarray:
        (logits,) = method.execute([torch.from_numpy(image)])
        return logits.numpy().copy()

    classify.program = program  # type: ignore[attr-defined] # the method borrows its memory
    return classify
