"""Core ML: `.mlpackage` classifiers that take an image, with their labels inside.

Core ML runs on Apple's systems alone. Elsewhere the program that was saved is read back, weights
included, and executed operator by operator in PyTorch (`load`); that shows the program to be
right, and says nothing about a device.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lavit_deploy.export.mobile.formats import Classify
from lavit_deploy.export.mobile.formats.format import Format, MobileVariant

FORMAT = Format(
    name="coreml",
    source="planar",
    variants=(
        MobileVariant(
            "coreml-fp16", "fp16.mlpackage", "fp16", "what the Neural Engine computes in"
        ),
        MobileVariant(
            "coreml-int8", "int8.mlpackage", "int8-weights", "int8 weights, fp16 arithmetic"
        ),
        MobileVariant("coreml-palette6", "p6.mlpackage", "palette6", "64 values for each weight"),
    ),
    modules=("coremltools", "torch", "sklearn"),
    requirement="coremltools==9.0 scikit-learn torch==2.13.0",
    method="saved program executed in PyTorch, results rounded to fp16; not run on a device",
    layout="image",
    colours="an image, or float32 [1, C, H, W] on the 0..255 scale where it has alpha",
)


def imports() -> None:
    """Load the packages that `load` needs."""
    import coremltools  # noqa: F401 - loaded for its cost alone
    import torch  # noqa: F401 - loaded for its cost alone


def convert(program: Path, out: Path, precision: str, about: dict[str, Any]) -> dict[str, Any]:
    """Write one `.mlpackage`.

    Args:
        program: a saved `torch.export` program that takes float32 [1, C, H, W] on the 0..255
            scale; mean and std are in its weights, so the image's scale is 1 and its bias 0.
        out: the folder to write.
        precision: "fp16", "int8-weights" or "palette6" (both over fp16 arithmetic).
        about: labels and preprocessing, as in the sidecar.

    Returns:
        The version.
    """
    import coremltools as ct
    import coremltools.optimize.coreml as cto
    import torch

    loaded = torch.export.load(program).run_decompositions({})
    shape = tuple(loaded.example_inputs[0][0].shape)
    model = ct.convert(
        loaded,
        inputs=[_input(shape)],
        classifier_config=ct.ClassifierConfig(list(about["classes"])),
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT16,
        minimum_deployment_target=ct.target.iOS16,
    )
    if precision == "int8-weights":
        scheme = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(mode="linear_symmetric"))
        model = cto.linear_quantize_weights(model, scheme)
    elif precision == "palette6":
        scheme = cto.OptimizationConfig(cto.OpPalettizerConfig(mode="kmeans", nbits=6))
        model = cto.palettize_weights(model, scheme)
    model.short_description = about["input"]["description"]
    model.version = about["name"]
    model.user_defined_metadata["lavit"] = json.dumps(about, ensure_ascii=False)
    model.save(str(out))
    return {"version": version("coremltools"), "format": "ML Program, iOS 16", "undelegated": {}}


def _input(shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - untyped package
    """An image where Core ML has one of so many channels, a tensor elsewhere.

    Args:
        shape: [1, C, H, W].
    """
    import coremltools as ct

    if shape[1] == 3:
        return ct.ImageType(
            name="image", shape=shape, scale=1.0, bias=[0.0] * 3, color_layout=ct.colorlayout.RGB
        )
    if shape[1] == 1:
        return ct.ImageType(
            name="image", shape=shape, scale=1.0, bias=0.0, color_layout=ct.colorlayout.GRAYSCALE
        )
    return ct.TensorType(name="image", shape=shape)


def _main_function(file: Path) -> Any:  # noqa: ANN401 - untyped package
    """The function that a saved package holds, with its weights."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load as read_program

    spec = ct.utils.load_spec(str(file))
    weights = file / "Data" / "com.apple.CoreML" / "weights"
    return read_program(spec, spec.specificationVersion, str(weights)).functions["main"]


def precision_found(file: Path) -> str:
    """How most weights are stored, read from the saved program."""
    packed = {
        "constexpr_affine_dequantize": "int8-weights",
        "constexpr_lut_to_dense": "palette6",
    }
    plain = {"float16": "fp16", "float32": "fp32"}
    sizes: Counter[str] = Counter()
    for operation in _main_function(file).operations:
        (first, *_) = operation.outputs
        if operation.op_type in packed:
            sizes[packed[operation.op_type]] += int(np.prod(first.shape))
        elif operation.op_type == "const" and isinstance(first.val, np.ndarray):
            # Indices and 8-bit numbers are counted where they are unpacked, not here.
            sizes[plain.get(str(first.val.dtype), "")] += first.val.size
    del sizes[""]
    return sizes.most_common(1)[0][0]


def load(file: Path) -> Classify:
    """A function of uint8 [1, H, W, C] that gives logits [1, K], by executing the saved program.

    Raises:
        ValueError: the program holds an operator that the interpreter does not know.
    """
    import torch

    function = _main_function(file)
    operations = list(function.operations)
    (entry,) = function.inputs

    def classify(image: np.ndarray) -> np.ndarray:
        values: dict[str, Any] = {entry: torch.from_numpy(image).permute(0, 3, 1, 2).float()}
        for operation in operations:
            if operation.op_type == "classify":
                return values[operation.inputs["probabilities"].name].float().numpy()
            if operation.op_type != "const":
                _execute(operation, values)
        raise ValueError(f"{file.name} is no classifier")

    return classify


def _value(variable: Any, values: dict[str, Any]) -> Any:  # noqa: ANN401 - as MIL holds them
    """What an operand holds: constants are NumPy arrays or plain values."""
    import torch

    if isinstance(variable, list | tuple):
        return [_value(item, values) for item in variable]
    if variable.name in values:
        return values[variable.name]
    held = variable.val
    return torch.from_numpy(held) if isinstance(held, np.ndarray) and held.ndim else held


def _execute(operation: Any, values: dict[str, Any]) -> None:  # noqa: ANN401 - untyped package
    """Execute one operator of the program; semantics of coremltools' MIL reference."""
    import torch
    from torch.nn import functional

    given = {name: _value(var, values) for name, var in operation.inputs.items() if var is not None}

    def sizes(name: str) -> list[int]:
        return [int(item) for item in np.asarray(given[name]).reshape(-1)]

    def turned(name: str, flag: str) -> torch.Tensor:
        wide = given[name].float()
        return wide.transpose(-2, -1) if given.get(flag) else wide

    def unpacked_affine() -> torch.Tensor:
        data = given["quantized_data"].float()
        axis = int(given["axis"])
        view = [-1 if index == axis else 1 for index in range(data.ndim)]
        scale = torch.as_tensor(np.asarray(given["scale"], dtype=np.float32)).reshape(view)
        zero = torch.as_tensor(np.asarray(given["zero_point"], dtype=np.float32)).reshape(view)
        return ((data - zero) * scale).half()

    def unpacked_palette() -> torch.Tensor:
        shape, table = sizes("shape"), np.asarray(given["lut"])
        bits = int(np.log2(len(table)))
        packed = np.asarray(given["indices"], dtype=np.uint8)
        stream = np.unpackbits(packed, bitorder="little")[: int(np.prod(shape)) * bits]
        indices = stream.reshape(-1, bits) @ (1 << np.arange(bits))
        return torch.from_numpy(table[indices].reshape(shape))

    kind = operation.op_type
    known: dict[str, Callable[[], Any]] = {
        "cast": lambda: given["x"].half() if "16" in str(given["dtype"]) else given["x"].float(),
        "add": lambda: given["x"] + given["y"],
        "mul": lambda: given["x"] * given["y"],
        "linear": lambda: functional.linear(
            given["x"].float(),
            given["weight"].float(),
            given["bias"].float() if "bias" in given else None,
        ),
        "matmul": lambda: turned("x", "transpose_x") @ turned("y", "transpose_y"),
        "conv": lambda: functional.conv2d(
            given["x"].float(),
            given["weight"].float(),
            given["bias"].float() if "bias" in given else None,
            stride=sizes("strides"),
        ),
        "reshape": lambda: given["x"].reshape(sizes("shape")),
        "transpose": lambda: given["x"].permute(sizes("perm")),
        "expand_dims": lambda: _expanded(given["x"], sizes("axes")),
        "layer_norm": lambda: functional.layer_norm(
            given["x"].float(),
            [given["x"].shape[-1]],
            given["gamma"].float() if "gamma" in given else None,
            given["beta"].float() if "beta" in given else None,
            float(given["epsilon"]),
        ),
        "softmax": lambda: given["x"].float().softmax(int(given["axis"])),
        "gelu": lambda: functional.gelu(given["x"].float()),
        "reduce_mean": lambda: given["x"].float().mean(sizes("axes"), bool(given["keep_dims"])),
        "split": lambda: given["x"].split(_parts(given), int(given["axis"])),
        "constexpr_affine_dequantize": unpacked_affine,
        "constexpr_lut_to_dense": unpacked_palette,
    }
    if kind not in known:
        raise ValueError(f"no interpretation of the MIL operator {kind!r}")
    results = known[kind]()
    results = results if isinstance(results, tuple) else (results,)
    for variable, result in zip(operation.outputs, results, strict=True):
        computed = isinstance(result, torch.Tensor) and kind != "cast"
        # Results are rounded to float16, as the program's types say.
        half = computed and "fp16" in str(variable.dtype)
        values[variable.name] = result.half() if half else result


def _expanded(x: Any, axes: list[int]) -> Any:  # noqa: ANN401 - a tensor, whose package is imported late
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


def _parts(given: dict[str, Any]) -> Any:  # noqa: ANN401 - a size or a list of sizes
    """Sizes of a split's parts, or the one size of equal parts."""
    if "split_sizes" in given:
        return [int(item) for item in np.asarray(given["split_sizes"])]
    return given["x"].shape[int(given["axis"])] // int(given["num_splits"])
