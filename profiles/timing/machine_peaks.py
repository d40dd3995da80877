"""What a machine can do at most: matrix products and memory copies, measured.

A data sheet's peak is not reached by any program, and a container or virtual machine rarely has
the clocks that it supposes. The fastest of several calls is taken: here, and only here, a
disturbance can but slow a call down, and the question is what was possible.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from lavit_deploy.manifest import Device
from lavit_deploy.profiles.report.machine import MatrixPeak, Peaks
from lavit_deploy.profiles.timing.torch_runner import DTYPES, torch_threads
from lavit_deploy.profiles.timing.turns import Notify

_SIZES: dict[Device, tuple[int, ...]] = {"cpu": (256, 1024, 2048), "cuda": (1024, 4096, 8192)}
_COPIED: dict[Device, int] = {"cpu": 256 * 2**20, "cuda": 2**30}
"""Bytes of a copied block: well beyond the last cache."""
_CALLS = 6
_LONGEST = 1.0
"""Seconds: a product that would take longer is left out. Processors without instructions for a
precision compute it thousands of times slower than their best."""


def measure_peaks(
    device: Device,
    threads: int,
    notify: Notify = lambda *_: None,
    *,
    sizes: Sequence[int] | None = None,
    copied: int | None = None,
) -> Peaks:
    """Measure square matrix products in every precision, and a copy within memory.

    Args:
        device: where.
        threads: threads within an operator on the CPU.
        notify: told what is being measured.
        sizes: sides of the matrices, ascending; the fastest counts. Default: as fits the device.
        copied: bytes of the block that is copied. Default: as fits the device.
    """
    sizes = sizes or _SIZES[device]
    copied = copied or _COPIED[device]
    products: list[MatrixPeak] = []
    with torch.inference_mode(), torch_threads(threads):
        for done, (precision, dtype) in enumerate(DTYPES.items()):
            notify(f"peak of matrix products in {precision}", done / (len(DTYPES) + 1))
            products.append(_best_product(sizes, precision, dtype, device))
        notify("peak of copies in memory", len(DTYPES) / (len(DTYPES) + 1))
        bandwidth = _copy(copied, device)
    notify("peaks measured", 1.0)
    return Peaks(
        products=tuple(products), copy_bytes_per_second=bandwidth, copied_bytes=copied, calls=_CALLS
    )


def _best_product(
    sizes: Sequence[int], precision: str, dtype: torch.dtype, device: Device
) -> MatrixPeak:
    best = _product(sizes[0], precision, dtype, device)
    for size in sizes[1:]:
        if size**3 / best.multiply_adds_per_second > _LONGEST:
            break
        best = max(
            best,
            _product(size, precision, dtype, device),
            key=lambda peak: peak.multiply_adds_per_second,
        )
    return best


def _product(size: int, precision: str, dtype: torch.dtype, device: Device) -> MatrixPeak:
    left = torch.ones(size, size, device=device).to(dtype)
    right, out = torch.ones_like(left), torch.empty_like(left)
    seconds = _fastest(lambda: torch.mm(left, right, out=out), device)
    return MatrixPeak(precision=precision, multiply_adds_per_second=size**3 / seconds, size=size)


def _copy(copied: int, device: Device) -> float:
    """Bytes per second, those read and those written."""
    source = torch.ones(copied // 4, device=device)
    target = torch.empty_like(source)
    return 2 * copied / _fastest(lambda: target.copy_(source), device)


def _fastest(call: Callable[[], object], device: Device) -> float:
    """Seconds of the fastest of `_CALLS` calls, after one that is not counted."""
    call()
    return min(_seconds(call, device) for _ in range(_CALLS))


def _seconds(call: Callable[[], object], device: Device) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
