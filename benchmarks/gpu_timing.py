"""Times of GPU work without the time that Python takes to launch it.

A call of a few microseconds takes a hundred to launch from Python. Calls are therefore captured
into a CUDA graph and the graph's replays are timed by CUDA events; how long a launch takes is a
number of its own. On a CPU, for a trial of a program, calls are timed as they are.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

Call = Callable[[], object]

_WARM_UP = 3


def graph_of(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    """Calls in a row as a CUDA graph, each made a few times before: compiled, and tuned.

    Args:
        calls: work on the current CUDA device, whose inputs stay where they are.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            for call in calls:
                call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def replayed(
    device: str, ways: dict[str, Sequence[Call]], repeats: int, seconds: float = 10.0
) -> dict[str, float]:
    """Median milliseconds of one call of each way, the ways in turn.

    Args:
        device: "cuda", or "cpu" for a trial.
        ways: for each way the calls of one graph: on other inputs in turn, so that together they
            are larger than the L2 cache, since in a model other layers empty it.
        repeats: replays of each way.
        seconds: no further round after this.
    """
    run = (
        {way: graph_of(calls).replay for way, calls in ways.items()}
        if device == "cuda"
        else {way: (lambda calls=calls: [call() for call in calls]) for way, calls in ways.items()}
    )
    times: dict[str, list[float]] = {way: [] for way in ways}
    end = time.monotonic() + seconds
    for turn in range(repeats):
        if turn and time.monotonic() > end:
            break
        for way, replay in run.items():
            times[way].append(elapsed(device, replay) / len(ways[way]))
    return {way: statistics.median(found) for way, found in times.items()}


def elapsed(device: str, call: Call) -> float:
    """Milliseconds of one call: between events on CUDA, by the clock elsewhere."""
    if device != "cuda":
        begin = time.perf_counter()
        call()
        return (time.perf_counter() - begin) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def launched(device: str, call: Call, repeats: int = 50) -> float:
    """Milliseconds that Python takes to launch a call: of many in a row, nothing waited for."""
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(repeats if device == "cuda" else 1):
        call()
    took = time.perf_counter() - begin
    if device == "cuda":
        torch.cuda.synchronize()
        return took / repeats * 1e3
    return took * 1e3


def peaks(device: str, dtype: torch.dtype, size: int, copy_bytes: int) -> tuple[float, float]:
    """What the card reaches: bytes a second of a copy, multiply-adds a second of a product.

    Args:
        device: where.
        dtype: of the product.
        size: of the square product.
        copy_bytes: of the copy; read and written bytes are counted.
    """
    source = torch.empty(copy_bytes, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    out = torch.empty_like(left)
    found = replayed(
        device,
        {
            "copy": [lambda: target.copy_(source)] * 4,
            "product": [lambda: torch.mm(left, right, out=out)] * 4,
        },
        repeats=10,
    )
    return 2 * copy_bytes / found["copy"] * 1e3, size**3 / found["product"] * 1e3
