import pytest

from lavit_deploy.bundle.int8_summary import int8_verdict
from lavit_deploy.manifest import Artifact, BatchTiming, Parity, Quantization


def artifact(name, rate, *, passed=True, int8=True):
    about = Quantization(
        method="mse",
        calibration="a",
        calibration_images=1,
        held_out="9 pictures",
        drop=0.25,
        max_drop=0.5,
    )
    return Artifact.model_construct(
        name=name,
        parity=Parity.model_construct(passed=passed),
        rounded_parity=None,
        quantization=about if int8 else None,
        timings=(BatchTiming(batch=1, median_ms=1e3 / rate, images_per_second=rate, runs=3),),
    )


@pytest.mark.parametrize(
    ("rate", "passed", "words"),
    [
        (300, True, "accurate and faster here: q runs 3.00 times the pictures of f per second"),
        (50, True, "but not faster here: q runs 0.50 times the pictures of f per second"),
        (300, False, "int8 is not accurate here"),
    ],
)
def test_the_verdict_follows_from_speed_and_parity(rate, passed, words):
    made = [artifact("f", 100, int8=False), artifact("q", rate, passed=passed)]
    assert words in int8_verdict(made)
    assert ("Float stays the choice" in int8_verdict(made)) != (rate > 100 and passed)


def test_nothing_is_said_where_nothing_is_quantized():
    assert int8_verdict([artifact("f", 100, int8=False)]) is None
