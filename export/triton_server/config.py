"""`config.pbtxt`: what Triton Inference Server must know about one model.

Fields are those of `inference.ModelConfig` (`model_config.proto` of Triton's common repository).
"""

from __future__ import annotations

from dataclasses import dataclass

from lavit_deploy.export.graphs.onnx_graph import INPUT_NAME, OUTPUT_NAME
from lavit_deploy.manifest import Artifact, Manifest, RuntimeName
from lavit_deploy.preprocess import CHANNELS, Preprocess

LABELS = "labels.txt"
_QUEUE = 256
_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Backend:
    """A backend of Triton.

    Attributes:
        name: as in `config.pbtxt`.
        file: what the model's file is called in its version's folder.
    """

    name: str
    file: str


BACKENDS: dict[RuntimeName, Backend] = {
    "onnxruntime": Backend("onnxruntime", "model.onnx"),
    "openvino": Backend("openvino", "model.xml"),
    "tensorrt": Backend("tensorrt", "model.plan"),
}
"""Runtimes whose files Triton opens."""


def computes_in(artifact: Artifact) -> str:
    """Precision of what is not quantized."""
    quantization = artifact.quantization
    return quantization.rest if quantization else artifact.precision_found


def config_text(name: str, manifest: Manifest, artifact: Artifact) -> str:
    """The text of `config.pbtxt`.

    Every artifact of a server takes uint8 pictures [B, H, W, C] and normalises them itself, so no
    ensemble is needed; Triton leaves the batch out of `dims`.

    Args:
        name: of the model; letters, digits and `_.-` alone.
        manifest: of the bundle.
        artifact: one of a runtime in `BACKENDS`.
    """
    config, backend = manifest.config, BACKENDS[artifact.runtime]
    picture = f"[ {config.image_size[0]}, {config.image_size[1]}, {config.in_channels} ]"
    sizes = sorted({1, artifact.batch.optimum, artifact.batch.maximum})
    return f"""\
# {artifact.name} of {manifest.name}, checkpoint {manifest.checkpoint.sha256[:12]}
# {INPUT_NAME}: {_pictures(manifest.preprocess)}
name: "{name}"
backend: "{backend.name}"
default_model_filename: "{backend.file}"
max_batch_size: {artifact.batch.maximum}
input [
  {{
    name: "{INPUT_NAME}"
    data_type: TYPE_UINT8
    dims: {picture}
  }}
]
output [
  {{
    name: "{OUTPUT_NAME}"
    data_type: TYPE_FP32
    dims: [ {config.num_classes} ]
    label_filename: "{LABELS}"
  }}
]
{_instances(artifact)}dynamic_batching {{
  # No preferred sizes: every size is taken, and Triton would hold requests back for one.
  # Waiting requests share a batch; none waits for others unless this is more than 0.
  max_queue_delay_microseconds: 0
  default_queue_policy {{
    # A request's own timeout may be shorter.
    timeout_action: REJECT
    default_timeout_microseconds: {_TIMEOUT_SECONDS * 1_000_000}
    allow_timeout_override: true
    max_queue_size: {_QUEUE}
  }}
}}
{"".join(_warm_up(size, picture) for size in sizes)}"""


def _pictures(preprocess: Preprocess) -> str:
    """What a client does to a picture, in words."""
    height, width = preprocess.crop
    return (
        f"{CHANNELS[preprocess.mode]}, {preprocess.sizes} ({preprocess.interpolation}), "
        f"centre crop {height} x {width}; mean and std are applied inside"
    )


def _instances(artifact: Artifact) -> str:
    """Where it runs; where there is a choice, Triton takes a GPU if there is one."""
    text = ""
    if len(artifact.devices) == 1:
        kind = "KIND_CPU" if artifact.devices == ("cpu",) else "KIND_GPU"
        text = f"instance_group [ {{ kind: {kind} }} ]\n"
    if artifact.runtime == "openvino" and computes_in(artifact) == "bf16":
        text += 'parameters { key: "HINT_BF16" value: { string_value: "YES" } }\n'
    return text


def _warm_up(size: int, picture: str) -> str:
    """Black pictures that Triton runs before it says that it is ready.

    Twice, because a runtime's first call of a size also prepares for it.
    """
    return f"""\
model_warmup [
  {{
    name: "batch of {size}"
    batch_size: {size}
    count: 2
    inputs {{
      key: "{INPUT_NAME}"
      value: {{ data_type: TYPE_UINT8 dims: {picture} zero_data: true }}
    }}
  }}
]
"""
