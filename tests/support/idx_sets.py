"""A small set of four IDX files, as MNIST's."""

import gzip
import struct

import numpy as np


def idx_bytes(array):
    """An array of unsigned bytes as an IDX file."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def idx_set(folder, *, labels=(0, 1, 2), held_out_labels=None, compressed=False, side=28):
    """Write nine pictures to train on and three held out; the training pixels [9, side, side]."""
    random = np.random.default_rng(0)
    held_out_labels = labels if held_out_labels is None else held_out_labels
    train = random.integers(256, size=(9, side, side), dtype=np.uint8)
    held_out = random.integers(256, size=(3, side, side), dtype=np.uint8)
    files = {
        "train-images-idx3-ubyte": train,
        "train-labels-idx1-ubyte": np.array([labels[number % 3] for number in range(9)]),
        "t10k-images-idx3-ubyte": held_out,
        "t10k-labels-idx1-ubyte": np.array(held_out_labels),
    }
    for name, array in files.items():
        content = idx_bytes(array)
        path = folder / (f"{name}.gz" if compressed else name)
        path.write_bytes(gzip.compress(content) if compressed else content)
    return train
