"""ExecuTorch: `.pte` files whose work is delegated to XNNPACK."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lavit_deploy.export.mobile.formats import Classify
from lavit_deploy.export.mobile.formats.format import Format, MobileVariant

FORMAT = Format(
    name="executorch",
    source="uint8",
    variants=(
        MobileVariant("executorch-fp32", "fp32.pte", "fp32", "the exact one"),
        MobileVariant(
            "executorch-int8", "int8.pte", "int8", "a quarter of the size, integer products"
        ),
    ),
    modules=("executorch", "torchao", "torch"),
    requirement="executorch==1.5.1 torchao==0.18.0 torch==2.13.0",
)

_PROFILED = 20  # calls


def imports() -> None:
    """Load the packages that `load` needs."""
    import executorch.runtime  # noqa: F401 - loaded for its cost alone
    import torch  # noqa: F401 - loaded for its cost alone


def convert(program: Path, out: Path, precision: str, _about: dict[str, Any]) -> dict[str, Any]:
    """Write one `.pte`.

    Args:
        program: a saved `torch.export` program that takes uint8 [1, H, W, C].
        out: the file to write.
        precision: "fp32" or "int8" (weights per channel, and activations rounded as they come, in
            ranges of their own).
        _about: the format has no place for it.

    Returns:
        The version and the operators that are not delegated, with how often they occur.
    """
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    loaded = torch.export.load(program)
    if precision == "int8":
        loaded = _quantized(loaded)
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
        "undelegated": dict(left),
    }


def _quantized(loaded: Any) -> Any:  # noqa: ANN401 - exported programs, imported late
    """Linear layers of the tokens in int8, by PyTorch's export quantization (PT2E).

    The one that takes pixels stays float: in int8 it alone lowered the cosine of the logits from
    0.9999 to 0.979. So do maps of scores.
    """
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer()
    for name in _token_layers(loaded):
        quantizer.set_module_name(
            name, get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
        )
    prepared = prepare_pt2e(loaded.module(), quantizer)
    prepared(*loaded.example_inputs[0])
    return torch.export.export(convert_pt2e(prepared), loaded.example_inputs[0])


def _token_layers(loaded: Any) -> list[str]:  # noqa: ANN401 - exported programs, imported late
    """Names of the modules that are linear layers of tokens."""
    parameters = loaded.graph_signature.inputs_to_parameters
    weights = [
        parameters.get(node.args[1].name, "")
        for node in loaded.graph.nodes
        if node.op == "call_function" and "linear" in str(node.target)
    ]
    return [
        name.removesuffix(".weight")
        for name in weights
        if name.endswith(".weight")
        and ".chain." not in name
        and "stages.0.patch_embed." not in name
    ]


def precision_found(file: Path) -> str:
    """What most delegated products with constants compute in, by the size of the constants."""
    known = {
        ("fp32", "fp32"): "fp32",
        ("qdint8", "qcint8"): "int8",
        ("fp32", "qcint8"): "int8-weights",
    }
    sizes: Counter[tuple[str, str]] = Counter()
    for graph in _delegated_graphs(file.read_bytes()):
        tensors = {}
        for value in graph["xvalues"]:
            held = value["xvalue_union"]
            tensor = held.get("tensor_value", held)
            tensors[tensor["id_out"]] = tensor
        for node in graph["xnodes"]:
            made = node["xnode_union"]
            if "filter_id" in made:
                used = [tensors[made[name]] for name in ("input1_id", "filter_id")]
                kinds = [tensor["datatype"].removeprefix("xnn_datatype_") for tensor in used]
                sizes[kinds[0], kinds[1]] += int(np.prod(used[1]["dims"]))
    if not sizes:
        return "nothing that XNNPACK runs"
    found = sizes.most_common(1)[0][0]
    return known.get(found, " x ".join(found))


def _delegated_graphs(program: bytes) -> Iterator[dict[str, Any]]:
    """Every graph in a `.pte` that XNNPACK runs, read by ExecuTorch's own schema."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import (
        XNNHeader,
        _get_schema_bytes,
    )
    from executorch.exir._serialize._flatbuffer import _flatc_decompile
    from executorch.exir._serialize._program import deserialize_pte_binary

    held = deserialize_pte_binary(program).program
    for plan in held.execution_plan:
        for delegate in plan.delegates:
            blob = bytes(held.backend_delegate_data[delegate.processed.index].data)
            header = XNNHeader.from_bytes(blob[: XNNHeader.EXPECTED_LENGTH])
            start = header.flatbuffer_offset
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                (folder / "schema.fbs").write_bytes(_get_schema_bytes())
                (folder / "graph.bin").write_bytes(blob[start : start + header.flatbuffer_size])
                _flatc_decompile(
                    scratch, str(folder / "schema.fbs"), str(folder / "graph.bin"), ["--raw-binary"]
                )
                yield json.loads((folder / "graph.json").read_bytes())


def undelegated_share(file: Path, image: np.ndarray) -> float:
    """Share of a call's time that operators take which XNNPACK does not run.

    ExecuTorch's own profiler counts, whose reading of the clock is part of what it counts.

    Args:
        file: a `.pte`.
        image: uint8 [1, H, W, C].
    """
    import torch
    from executorch.devtools.etdump.serialize import deserialize_from_etdump_flatcc
    from executorch.extension.pybindings.portable_lib import _load_for_executorch

    module = _load_for_executorch(str(file), enable_etdump=True)
    for _ in range(_PROFILED):
        module.forward([torch.from_numpy(image)])
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "trace"
        module.write_etdump_result_to_file(str(trace), str(Path(scratch) / "tensors"))
        runs = deserialize_from_etdump_flatcc(trace.read_bytes()).run_data
    shares = []
    for run in runs:
        times: Counter[str] = Counter()
        for event in run.events or ():
            if event.profile_event is not None:
                made = event.profile_event
                times[made.name or ""] += made.end_time - made.start_time
        if whole := times["Method::execute"]:  # the first run is the loading of the file
            left = sum(time for name, time in times.items() if name.startswith("native_call_"))
            shares.append(left / whole)
    return statistics.median(shares)


def load(file: Path) -> Classify:
    """A function of uint8 [1, H, W, C] that gives logits [1, K]."""
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
