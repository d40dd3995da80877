"""`manifest.json`: what a bundle holds, where it came from, and how far it can be trusted.

The schema is a pydantic model; `docs/manifest.schema.json` is its JSON Schema.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NamedTuple, Self, Union

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    model_validator,
)

from lavit_deploy.common.environment import Environment
from lavit_deploy.families.catalogue import DEFAULT, FAMILIES, find_family
from lavit_deploy.families.family import Configuration
from lavit_deploy.preprocess import Preprocess

SCHEMA_VERSION: Literal[2] = 2
"""Raised whenever a reader of the version before would misunderstand a manifest."""
READABLE = (1, SCHEMA_VERSION)
"""Version 1, of 0.1.0, had neither `family` nor `task`: their defaults are what it meant."""

Device = Literal["cpu", "cuda"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""Of a family, a task or a runtime."""
RuntimeName = Name
"""Of `lavit_deploy.runtimes.specs`, or of a mobile format; one that is not known here is passed
over when an artifact is chosen."""
Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "int8-weights", "palette6"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _config_of(value: object, info: ValidationInfo) -> Configuration:
    """A configuration of the family that the manifest names.

    Raises:
        ConfigError: no such family, or a configuration that breaks a rule of it.
    """
    family = find_family(info.data.get("family", DEFAULT))
    if isinstance(value, family.config_type):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"is no configuration of the family {family.name}")  # noqa: TRY004 - pydantic's
    return family.read_config(value)


ModelConfig = Annotated[
    Configuration,
    PlainValidator(
        _config_of,
        json_schema_input_type=Union[*(family.config_type for family in FAMILIES), dict[str, Any]],
    ),
    PlainSerializer(lambda config: config.to_dict(), return_type=dict[str, Any]),
]
"""Of one family's own type; in JSON, an object with that type's fields."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class CheckpointRecord(_Record):
    """The file or folder that everything was made from.

    Attributes:
        file: its name, without folders.
        sha256: hash of its bytes; of several files, of what `sha256sum` prints of them by name.
        weights: dotted key of the weights that were taken, such as "model" or "model_ema"; empty
            where they are all that the file holds.
    """

    file: str
    sha256: Sha256
    weights: str = "model"


class BatchRange(_Record):
    """Batch sizes of an artifact: the smallest, the one it was optimised for, the largest."""

    minimum: int = Field(ge=1)
    optimum: int = Field(ge=1)
    maximum: int = Field(ge=1)


class Parity(_Record):
    """An artifact against the float32 PyTorch model, on real pictures.

    Attributes:
        method: how the artifact was run, such as "run" or a stand-in where it cannot run.
        images: number of pictures compared.
        source: where they came from.
        max_difference: largest absolute difference of a logit.
        mean_difference: mean absolute difference of the logits.
        cosine: smallest cosine similarity of a picture's logits.
        top1_agreement: share of pictures with the same most likely class, 0 to 1.
        near_ties: pictures whose class changed where the reference's own two best logits lie
            within a few roundings of each other; they count as agreement.
        passed: whether every threshold of the precision held.
        reason: which threshold failed and by how much; empty if passed.
        first_divergent_layer: after a failure, the earliest layer whose output leaves the
            tolerance.
    """

    method: str
    images: int = Field(ge=1)
    source: str
    max_difference: float
    mean_difference: float
    cosine: float
    top1_agreement: float
    near_ties: int = 0
    passed: bool
    reason: str = ""
    first_divergent_layer: str | None = Field(
        None, validation_alias=AliasChoices("first_divergent_layer", "first_departure")
    )


class BatchTiming(_Record):
    """Latency of one batch size on the machine in the manifest's environment.

    Attributes:
        batch: images per call.
        median_ms: median time of a call, milliseconds.
        images_per_second: batch divided by the median.
        runs: calls that the median is of.
        threads: cores that the runtime was kept to; None for all of the process.
    """

    batch: int = Field(ge=1)
    median_ms: float
    images_per_second: float
    runs: int
    threads: int | None = None


class Footprint(_Record):
    """What an artifact takes, measured in a process of its own.

    Attributes:
        load_seconds: time to open it.
        batch: images in the call that the memory was measured with.
        peak_mib: largest resident memory of the whole process, MiB.
        own_mib: what opening and running the artifact added to it, MiB.
    """

    load_seconds: float
    batch: int
    peak_mib: float
    own_mib: float


class ExtraFile(_Record):
    """A file that an artifact needs beside its own, such as the weights of an OpenVINO IR."""

    file: str
    sha256: Sha256
    size_bytes: int


class Engine(_Record):
    """How an engine of TensorRT or TensorRT-RTX was built.

    Attributes:
        compute_capabilities: GPUs that it runs on, such as ("8.6",); "8.0+" for 8.0 and later.
        precision_source: where `precision_found` was read: the built engine's inspector, or, where
            no GPU could load the engine, the layers of the strongly typed network.
        less_attention: whether less-attention layers are operators or the plugin's.
        less_attention_why: why.
        version_compatible: whether later versions of the library can load it.
        refittable: whether its weights can be exchanged.
        stripped: whether its weights are filled in from the ONNX file on load.
        optimization_level: 0 to 5.
    """

    compute_capabilities: tuple[Annotated[str, Field(pattern=r"^\d+\.\d\+?$")], ...]
    precision_source: Literal["engine inspector", "network layers"]
    less_attention: Literal["native", "plugin"] = "native"
    less_attention_why: str = ""
    version_compatible: bool = False
    refittable: bool = False
    stripped: bool = False
    optimization_level: int = Field(default=3, ge=0, le=5)


class Kernels(_Record):
    """Which layers of an AOTInductor package are this project's own operators.

    Attributes:
        less_attention: less-attention layers as PyTorch's operators, or as `lavit::less_attention`.
        mlp: MLPs of narrow tokens as PyTorch's operators, or as `lavit::fused_mlp`.
        mlp_why: why.
    """

    less_attention: Literal["native", "fused"]
    mlp: Literal["native", "fused"]
    mlp_why: str


class Quantization(_Record):
    """How an int8 artifact was made, and what it loses on held-out pictures.

    Attributes:
        method: how ranges of activations were taken; "weights" where they
            are not rounded beforehand, weights alone are int8.
        method_errors: relative error of the logits by each method that was tried.
        rest: precision of what is not int8.
        float_blocks: blocks that were returned to float.
        sensitivity: relative error of the logits with one block alone in int8, by block.
        calibration: where the calibration pictures came from.
        calibration_images: how many there were.
        held_out: where the pictures that it is judged on came from.
        float_accuracy: share of right classes of float32 on those, 0 to 1; None without labels.
        accuracy: the same of this artifact.
        drop: points of accuracy lost; without labels, points of agreement lost.
        max_drop: points that were allowed.
        worst_layer: the layer whose output is furthest from float32, where it can be read.
        float_operators: operators that compute in float and their number, where it can be read.
    """

    method: Literal["min-max", "percentile", "mse", "weights"]
    method_errors: dict[str, float] = {}
    rest: Precision = "fp32"
    float_blocks: tuple[str, ...] = ()
    sensitivity: dict[str, float] = {}
    calibration: str
    calibration_images: int = Field(ge=1)
    held_out: str
    float_accuracy: float | None = None
    accuracy: float | None = None
    drop: float
    max_drop: float
    worst_layer: str | None = None
    float_operators: dict[str, int] = {}


class Artifact(_Record):
    """One exported file and what is known about it.

    Attributes:
        name: unique within the bundle, such as "onnx-fp32".
        file: path relative to the bundle.
        sha256: hash of its bytes.
        size_bytes: its size.
        extra_files: files that it needs beside it.
        runtime: which runtime opens it.
        runtime_version: version of the runtime that checked it.
        format_version: version of the format, such as "opset 23".
        precision_requested: what was asked for.
        precision_found: what the built file holds, read from it.
        folded: whether the exact rewrites of `lavit_deploy.folding` were applied.
        compute_types: number of compute nodes (matrix products and convolutions) by element type.
        batch: batch sizes it accepts.
        devices: devices that its runtime has kernels for.
        device: device it was checked and timed on.
        compute_capability: CUDA compute capability it was built for, if any.
        plugin: plugin library it needs, if any.
        plugin_sha256: hash of that library.
        engine: how it was built, for an engine of TensorRT.
        kernels: which operators are this project's, for a package of AOTInductor.
        quantization: how it was quantized, if it was.
        build_seconds: time its build took.
        parity: comparison with the float32 model.
        rounded_parity: for half precision checked on a CPU, whose kernels keep float32 between
            operators: the same comparison with every result rounded, as a GPU does.
        timings: measured latencies.
        footprint: load time and memory, where measured.
        undelegated_operators: of a mobile file, how many operators of each kind its runtime's
            delegate leaves to slower kernels; empty where the format has none or does not tell.
        undelegated_share: share of the time of a call that those take, 0 to 1; None where the
            runtime does not tell.
    """

    name: str
    file: str
    sha256: Sha256
    size_bytes: int
    extra_files: tuple[ExtraFile, ...] = ()
    runtime: RuntimeName
    runtime_version: str
    format_version: str
    precision_requested: Precision
    precision_found: str
    folded: bool = False
    compute_types: dict[str, int]
    batch: BatchRange
    devices: tuple[Device, ...]
    device: Device
    compute_capability: str | None = None
    plugin: str | None = None
    plugin_sha256: Sha256 | None = None
    engine: Engine | None = None
    kernels: Kernels | None = None
    quantization: Quantization | None = None
    build_seconds: float
    parity: Parity
    rounded_parity: Parity | None = None
    timings: tuple[BatchTiming, ...] = ()
    footprint: Footprint | None = None
    undelegated_operators: dict[str, int] = Field(
        {}, validation_alias=AliasChoices("undelegated_operators", "left_operators")
    )
    undelegated_share: float | None = Field(
        None, validation_alias=AliasChoices("undelegated_share", "left_share")
    )

    @property
    def parities(self) -> tuple[Parity, ...]:
        """Every comparison that was made."""
        return tuple(item for item in (self.parity, self.rounded_parity) if item is not None)

    @property
    def total_bytes(self) -> int:
        """Size of all its files."""
        return self.size_bytes + sum(extra.size_bytes for extra in self.extra_files)

    @property
    def failure(self) -> Parity | None:
        """The first comparison that did not hold, None if all did."""
        return next((item for item in self.parities if not item.passed), None)

    @property
    def passed(self) -> bool:
        """Whether every comparison held."""
        return self.failure is None

    @property
    def best_rate(self) -> float:
        """Most images per second measured at any batch size; 0 where nothing was measured."""
        return max((timing.images_per_second for timing in self.timings), default=0.0)


class ReliabilityBin(NamedTuple):
    """Pictures of about the same confidence.

    Attributes:
        pictures: how many there are.
        confidence: mean probability of their most likely class; 0 without a picture.
        accuracy: share of them whose most likely class is right; 0 without a picture.
    """

    pictures: int
    confidence: float
    accuracy: float


class Confidence(_Record):
    """How logits become probabilities that can be believed, and when a picture is unknown.

    Fitted on labelled pictures that the model was not trained on, see
    `lavit_deploy.tasks.confidence`. "Before" is temperature 1. What is not "before" was measured on
    each half of the pictures with the temperature of the other half.

    Attributes:
        temperature: what logits are divided by before the softmax.
        unknown_below: a picture whose logits have a log-sum-exp below this is unknown; None where
            none is ever called so.
        max_refused: share of known pictures that may be called unknown, 0 to 1.
        pictures: how many labelled pictures it was fitted on.
        source: where they came from.
        error_before: expected calibration error, over bins of equal width, 0 to 1.
        error: the same with the temperature.
        likelihood_before: mean negative log-likelihood of the labels, nats.
        likelihood: the same with the temperature.
        bins_before: the bins that `error_before` is of, by growing confidence.
        bins: those of `error`.
    """

    temperature: float = Field(gt=0, allow_inf_nan=False)
    unknown_below: float | None = Field(None, allow_inf_nan=False)
    max_refused: float = Field(ge=0, le=1)
    pictures: int = Field(ge=1)
    source: str
    error_before: float
    error: float
    likelihood_before: float
    likelihood: float
    bins_before: tuple[ReliabilityBin, ...]
    bins: tuple[ReliabilityBin, ...]


class Manifest(_Record):
    """The whole of `manifest.json`.

    Attributes:
        schema_version: `SCHEMA_VERSION` of the writer.
        project_version: version of lavit-deploy that wrote it.
        name: model name, shown to clients.
        family: model family that the configuration is of; see `lavit_deploy.families`.
        task: what the outputs mean; "classification" is the only one so far.
        architecture: preset that the configuration equals, "custom" otherwise.
        config: the model's configuration.
        classes: class names in the order of the logits.
        preprocess: how a picture becomes the input.
        normalisation_in_graph: whether the artifacts take uint8 and apply mean and std themselves.
        checkpoint: the source.
        artifacts: what was built, in order.
        not_built: artifacts whose conversion failed, and what their tools said.
        environment: where it was built and compared.
        timed_on: where the latencies were measured, if they were measured again elsewhere.
        confidence: how probabilities are calibrated and what is unknown; None where no labelled
            pictures were given.
        no_confidence: why nothing could be fitted on the pictures that were given; empty if none
            were, or it was.
        int8: whether int8 is faster and accurate there, in words; None where nothing is quantized.
        command: the command line.
        created: time of writing, ISO 8601 UTC.
    """

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    project_version: str
    name: str
    family: Name = DEFAULT
    task: Name = "classification"
    architecture: str
    config: ModelConfig
    classes: tuple[str, ...]
    preprocess: Preprocess
    normalisation_in_graph: Literal[True] = True
    checkpoint: CheckpointRecord
    artifacts: tuple[Artifact, ...]
    not_built: dict[str, str] = {}
    environment: Environment
    timed_on: Environment | None = None
    confidence: Confidence | None = None
    no_confidence: str = ""
    int8: str | None = None
    command: tuple[str, ...]
    created: str

    @model_validator(mode="after")
    def _check_pictures(self) -> Self:
        channels, crop = len(self.preprocess.mean), self.preprocess.crop
        if channels != self.config.in_channels:
            raise ValueError(
                f"preprocess gives {channels} channels, the model takes {self.config.in_channels}"
            )
        if crop != self.config.image_size:
            raise ValueError(
                f"preprocess crops to {list(crop)}, the model takes {list(self.config.image_size)}"
            )
        return self

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        if len(self.classes) != self.config.num_classes:
            raise ValueError(
                f"{len(self.classes)} classes for a model of {self.config.num_classes} outputs"
            )
        return self


if __name__ == "__main__":
    print(json.dumps(Manifest.model_json_schema(), indent=2))
