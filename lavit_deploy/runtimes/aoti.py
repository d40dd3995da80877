"""AOTInductor packages: a model compiled ahead of time by PyTorch, without its Python code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lavit_deploy.common.environment import Environment
from lavit_deploy.common.errors import (
    BundleError,
    InferenceError,
    MissingDependencyError,
    UsageError,
)
from lavit_deploy.manifest import Device
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.base import Logits, Runtime, TensorSpec
from lavit_deploy.runtimes.spec import Opening, RuntimeSpec

_VECTOR_FEATURES = {"AVX512": "avx512f", "AVX2": "avx2"}
"""Instruction sets in a package's metadata, and as the environment names them."""

_FIRST_EXACT = 90
"""From this compute capability on (ten times) code is for one GPU alone."""


def import_torch() -> Any:  # noqa: ANN401 - a module has no type of its own
    """The torch package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MissingDependencyError(
            "torch", extra="aoti", purpose="run AOTInductor packages"
        ) from None
    return torch


def cuda_capability() -> str:
    """Compute capability of the GPU that torch uses, such as "9.0"."""
    return ".".join(map(str, import_torch().cuda.get_device_capability()))


class AotiRuntime(Runtime):
    """One AOTInductor package (`.pt2`) with input uint8 [B, H, W, C].

    A package holds machine code, trusted as a program is: open only your own bundles'.

    Args:
        file: the package.
        max_batch: largest batch to accept.
        picture: height, width and channels of the input.
        device: where it was compiled for.
        threads: threads of PyTorch, a setting of the whole process; default: left as it is.

    Raises:
        BundleError: the file is no package, or was compiled for another processor or GPU.
        MissingDependencyError: torch is not installed.
        UsageError: there is no CUDA here, and it is asked for.
    """

    name = "aoti"

    def __init__(
        self,
        file: Path,
        *,
        max_batch: int,
        picture: tuple[int, int, int],
        device: Device = "cpu",
        threads: int | None = None,
    ) -> None:
        torch = import_torch()
        if device == "cuda" and not torch.cuda.is_available():
            raise UsageError("the installed torch finds no CUDA GPU: choose --device cpu")
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            self._package = torch._inductor.aoti_load_package(str(file))  # noqa: SLF001 - its documented name
            metadata = self._package.get_metadata()
        except Exception as error:  # noqa: BLE001 - its loader raises what its C++ code throws
            raise BundleError(f"torch {torch.__version__} cannot open {file}: {error}") from None
        _check_processor(file, metadata, device)
        self.device = device
        self.max_batch = max_batch
        self.input = TensorSpec("uint8", (None, *picture))

    def _infer(self, images: Pixels) -> Logits:
        if self._package is None:
            raise InferenceError("this AOTInductor package is closed")
        torch = import_torch()
        try:
            with torch.inference_mode():
                given = torch.from_numpy(images).to(self.device)
                return self._package(given).cpu().numpy()
        except RuntimeError as error:
            raise InferenceError(f"the AOTInductor package failed: {error}") from error

    def close(self) -> None:
        self._package = None


def _check_processor(file: Path, metadata: dict[str, str], device: Device) -> None:
    """Refuse machine code that this processor or GPU does not have the instructions for.

    Raises:
        BundleError: it does not.
    """
    built_for = metadata.get("AOTI_DEVICE_KEY", device)
    if built_for != device:
        raise BundleError(f"{file} was compiled for {built_for}, not for {device}")
    if device == "cuda":
        _check_gpu(file, metadata.get("AOTI_COMPUTE_CAPABILITY", ""), cuda_capability())
        return
    here = Environment.here().cpu_features
    missing = [
        name
        for name in metadata.get("AOTI_CPU_ISA", "").split()
        if name in _VECTOR_FEATURES and _VECTOR_FEATURES[name] not in here
    ]
    if missing:
        raise BundleError(
            f"{file} was compiled for a processor with {', '.join(missing)}, "
            f"this one has {', '.join(here) or 'none of it'}: export the checkpoint here"
        )


def _check_gpu(file: Path, built_for: str, here: str) -> None:
    """Refuse code of another generation of GPUs, or of a later one of the same generation.

    Args:
        file: the package.
        built_for: compute capability, ten times, as its metadata has it; empty if it does not say.
        here: compute capability of this GPU.

    Raises:
        BundleError: the code does not run here.
    """
    if not built_for.isdigit():
        return
    # Tensor core kernels from 9.0 on are for one compute capability alone (sm_90a).
    wanted, found = int(built_for), int(here.replace(".", ""))
    same_generation = wanted // 10 == found // 10 and wanted <= found < _FIRST_EXACT
    if wanted != found and not same_generation:
        raise BundleError(
            f"{file} was compiled for compute capability {wanted // 10}.{wanted % 10}, this GPU "
            f"has {here}: export the checkpoint here"
        )


def _open(opening: Opening) -> Runtime:
    return AotiRuntime(
        opening.file,
        max_batch=opening.artifact.batch.maximum,
        picture=opening.picture,
        device=opening.device,
        threads=opening.threads,
    )


SPEC = RuntimeSpec("aoti", module="torch", extra="aoti", distributions=("torch",), open=_open)
