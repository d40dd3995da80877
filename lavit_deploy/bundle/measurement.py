"""BatchTiming, throughput, load time and memory of a bundle's artifacts on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.bundle.first_run import verify
from lavit_deploy.bundle.int8_summary import int8_verdict
from lavit_deploy.bundle.open import open_artifact
from lavit_deploy.bundle.selection import Criteria, obstacle
from lavit_deploy.common.alternation import alternate, median_ms
from lavit_deploy.common.environment import Environment
from lavit_deploy.common.errors import BundleError, InferenceError, LavitError
from lavit_deploy.families.family import Configuration
from lavit_deploy.manifest import Artifact, BatchTiming, Device, Footprint, Parity
from lavit_deploy.preprocess import Pixels
from lavit_deploy.runtimes.specs import distributions, is_for_servers

Progress = Callable[[str], None]

_RUNS = 30
_SECONDS = 12.0  # for each batch size, over all artifacts
_PROBE_SECONDS = 300


def measure(
    bundle: Bundle,
    *,
    device: Device,
    threads: int | None = None,
    sizes: Sequence[int] | None = None,
    progress: Progress = lambda _step: None,
) -> Bundle:
    """Measure every artifact that passed parity and runs here, in turn.

    Engines are run on the bundle's pictures first: one that was built elsewhere has not been
    compared yet, and one that disagrees here is marked as failed and not measured.

    Args:
        bundle: an opened bundle; its files stay as they are.
        device: where to measure.
        threads: threads of each runtime; default: the cores this process may use.
        sizes: batch sizes; default: the smallest and the optimum of the batch range.
        progress: told what is measured.

    Returns:
        The bundle with new timings and footprints in its manifest, not yet saved.

    Raises:
        BundleError: a file is missing or altered.
        InferenceError: a runtime failed.
    """
    here = Environment.here(distributions())
    criteria = Criteria(device=device, agreement=0.0, unverified=True)
    bundle = _verified(bundle, criteria, here, progress)
    usable = [item for item in bundle.manifest.artifacts if not obstacle(item, criteria, here)]
    footprints = {}
    for item in usable:
        progress(f"memory of {item.name}")
        footprints[item.name] = measure_footprint(bundle, item, device=device, threads=threads)
    timings: dict[str, list[BatchTiming]] = {item.name: [] for item in usable}
    with ExitStack() as stack:
        runtimes = {
            item.name: stack.enter_context(
                open_artifact(bundle, item, device=device, threads=threads)
            )
            for item in usable
        }
        for size in sizes or _sizes(usable):
            progress(f"latency at batch {size}")
            images = _noise(size, bundle.manifest.config)
            calls = {name: partial(runtime.infer, images) for name, runtime in runtimes.items()}
            measured = alternate(calls, runs=_RUNS, budget_seconds=_SECONDS) if calls else {}
            for name, seconds in measured.items():
                timings[name].append(_timing(size, seconds))
    artifacts = tuple(
        item.model_copy(
            update={
                "timings": tuple(timings.get(item.name, ())),
                "footprint": footprints.get(item.name),
            }
        )
        # Others were measured when they were built, in their own runtimes.
        if is_for_servers(item.runtime)
        else item
        for item in bundle.manifest.artifacts
    )
    verdict = int8_verdict([item for item in artifacts if is_for_servers(item.runtime)])
    update = {"artifacts": artifacts, "timed_on": here, "int8": verdict}
    manifest = bundle.manifest.model_copy(update=update)
    return Bundle(bundle.path, manifest)


def _verified(bundle: Bundle, criteria: Criteria, here: Environment, progress: Progress) -> Bundle:
    """The bundle with every engine that can run here compared here."""
    artifacts = []
    for item in bundle.manifest.artifacts:
        if item.engine is not None and not obstacle(item, criteria, here):
            progress(f"parity of {item.name}")
            artifacts.append(
                item.model_copy(update={"parity": _parity_here(bundle, item, criteria)})
            )
        else:
            artifacts.append(item)
    manifest = bundle.manifest.model_copy(update={"artifacts": tuple(artifacts)})
    return Bundle(bundle.path, manifest)


def _parity_here(bundle: Bundle, artifact: Artifact, criteria: Criteria) -> Parity:
    """Parity of an engine that is run here; one that cannot be loaded or run has failed."""
    try:
        with open_artifact(bundle, artifact, device=criteria.device) as runtime:
            return verify(bundle, artifact, runtime)
    except LavitError as error:
        return artifact.parity.model_copy(update={"passed": False, "reason": str(error)})


def _sizes(artifacts: Sequence[Artifact]) -> list[int]:
    return sorted({size for item in artifacts for size in (item.batch.minimum, item.batch.optimum)})


def _noise(size: int, config: Configuration) -> Pixels:
    """Random pictures uint8 [B, H, W, C]; their content does not change the time."""
    shape = (size, *config.image_size, config.in_channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _timing(size: int, seconds: list[float]) -> BatchTiming:
    milliseconds = median_ms(seconds)
    return BatchTiming(
        batch=size,
        median_ms=milliseconds,
        images_per_second=size * 1e3 / milliseconds,
        runs=len(seconds),
    )


def measure_footprint(
    bundle: Bundle, artifact: Artifact, *, device: Device, threads: int | None = None
) -> Footprint:
    """Load time and peak memory of one artifact, in a process of its own.

    Memory that other artifacts and libraries of this process hold would hide its own.

    Raises:
        InferenceError: the process failed.
    """
    command = [
        sys.executable,
        "-m",
        "lavit_deploy.bundle.measurement",
        str(bundle.path),
        artifact.name,
        device,
    ]
    ran = subprocess.run(  # noqa: S603 - our own module on our own bundle
        [*command, str(threads or 0)],
        capture_output=True,
        text=True,
        timeout=_PROBE_SECONDS,
        check=False,
    )
    if ran.returncode != 0:
        last = ran.stderr.strip().splitlines()[-1:] or ["no message"]
        raise InferenceError(f"measuring the memory of {artifact.name} failed: {last[0]}")
    return Footprint.model_validate(json.loads(ran.stdout))


def _probe(path: str, name: str, device: Device, threads: str) -> Footprint:
    """Open an artifact, run its optimum batch, and report on this process."""
    bundle = Bundle.open(Path(path))
    artifact = bundle.artifact(name)
    before = _peak_mib()
    start = time.perf_counter()
    with open_artifact(bundle, artifact, device=device, threads=int(threads) or None) as runtime:
        seconds = time.perf_counter() - start
        size = artifact.batch.optimum
        runtime.infer(_noise(size, bundle.manifest.config))
    peak = _peak_mib()
    return Footprint(
        load_seconds=round(seconds, 3),
        batch=size,
        peak_mib=round(peak, 1),
        own_mib=round(peak - before, 1),
    )


def _peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    try:
        # Not getrusage: on Linux its figure starts from that of the parent before the exec.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass  # not Linux
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def save(bundle: Bundle) -> None:
    """Write the manifest of a tuned bundle.

    Raises:
        BundleError: the folder cannot be written.
    """
    try:
        Bundle.write_manifest(bundle.path, bundle.manifest)
    except OSError as error:
        raise BundleError(
            f"the new measurements of {bundle.path} cannot be saved: {error.strerror}"
        ) from None


if __name__ == "__main__":
    print(_probe(*sys.argv[1:]).model_dump_json())  # type: ignore[arg-type] # our own caller
