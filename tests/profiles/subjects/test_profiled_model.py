import pytest

from lavit_deploy.common.errors import UsageError
from lavit_deploy.profiles.subjects.profiled_model import RunSettings


def test_weights_are_refused_at_another_size_than_their_own():
    with pytest.raises(UsageError, match=r"m takes 32 x 32 pixels.*--image-size 64"):
        RunSettings(image_size=64).refuse_resizing("m", (32, 32))


@pytest.mark.parametrize("asked", [None, 32])
def test_their_own_size_or_none_is_accepted(asked):
    RunSettings(image_size=asked).refuse_resizing("m", (32, 32))
