"""The file that a search leaves is the one that it speaks of."""

import numpy as np

from lavit_deploy.export.quantization.accuracy_search import search_within_loss
from lavit_deploy.export.quantization.calibration import LabelledPictures
from lavit_deploy.export.quantization.int8_judge import Judge

ERRORS = {"a": 0.1, "b": 0.4, "c": 0.2}
LABELS = np.arange(10)
RIGHT = np.eye(10, dtype=np.float32)


class Bench:
    reference = RIGHT


def judge(max_drop):
    pictures = LabelledPictures(np.zeros((10, 1, 1, 3), np.uint8), LABELS, "10 pictures")
    return Judge(Bench(), pictures, pictures, max_drop)


class Artifact:
    """A file that gets `wrong(blocks in float)` of the ten pictures wrong."""

    def __init__(self, wrong):
        self.wrong = wrong
        self.on_disk = None
        self.runs = 0

    def write(self, blocks):
        self.on_disk = blocks

    def run(self):
        self.runs += 1
        count = self.wrong(self.on_disk)
        return np.concatenate([np.roll(RIGHT[:count], 1, axis=1), RIGHT[count:]])


def held(artifact, max_drop):
    return search_within_loss(judge(max_drop), lambda: ERRORS, artifact.write, artifact.run)


def test_the_last_file_written_is_the_one_that_holds():
    artifact = Artifact(lambda blocks: 3 - len(blocks))
    found = held(artifact, 20.0)
    assert found.within
    assert found.float_blocks == artifact.on_disk == ("b",)
    np.testing.assert_array_equal(found.logits.argmax(1) == LABELS, [False] * 2 + [True] * 8)


def test_a_search_that_fails_leaves_the_whole_in_int8_and_its_logits():
    artifact = Artifact(lambda blocks: 5 - len(blocks))
    found = held(artifact, 0.5)
    assert not found.within
    assert found.float_blocks == artifact.on_disk == ()
    assert (found.logits.argmax(1) == LABELS).sum() == 5
    assert artifact.runs == 3  # nothing, one block, two; what is known already is not run again


def test_int8_that_holds_as_it_is_is_written_and_run_once():
    artifact = Artifact(lambda blocks: 0)
    assert held(artifact, 0.5).within
    assert artifact.runs == 1
