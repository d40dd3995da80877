import dataclasses
import math
import re

import pytest

from lavit_deploy.training.plan import REMEDIES
from lavit_deploy.training.recipe import digits, imagenet
from lavit_deploy.training.stability.failure import (
    EpochEvidence,
    FailureDetector,
    Sign,
    constant_loss,
    joined_signs,
    signs_in,
    what_to_try,
)

HEALTHY = EpochEvidence(
    epoch=4, loss=0.9, lowest_loss=1.0, accuracy=0.8, best_accuracy=0.82, commonest_answer=0.12
)


@pytest.fixture
def detector():
    return FailureDetector(
        constant_loss=math.log(10), chance=0.1, warmup_epochs=1.0, grace_epochs=2
    )


def signs(detector, **changes):
    return detector.signs(dataclasses.replace(HEALTHY, **changes))


def test_a_healthy_epoch_shows_nothing(detector):
    assert detector.signs(HEALTHY) == []


def test_the_best_constant_answer_is_ln_k_where_classes_are_as_frequent():
    labels = list(range(10)) * 3
    for smoothing in (0.0, 0.1, 1.0):
        assert constant_loss(labels, 10, smoothing) == pytest.approx(math.log(10))


def test_the_best_constant_answer_follows_the_frequencies():
    shares = (0.9, 0.1)
    entropy = -sum(share * math.log(share) for share in shares)
    assert constant_loss([0] * 9 + [1], 2, 0.0) == pytest.approx(entropy)
    smoothed = (0.9 * 0.9 + 0.05, 0.1 * 0.9 + 0.05)
    assert constant_loss([0] * 9 + [1], 2, 0.1) == pytest.approx(
        -sum(share * math.log(share) for share in smoothed)
    )
    assert constant_loss([0, 0, 0], 2, 0.0) == 0.0  # a class that never occurs


def test_a_loss_at_ln_k_is_seen_after_the_warm_up_or_where_it_had_been_lower(detector):
    at = {"loss": 2.302}
    assert signs(detector, **at) == [Sign.CONSTANT_LOSS]
    assert signs(detector, **at, epoch=1, lowest_loss=math.inf) == []
    assert signs(detector, **at, epoch=1, lowest_loss=1.8) == [Sign.CONSTANT_LOSS]
    assert signs(detector, loss=2.2) == []


def test_one_class_for_everything_is_seen_unless_it_is_right(detector):
    assert signs(detector, commonest_answer=0.995) == [Sign.ONE_CLASS]
    assert signs(detector, commonest_answer=0.995, epoch=1) == []
    skewed = dataclasses.replace(detector, chance=0.97)
    assert signs(skewed, commonest_answer=0.995, accuracy=0.97, best_accuracy=0.97) == []


def test_a_fall_by_more_than_half_is_seen_from_above_chance_only(detector):
    assert signs(detector, accuracy=0.40) == [Sign.FALL]
    assert signs(detector, accuracy=0.42) == []
    assert signs(detector, accuracy=0.05, best_accuracy=0.15) == []


def test_a_failed_epoch_as_it_was_observed_shows_every_sign(detector):
    seen = signs(
        detector, epoch=2, loss=2.303, accuracy=0.1, best_accuracy=0.699, commonest_answer=1.0
    )
    assert seen == [Sign.CONSTANT_LOSS, Sign.ONE_CLASS, Sign.FALL]


def test_it_ends_after_as_many_epochs_in_a_row_as_it_may(detector):
    bad, dead, good = [Sign.ONE_CLASS], [Sign.DEAD_MAPS], []
    assert not detector.has_failed([bad])
    assert detector.has_failed([good, bad, bad])
    assert not detector.has_failed([bad, good, bad])
    assert not detector.has_failed([bad, dead, dead])
    for_ever = dataclasses.replace(detector, grace_epochs=0)
    assert not for_ever.has_failed([bad] * 9)


def test_signs_survive_the_line_that_stores_them():
    line = joined_signs([Sign.FALL, Sign.DEAD_MAPS], ("stage 3, layer 2", "stage 4, layer 2"))
    assert line.endswith("(stage 3, layer 2, stage 4, layer 2)")
    assert signs_in(line) == [Sign.FALL, Sign.DEAD_MAPS]
    assert signs_in("") == []


def test_advice_names_what_is_not_done_yet():
    done = dataclasses.replace(imagenet(), score_limit=10.0)
    assert what_to_try(done) == "--lr 0.0013 (now 0.005)"
    without = dataclasses.replace(digits(), dp_weight=0.0, clip_norm=0.0, score_limit=0.0)
    assert what_to_try(without) == (
        "--lr 0.001 (now 0.004), --dp-weight 0.1, --set score_limit=10 or --set clip_norm=1"
    )


def test_what_is_advised_can_be_given_when_resuming():
    fields = {"lr": "base_lr", "dp-weight": "dp_weight"}
    worst = dataclasses.replace(digits(), dp_weight=0.0, clip_norm=0.0, score_limit=0.0)
    advised = re.findall(r"--(?:set )?([a-z_-]+)", what_to_try(worst))
    assert len(advised) == 4
    assert {fields.get(name, name) for name in advised} == set(REMEDIES)
