"""The process that converts, runs or times one file, in the interpreter that has its packages.

    python -m lavit_deploy.export.mobile.conversion_process ...
    convert FORMAT JOB.json FACTS.json
    run FORMAT FILE PICTURES.npy LOGITS.npy
    measure FORMAT FILE PICTURES.npy THREADS FACTS.json

A fault of a native library ends this process and not the export; memory is its own.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

_RUNS = 30
_SECONDS = 8.0
_WARM_UP = 3


def _convert(form: ModuleType, job: str, facts: str) -> None:
    wanted = json.loads(Path(job).read_text(encoding="utf-8"))
    out = Path(wanted["out"])
    made = form.convert(Path(wanted["program"]), out, wanted["precision"], wanted["about"])
    made["found"] = form.precision_found(out)
    Path(facts).write_text(json.dumps(made), encoding="utf-8")


def _run(form: ModuleType, file: str, pictures: str, logits: str) -> None:
    classify = form.load(Path(file))
    images = np.load(pictures)
    found = [classify(images[index : index + 1]) for index in range(len(images))]
    np.save(logits, np.concatenate(found).astype(np.float32))


def _measure(form: ModuleType, file: str, pictures: str, threads: str, facts: str) -> None:
    if hasattr(os, "sched_setaffinity"):  # every runtime keeps to the cores of its process
        cores = sorted(os.sched_getaffinity(0))[: int(threads)]
        os.sched_setaffinity(0, cores)
    image = np.load(pictures)[:1]
    form.imports()
    before = _peak_mib()
    start = time.perf_counter()
    classify = form.load(Path(file))
    loaded = time.perf_counter() - start
    for _ in range(_WARM_UP):
        classify(image)
    seconds = _timed(classify, image)
    peak = _peak_mib()
    made = {
        "load_seconds": loaded,
        "median_ms": statistics.median(seconds) * 1e3,
        "runs": len(seconds),
        "peak_mib": peak,
        "own_mib": peak - before,
        "undelegated_share": form.undelegated_share(Path(file), image)
        if hasattr(form, "undelegated_share")
        else None,
    }
    Path(facts).write_text(json.dumps(made), encoding="utf-8")


def _timed(classify: Callable[[np.ndarray], object], image: np.ndarray) -> list[float]:
    seconds: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(seconds) < _RUNS and time.perf_counter() < end:
        start = time.perf_counter()
        classify(image)
        seconds.append(time.perf_counter() - start)
    return seconds


def _peak_mib() -> float:
    """Largest resident memory of this process so far, MiB; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def main(arguments: list[str]) -> None:
    """Do what the command line in the module's docstring says."""
    action, name, *rest = arguments
    form = importlib.import_module(f"lavit_deploy.export.mobile.formats.{name}")
    actions: dict[str, Callable[..., None]] = {
        "convert": _convert,
        "run": _run,
        "measure": _measure,
    }
    actions[action](form, *rest)


if __name__ == "__main__":
    main(sys.argv[1:])
