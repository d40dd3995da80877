"""Where the time of LaViT-S in OpenVINO goes, and what was tried to make it less.

Two tables: time by kind of operator (OpenVINO's own counters, one stream), and variants of graph
and compilation called in turn. Variants named "without" compute something else: what they save is
the most that a faster form of that operator could.

    python benchmarks/cpu_operators.py --out docs/reports/cpu-inference
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from cpu_inference import matrix_product_peaks, our_runtimes
from onnx import helper

from lavit_deploy.common.alternation import alternate, median_ms
from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.environment import Environment, available_cores
from lavit_deploy.export.judging.parity_pictures import sample_pictures
from lavit_deploy.folding.fold import fold
from lavit_deploy.model.config import preset
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.runtimes.openvino import import_openvino, precision_config

_BATCH = 8
_PROFILED_CALLS = 15

Call = Callable[[], object]


def main() -> None:
    """Measure, print, and write `operators.md`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--out", type=Path, help="folder of the report")
    options = parser.parse_args()

    torch.manual_seed(0)
    model, preprocess = LaViT(preset("lavit_s")).eval(), Preprocess()
    pixels = sample_pictures(preprocess).images[:_BATCH]
    with tempfile.TemporaryDirectory() as scratch, our_runtimes(model, preprocess, Path(scratch)):
        graph = onnx.load(Path(scratch) / "ours.onnx")
    config = precision_config(options.precision)
    peak = matrix_product_peaks()[options.precision]
    operators = by_operator(graph, pixels, config)
    timed = alternate(
        variants(graph, pixels, config), runs=options.runs, budget_seconds=options.seconds
    )
    flops = 2 * fold(model, preprocess).report.after.multiply_adds
    rows = {name: median_ms(seconds) / _BATCH for name, seconds in timed.items()}
    text = markdown(operators, rows, flops / 1e6 / peak, options.precision)
    print(text)
    if options.out:
        write_text(options.out / "operators.md", text)


def by_operator(
    graph: onnx.ModelProto, pixels: np.ndarray, config: dict[str, object]
) -> Counter[str]:
    """Milliseconds per image by kind of operator, medians over calls on all threads."""
    core = import_openvino().Core()
    compiled = core.compile_model(
        fixed_batch(core, graph, _BATCH),
        "CPU",
        config | {"NUM_STREAMS": 1, "PERF_COUNT": True, "INFERENCE_NUM_THREADS": available_cores()},
    )
    request = compiled.create_infer_request()
    calls: list[dict[str, tuple[str, float]]] = []
    for _ in range(_PROFILED_CALLS):
        request.infer([pixels])
        calls.append(
            {
                node.node_name: (node.node_type, node.real_time.total_seconds())
                for node in request.profiling_info
            }
        )
    total: Counter[str] = Counter()
    for name, (kind, _) in calls[0].items():
        seconds = np.median([call[name][1] for call in calls[1:]])
        total[kind] += float(seconds) * 1e3 / len(pixels)
    return total


def variants(
    graph: onnx.ModelProto, pixels: np.ndarray, config: dict[str, object]
) -> dict[str, Call]:
    """Every variant as a call that classifies the whole batch."""
    threads = available_cores()
    half = _BATCH // threads
    forms = {
        "tanh form of GELU": with_tanh_gelu(graph),
        "MLPs of stage 1 in 4 blocks of tokens": with_blocked_mlps(graph, 4, (64,)),
        "MLPs of stages 1 and 2 in 4 blocks": with_blocked_mlps(graph, 4, (64, 128)),
        "without GELU (a ReLU instead)": replaced(graph, "Gelu", "Relu"),
        "without LayerNorm": replaced(graph, "LayerNormalization", "Identity"),
        "without softmax": replaced(graph, "Softmax", "Identity"),
    }
    calls = {
        "as served: a stream for each core": streams(graph, pixels, config, size=0, count=threads),
        "the same, fixed shapes": streams(graph, pixels, config, size=half, count=threads),
        "one stream on all cores": streams(graph, pixels, config, size=0, count=1),
        "one stream, fixed shapes": streams(graph, pixels, config, size=_BATCH, count=1),
        "one picture at a time": one_by_one(graph, pixels, config, size=0),
        "one picture at a time, fixed shapes (as served)": one_by_one(
            graph, pixels, config, size=1
        ),
    }
    return calls | {
        name: streams(form, pixels, config, size=half, count=threads)
        for name, form in forms.items()
    }


def fixed_batch(core: object, graph: onnx.ModelProto, size: int) -> object:
    """The graph in OpenVINO, for one batch size; 0 leaves it open."""
    model = core.read_model(graph.SerializeToString())  # type: ignore[attr-defined] # untyped
    if size:
        height, width = (
            axis.dim_value for axis in graph.graph.input[0].type.tensor_type.shape.dim[1:3]
        )
        model.reshape([size, height, width, 3])
    return model


def streams(
    graph: onnx.ModelProto,
    pixels: np.ndarray,
    config: dict[str, object],
    *,
    size: int,
    count: int,
) -> Call:
    """A call that gives each of `count` streams an equal part of the batch."""
    core = import_openvino().Core()
    settings = config | {"NUM_STREAMS": count, "INFERENCE_NUM_THREADS": available_cores()}
    compiled = core.compile_model(fixed_batch(core, graph, size), "CPU", settings)
    requests = [compiled.create_infer_request() for _ in range(count)]
    parts = np.split(pixels, count)

    def call() -> None:
        for request, part in zip(requests, parts, strict=True):
            request.start_async([part], share_inputs=True)
        for request in requests:
            request.wait()

    return call


def one_by_one(
    graph: onnx.ModelProto, pixels: np.ndarray, config: dict[str, object], *, size: int
) -> Call:
    """A call that classifies the pictures of the batch one after another, on all cores."""
    core = import_openvino().Core()
    settings = config | {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": available_cores()}
    compiled = core.compile_model(fixed_batch(core, graph, size), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: [request.infer([pixels[i : i + 1]]) for i in range(len(pixels))]


def with_tanh_gelu(graph: onnx.ModelProto) -> onnx.ModelProto:
    """GELU by its tanh approximation, at most 5e-4 off (bfloat16 rounds 1 by 4e-3)."""
    changed = copy_of(graph)
    for node in changed.graph.node:
        if node.op_type == "Gelu":
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("approximate", "tanh"))
    return changed


def replaced(graph: onnx.ModelProto, kind: str, by: str) -> onnx.ModelProto:
    """Every operator of a kind replaced by one that takes its first input alone."""
    changed = copy_of(graph)
    for node in changed.graph.node:
        if node.op_type == kind:
            node.op_type = by
            del node.attribute[:]
            del node.input[1:]
    return changed


def with_blocked_mlps(
    graph: onnx.ModelProto, blocks: int, widths: Sequence[int]
) -> onnx.ModelProto:
    """MLPs of these widths on blocks of tokens, so that the hidden layer stays in cache."""
    changed = copy_of(graph)
    nodes = list(changed.graph.node)
    makers = {output: node for node in nodes for output in node.output}
    takers = {name: node for node in nodes for name in node.input}
    weights = {item.name: item for item in changed.graph.initializer}
    result = []
    gone: set[str] = set()
    for gelu in (node for node in nodes if node.op_type == "Gelu"):
        add = makers[gelu.input[0]]
        (bias,) = (name for name in add.input if name in weights)
        (product,) = (name for name in add.input if name not in weights)
        first, second = makers[product], takers[gelu.output[0]]
        if weights[first.input[1]].dims[0] not in widths:
            continue
        gone |= {first.name, add.name, gelu.name}
        prefix = gelu.name
        parts = [f"{prefix}.in{index}" for index in range(blocks)]
        chain = [helper.make_node("Split", [first.input[0]], parts, axis=1, num_outputs=blocks)]
        for index, part in enumerate(parts):
            names = [f"{prefix}.{step}{index}" for step in ("fc1.", "bias.", "gelu.", "fc2.")]
            chain += [
                helper.make_node("MatMul", [part, first.input[1]], names[:1]),
                helper.make_node("Add", [names[0], bias], names[1:2]),
                helper.make_node("Gelu", names[1:2], names[2:3]),
                helper.make_node("MatMul", [names[2], second.input[1]], names[3:]),
            ]
        outputs = [f"{prefix}.fc2.{index}" for index in range(blocks)]
        chain.append(helper.make_node("Concat", outputs, second.output, axis=1))
        result.append((second.name, chain))
    places = dict(result)
    del changed.graph.node[:]
    for node in nodes:
        if node.name not in gone:
            changed.graph.node.extend(places.get(node.name, [node]))
    return changed


def copy_of(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without inferred shapes, which the change may make untrue."""
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    del changed.graph.value_info[:]
    return changed


def markdown(operators: Counter[str], rows: dict[str, float], floor: float, precision: str) -> str:
    """Both tables."""
    here = Environment.here()
    total = operators.total()
    served = next(iter(rows.values()))
    lines = [
        (
            f"LaViT-S, {precision}, batch {_BATCH}; {here.cpu}, {here.cores} cores, "
            f"OpenVINO {here.libraries['openvino']}. Its multiply-adds at the rate of the measured "
            f"matrix-product peak would take {floor:.2f} ms per image."
        ),
        "",
        "| operator | ms per image | share |",
        "|---|---:|---:|",
        *(
            f"| {name} | {time:.2f} | {time / total:.1%} |"
            for name, time in operators.most_common()
            if time >= total / 500
        ),
        "",
        "FullyConnected includes the bias and GELU that are fused into it.",
        "",
        "| variant, called in turn | ms per image | against served | share of the peak |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {time:.2f} | {served / time:.2f}x | {floor / time:.0%} |"
            for name, time in rows.items()
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
