"""A child's decoder that really breaks, where the bytes ask for it."""

import ctypes
import threading

import numpy as np

from lavit_deploy.preprocess import prepare


def treacherous(limits):
    def work(data, preprocess):
        if data == b"crash":
            ctypes.string_at(0)  # a segmentation fault, as of a bug in a C decoder
        if data == b"hang":
            threading.Event().wait()
        if data == b"grow":
            return np.ones(4 * limits.memory, dtype=np.uint8)
        if data == b"fault":
            raise ZeroDivisionError("a fault of ours")
        if data == b"flood":
            return np.zeros((999, 999, 3), dtype=np.uint8)
        return prepare(data, preprocess, max_pixels=limits.max_pixels)

    return work
