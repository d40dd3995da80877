import gzip

import numpy as np
import pytest

from idx_sets import idx_bytes, idx_set
from lavit_deploy.common.errors import DatasetError
from lavit_deploy.idx_files import read_idx, read_idx_set

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_file_is_read_plain_or_compressed_whatever_its_name(tmp_path, compressed):
    path = tmp_path / "images"
    content = idx_bytes(PIXELS)
    path.write_bytes(gzip.compress(content) if compressed else content)
    np.testing.assert_array_equal(read_idx(path), PIXELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file: it begins with nothing"),
        (b"PK\x03\x04", "no IDX file: it begins with 50 4b 03 04"),
        (b"\0\0\x0d\x01\0\0\0\x01", "holds float32; pictures and labels must be unsigned"),
        (b"\0\0\x08\x03\0\0", "ends within its header"),
        (idx_bytes(PIXELS)[:-1], r"should hold 24 values of shape \(2, 3, 4\), it has 23"),
        (idx_bytes(PIXELS) + b"x", "it has more"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "its header asks for"),
        (gzip.compress(idx_bytes(PIXELS))[:-9], "cannot be read"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=f"images-idx3-ubyte.*{message}"):
        read_idx(path)


def test_emnist_s_names_are_understood(tmp_path):
    idx_set(tmp_path)
    for path in tmp_path.iterdir():
        name = path.name.replace("t10k", "test")
        path.rename(tmp_path / f"emnist-letters-{name}")
    files = read_idx_set(tmp_path)
    assert (files.train.shape, files.held_out.shape) == ((9, 28, 28), (3, 28, 28))


def test_the_same_file_plain_and_compressed_is_one(tmp_path):
    idx_set(tmp_path)
    idx_set(tmp_path, compressed=True)
    assert len(read_idx_set(tmp_path).train) == 9


def test_a_missing_or_doubled_file_is_named(tmp_path):
    idx_set(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"one file of held-out labels .* it has none"):
        read_idx_set(tmp_path)
    (tmp_path / "elsewhere").rename(labels)
    (tmp_path / "my-train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"training images .* it has 2: my-train.*, train"):
        read_idx_set(tmp_path)


def test_files_that_do_not_fit_each_other_are_refused(tmp_path):
    idx_set(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(8)))
    with pytest.raises(DatasetError, match=r"has \(8,\) labels for the 9 pictures"):
        read_idx_set(tmp_path)
    idx_set(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((3, 32, 32))))
    with pytest.raises(DatasetError, match=r"training pictures are \(28, 28\)"):
        read_idx_set(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((9, 4))))
    with pytest.raises(DatasetError, match=r"holds \(9, 4\); expected pictures"):
        read_idx_set(tmp_path)
