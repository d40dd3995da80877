"""Pictures decoded in several processes, in order, a bounded number ahead of the model."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

from lavit_deploy.common.errors import ImageError
from lavit_deploy.prediction.sources import Item
from lavit_deploy.preprocess import Pixels, Preprocess, prepare

_AHEAD = 2
"""Batches for each process that are being decoded or waiting for the model."""


@dataclass(frozen=True)
class Decoded:
    """One picture, or why it cannot be used.

    Attributes:
        item: which.
        pixels: uint8 [H, W, C]; None after an error.
        error: what is wrong with it; empty if nothing is.
    """

    item: Item
    pixels: Pixels | None
    error: str = ""


class Decoders(AbstractContextManager["Decoders"]):
    """A pool of decoding processes.

    Args:
        preprocess: how a picture becomes the model's input.
        processes: how many; 0 decodes in this process.
        max_pixels: the largest picture that is decoded.
    """

    def __init__(self, preprocess: Preprocess, processes: int, max_pixels: int) -> None:
        self._preprocess = preprocess
        self._processes = processes
        self._max_pixels = max_pixels
        self._pool = self._new_pool() if processes else None

    def _new_pool(self) -> ProcessPoolExecutor:
        # Not forked: this process has the threads of a runtime.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._processes, mp_context=context)

    def batches(self, items: Iterable[Item], size: int) -> Iterator[list[Decoded]]:
        """Decoded pictures in batches of `size`, in the items' order."""
        chunks = _chunks(items, size)
        if self._pool is None:
            for chunk in chunks:
                yield decode_chunk(chunk, self._preprocess, self._max_pixels)
            return
        waiting: deque[tuple[list[Item], Future[list[Decoded]]]] = deque()
        for chunk in chunks:
            waiting.append((chunk, self._submit(chunk)))
            if len(waiting) >= _AHEAD * self._processes:
                yield self._result(*waiting.popleft())
        while waiting:
            yield self._result(*waiting.popleft())

    def _submit(self, chunk: list[Item]) -> Future[list[Decoded]]:
        try:
            return self._started().submit(decode_chunk, chunk, self._preprocess, self._max_pixels)
        except BrokenProcessPool:
            self._pool = self._new_pool()
            return self._pool.submit(decode_chunk, chunk, self._preprocess, self._max_pixels)

    def _result(self, chunk: list[Item], future: Future[list[Decoded]]) -> list[Decoded]:
        try:
            return future.result()
        except BrokenProcessPool:
            # A process died, of one of these pictures or of another batch's.
            return self._again(chunk)

    def _again(self, chunk: list[Item]) -> list[Decoded]:
        """Decode a batch whose processes died; a picture that kills one by itself is to blame."""
        try:
            return self._submit(chunk).result()
        except BrokenProcessPool:
            if len(chunk) == 1:
                why = "its decoder died of it: killed, or out of memory"
                return [Decoded(_light(chunk[0]), None, why)]
            return [decoded for item in chunk for decoded in self._again([item])]

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            raise RuntimeError("there are no processes")
        return self._pool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def decode_chunk(chunk: Sequence[Item], preprocess: Preprocess, max_pixels: int) -> list[Decoded]:
    """Decode some pictures; a bad one costs none of the others."""
    return [_decode(item, preprocess, max_pixels) for item in chunk]


def _decode(item: Item, preprocess: Preprocess, max_pixels: int) -> Decoded:
    try:
        content = item.content
        data = content.read_bytes() if isinstance(content, Path) else content
        pixels = prepare(data, preprocess, max_pixels=max_pixels)
    except OSError as error:
        return Decoded(_light(item), None, f"cannot be read: {error.strerror or error}")
    except ImageError as error:
        return Decoded(_light(item), None, str(error))
    return Decoded(_light(item), pixels)


def _light(item: Item) -> Item:
    """The item without its bytes, which need not travel back."""
    return Item(item.name, b"", item.label)


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
