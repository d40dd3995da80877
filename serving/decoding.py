"""Pictures to pixels, in threads beside the event loop."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lavit_deploy.preprocess import Pixels, Preprocess, decode


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture as the model takes it.

    Attributes:
        pixels: uint8 [H, W, 3].
        wait_seconds: time until a thread was free.
        decode_seconds: decoding, resizing and cropping.
    """

    pixels: Pixels
    wait_seconds: float
    decode_seconds: float


class Decoders:
    """A pool of decoding threads.

    Pillow releases the interpreter's lock while it decodes and resizes, so threads do scale. The
    pool's own queue has no bound; what enters it is bounded by the places a request must hold.

    Args:
        preprocess: resize and crop of the model.
        threads: pictures decoded at the same time; this also bounds the memory they need.
        max_pixels: limit on width * height, read from a picture's header.
    """

    def __init__(self, preprocess: Preprocess, *, threads: int, max_pixels: int) -> None:
        self._preprocess = preprocess
        self._max_pixels = max_pixels
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decoder")

    async def decode(self, data: bytes) -> Decoded:
        """Decode one picture.

        Raises:
            ImageError: the bytes are no picture that can be used; says why.
        """
        asked = time.perf_counter()
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, self._decode, data, asked
        )

    def _decode(self, data: bytes, asked: float) -> Decoded:
        started = time.perf_counter()
        pixels = self._preprocess(decode(data, max_pixels=self._max_pixels))
        return Decoded(pixels, started - asked, time.perf_counter() - started)

    def close(self) -> None:
        """End the threads; pictures not begun are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)
