import pytest
from pydantic import ValidationError

from lavit_deploy.profiles.report.record import Record


class Point(Record):
    x: int


def test_a_record_is_immutable_and_refuses_fields_that_nobody_knows():
    with pytest.raises(ValidationError, match="frozen"):
        Point(x=1).x = 2
    with pytest.raises(ValidationError, match="y"):
        Point(x=1, y=2)
