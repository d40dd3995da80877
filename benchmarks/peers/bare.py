"""The bare runtime with decoding counted: what the machine could do if no server were needed.

    python peers/bare.py --pictures photos/ --seconds 10

One process. Pictures are decoded in a pool of threads while batches run in the runtime, or decoding
and runtime take turns; the faster of the two counts. Prints images a second as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from model import MAX_BATCH, Model

from lavit_deploy.common.environment import available_cores
from lavit_deploy.preprocess import Pixels

AHEAD = 64
"""Pictures under way, as many as clients in the load that saturates a server."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each way")
    options = parser.parse_args()
    files = [path.read_bytes() for path in sorted(options.pictures.glob("*.jpg"))]
    model = Model()
    ways = {"pipelined": pipelined(model, files), "in turn": in_turn(model, files)}
    rates = {name: rate(batches, options.seconds) for name, batches in ways.items()}
    print(json.dumps({"throughput": max(rates.values()), "ways": rates}))


def rate(batches: Iterator[None], seconds: float, warm: float = 1.0) -> float:
    """Images a second, after `warm` seconds that are not counted."""
    begin = time.perf_counter() + warm
    while time.perf_counter() < begin:
        next(batches)
    begin, images = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < seconds:
        next(batches)
        images += MAX_BATCH
    return round(images / passed, 2)


def in_turn(model: Model, files: Sequence[bytes]) -> Iterator[None]:
    """Decode a batch in the pool, then run it."""
    turn = itertools.cycle(files)
    with ThreadPoolExecutor(available_cores()) as pool:
        while True:
            pictures = list(pool.map(model.decode, itertools.islice(turn, MAX_BATCH)))
            _run(model, pictures)
            yield


def pipelined(model: Model, files: Sequence[bytes]) -> Iterator[None]:
    """Decode ahead in the pool while batches run."""
    turn = itertools.cycle(files)
    coming: deque[Future[Pixels]] = deque()
    with ThreadPoolExecutor(available_cores()) as pool:
        while True:
            while len(coming) < AHEAD:
                coming.append(pool.submit(model.decode, next(turn)))
            _run(model, [coming.popleft().result() for _ in range(MAX_BATCH)])
            yield


def _run(model: Model, pictures: Sequence[Pixels]) -> None:
    """A batch, and its answers, which a caller without a server would want as well."""
    for row in model.infer(pictures):
        model.answer(row)


if __name__ == "__main__":
    main()
