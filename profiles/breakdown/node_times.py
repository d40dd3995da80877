"""Where an artifact spends its time: the node profiles of ONNX Runtime and OpenVINO.

Both name the nodes that ran. The exported ONNX file says for each of its nodes which module it came
from; nodes that a runtime made of several, or added, take the place of what reads them.
"""

from __future__ import annotations

import ast
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.common.errors import MissingDependencyError
from lavit_deploy.families.catalogue import find_family
from lavit_deploy.manifest import Artifact
from lavit_deploy.profiles.breakdown.part_times import CallTimes, time_by_part
from lavit_deploy.profiles.counting.module_rules import ModuleRules, module_rules
from lavit_deploy.profiles.counting.parts import Place
from lavit_deploy.profiles.report.times import TimeSplit
from lavit_deploy.runtimes.onnxruntime import import_onnxruntime
from lavit_deploy.runtimes.openvino import import_openvino, precision_config

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Key under which torch's exporter writes the modules that a node came from."""

_KERNEL = "_kernel_time"
_WARMUP = 5


class Node(NamedTuple):
    """A node of the graph that a runtime executes.

    Attributes:
        name: as its profile names it.
        origins: nodes of the exported file that it was made of, as far as it says.
        reads: names of the nodes whose outputs it reads.
    """

    name: str
    origins: tuple[str, ...]
    reads: tuple[str, ...]


def artifact_split(
    bundle: Bundle, artifact: Artifact, *, batch: int, calls: int, threads: int
) -> TimeSplit | None:
    """Measure where the time of a call of an artifact goes.

    Args:
        bundle: the bundle that holds it, with the ONNX file it was made from.
        artifact: it.
        batch: images per call.
        calls: calls to take the median over.
        threads: threads within an operator.

    Returns:
        None for a runtime without a profile here, or a bundle without an ONNX file.

    Raises:
        MissingDependencyError: the runtime, or onnx, is not installed.
    """
    source = _source(bundle, artifact)
    if source is None or artifact.runtime not in {"onnxruntime", "openvino"}:
        return None
    family = find_family(bundle.manifest.family)
    places = onnx_places(source, module_rules(*family.module_parts))
    shape = (batch, *bundle.manifest.preprocess.shape)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    file = bundle.path / artifact.file
    if artifact.runtime == "onnxruntime":
        nodes, taken = _onnxruntime(file, images, calls, threads)
        method = "ONNX Runtime's node profile"
    else:
        config = precision_config(artifact.precision_requested) | {"INFERENCE_NUM_THREADS": threads}
        nodes, taken = _openvino(file, images, calls, config)
        method = "OpenVINO's node profile"
    return time_by_part(taken, inherited(nodes, places), method=method, batch=batch)


def _source(bundle: Bundle, artifact: Artifact) -> Path | None:
    """The ONNX file whose nodes the artifact's are named after: its own, or any float32 one."""
    files = [one.file for one in bundle.manifest.artifacts if one.file.endswith(".onnx")]
    own = [file for file in files if file == artifact.file]
    wide = [file for file in files if "fp32" in file]
    return next((bundle.path / file for file in (*own, *wide, *files)), None)


def onnx_places(file: Path, rules: ModuleRules) -> dict[str, Place]:
    """Where the nodes of an exported ONNX file belong, by their name.

    A node without a module of its own, made by the exporter, belongs with its first input.

    Raises:
        MissingDependencyError: onnx is not installed.
    """
    nodes = _onnx_nodes(file)
    places: dict[str, Place] = {}
    made_by: dict[str, str] = {}
    for node in nodes:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), None)
        if scopes is not None:
            modules: list[str] = ast.literal_eval(scopes)[:-1]  # the last is the operator itself
            places[node.name] = rules.locate(modules[-1] if modules else "")
        else:
            before = [made_by[name] for name in node.input if made_by.get(name) in places]
            if before:
                places[node.name] = places[before[0]]
        made_by.update(dict.fromkeys(node.output, node.name))
    return places


def inherited(nodes: Sequence[Node], places: Mapping[str, Place]) -> dict[str, Place]:
    """Places of executed nodes: of an origin, else of what reads them, else of what they read.

    Args:
        nodes: executed nodes, in an order in which they could run.
        places: nodes of the exported file -> place.
    """
    found: dict[str, Place] = {}
    for node in nodes:
        known = [places[origin] for origin in node.origins if origin in places]
        if known:
            found[node.name] = known[0]
    readers = {before: node.name for node in reversed(nodes) for before in node.reads}
    for node in reversed(nodes):
        reader = readers.get(node.name)
        if node.name not in found and reader in found:
            found[node.name] = found[reader]
    for node in nodes:
        before = next((name for name in node.reads if name in found), None)
        if node.name not in found and before is not None:
            found[node.name] = found[before]
    return found


def _onnxruntime(
    file: Path, images: np.ndarray, calls: int, threads: int
) -> tuple[list[Node], list[CallTimes]]:
    ort = import_onnxruntime()
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(optimised)
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for _ in range(_WARMUP + calls):
            session.run(None, {name: images})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        nodes = list(_optimised_nodes(optimised))
    return nodes, list(_onnxruntime_calls(events))[_WARMUP:]


def _optimised_nodes(file: Path) -> Iterator[Node]:
    made_by: dict[str, str] = {}
    for node in _onnx_nodes(file):
        # A node made by a fusion keeps the first one's name before a slash, or has a new name.
        origin = node.name.partition("/")[0]
        reads = tuple(made_by[name] for name in node.input if name in made_by)
        yield Node(node.name, (node.name, origin), reads)
        made_by.update(dict.fromkeys(node.output, node.name))


def _onnxruntime_calls(events: Sequence[Mapping[str, Any]]) -> Iterator[CallTimes]:
    """Events, in microseconds, of one run after the other; each ends with its "model_run"."""
    own: defaultdict[str, float] = defaultdict(float)
    for event in sorted(events, key=lambda one: one["ts"] + one["dur"]):
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            own[event["name"].removesuffix(_KERNEL)] += event["dur"] / 1e6
        elif event["name"] == "model_run":
            yield CallTimes(own, event["dur"] / 1e6)
            own = defaultdict(float)


def _openvino(
    file: Path, images: np.ndarray, calls: int, config: Mapping[str, Any]
) -> tuple[list[Node], list[CallTimes]]:
    ov = import_openvino()
    options = {**config, "PERF_COUNT": True, "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(file, "CPU", options)
    request = compiled.create_infer_request()
    taken = []
    for _ in range(_WARMUP + calls):
        started = time.perf_counter()
        request.infer([images])
        total = time.perf_counter() - started
        own: defaultdict[str, float] = defaultdict(float)
        for node in request.profiling_info:
            own[node.node_name] += node.real_time.total_seconds()
        taken.append(CallTimes(own, total))
    nodes = [_openvino_node(op) for op in compiled.get_runtime_model().get_ordered_ops()]
    return nodes, taken[_WARMUP:]


def _openvino_node(op: Any) -> Node:  # noqa: ANN401 - openvino publishes no type for it
    info = op.get_rt_info()
    origins = info["originalLayersNames"].astype(str) if "originalLayersNames" in info else ""
    reads = (value.get_source_output().get_node().get_friendly_name() for value in op.inputs())
    return Node(op.get_friendly_name(), tuple(origins.split(",")), tuple(reads))


def _onnx_nodes(file: Path) -> Sequence[Any]:
    try:
        import onnx
    except ImportError:
        raise MissingDependencyError(
            "onnx", extra="export", purpose="read which module a node came from"
        ) from None
    return onnx.load(file, load_external_data=False).graph.node
