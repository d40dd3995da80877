"""Pictures come decoded, in order, whatever a decoder dies of."""

import os
import signal

import numpy as np
import pytest

from lavit_deploy.prediction import decoding
from lavit_deploy.prediction.decoding import Decoders
from lavit_deploy.prediction.sources import Item, open_source
from lavit_deploy.preprocess import MAX_PIXELS, Preprocess

PREPROCESS = Preprocess(resize=8, crop=(8, 8))


def deadly(chunk, preprocess, max_pixels):
    """As decode_chunk, but of some files the process is killed."""
    if any("deadly" in item.name for item in chunk):
        os.kill(os.getpid(), signal.SIGKILL)
    return decoding.decode_chunk(chunk, preprocess, max_pixels)


def outline(batches):
    return [(item.item.name, item.pixels is not None) for batch in batches for item in batch]


@pytest.mark.parametrize("processes", [0, 2])
def test_batches_keep_the_order_and_name_what_is_damaged(folder, processes):
    with Decoders(PREPROCESS, processes, MAX_PIXELS) as decoders:
        batches = list(decoders.batches(open_source(str(folder)), 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    expected = [item.name for item in open_source(str(folder))]
    assert outline(batches) == [(name, name != "red/torn.png") for name in expected]
    assert "truncated or damaged" in batches[-1][-1].error or batches[-1][-1].error
    np.testing.assert_array_equal(batches[0][0].pixels, np.full((8, 8, 3), (0, 0, 250)))


def test_a_file_that_is_gone_costs_none_of_the_others(folder):
    items = [Item("gone", folder / "gone.png"), Item("there", folder / "red" / "0.png")]
    with Decoders(PREPROCESS, 0, MAX_PIXELS) as decoders:
        (gone, there) = next(decoders.batches(items, 2))
    assert gone.error == "cannot be read: No such file or directory"
    assert there.pixels is not None


@pytest.mark.slow
def test_a_picture_that_kills_its_decoder_costs_none_of_the_others(folder, monkeypatch):
    monkeypatch.setattr(decoding, "decode_chunk", deadly)
    file = folder / "red" / "0.png"
    items = [Item(f"{number}{'-deadly' * (number == 5)}", file) for number in range(12)]
    with Decoders(PREPROCESS, 2, MAX_PIXELS) as decoders:
        found = [decoded for batch in decoders.batches(items, 3) for decoded in batch]
    assert [decoded.item.name for decoded in found] == [item.name for item in items]
    errors = {decoded.item.name: decoded.error for decoded in found if decoded.error}
    assert list(errors) == ["5-deadly"]
    assert "its decoder died of it" in errors["5-deadly"]
