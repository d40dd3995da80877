import inspect

import pytest

from lavit_deploy.common import errors as core
from lavit_deploy.serving import errors
from lavit_deploy.serving.errors import kind_of
from lavit_deploy.serving.wire.problem import picture_problem, title_of


def own_errors():
    return [
        item
        for _, item in inspect.getmembers(errors, inspect.isclass)
        if item.__module__ == errors.__name__
    ]


@pytest.mark.parametrize("error", own_errors())
def test_every_error_is_in_the_tree_of_the_module_docstring(error):
    assert error.__name__ in errors.__doc__
    assert issubclass(error, core.LavitError)


def test_unavailable_errors_say_when_to_come_back():
    assert {item for item in own_errors() if item.http_status == 503} == {
        errors.UnavailableError,
        errors.OverloadedError,
        errors.PredictedWaitError,
        errors.NotReadyError,
    }
    assert all(item.retry_after >= 1 for item in own_errors() if item.http_status == 503)


def test_an_error_becomes_a_problem_with_its_own_status_and_kind():
    problem = picture_problem(core.CorruptImageError("truncated"))
    assert problem.model_dump() == {
        "type": "urn:lavit:problem:corrupt-image",
        "title": "Corrupt image",
        "status": 422,
        "detail": "truncated",
    }


def test_kinds_are_unique():
    kinds = [kind_of(item("x")) for item in own_errors()]
    assert len(set(kinds)) == len(kinds)
    assert title_of("image-too-large") == "Image too large"
