import pytest
from pydantic import ValidationError

from lavit_deploy.profiles.report.times import TimeSplit, Timing


def split(total, lost):
    return TimeSplit(method="", batch=1, calls=1, cells=(), total_ms=total, unattributed_ms=lost)


def test_a_share_is_of_the_whole_call_and_of_nothing_it_is_nothing():
    assert split(8.0, 2.0).unattributed_share == 0.25
    assert split(0.0, 0.0).unattributed_share == 0.0


def test_a_batch_has_at_least_one_image():
    fields = dict.fromkeys(Timing.model_fields, 1)
    assert Timing(**fields).batch == 1
    with pytest.raises(ValidationError, match="batch"):
        Timing(**fields | {"batch": 0})
