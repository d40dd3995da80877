"""The tree of errors: as documented, with codes that mean something."""

import inspect

import pytest

from lavit_deploy.common import errors

EVERY = [item for _, item in inspect.getmembers(errors, inspect.isclass)]


def test_every_error_is_in_the_documented_tree():
    for name, item in inspect.getmembers(errors, inspect.isclass):
        assert issubclass(item, errors.LavitError)
        (line,) = [text for text in errors.__doc__.splitlines() if f" {name} " in f" {text} "]
        if item is errors.LavitError:
            continue
        assert f"exit {item.exit_code}" in line or "HTTP" in line, line
        if "HTTP" in line:
            assert f"HTTP {item.http_status}" in line, line


def test_a_missing_package_is_named_with_the_command_that_brings_it():
    error = errors.MissingDependencyError("onnx", extra="export", purpose="write graphs")
    assert str(error) == (
        'onnx is needed to write graphs and is not installed: pip install "lavit-deploy[export]"'
    )
    assert error.exit_code == 3


@pytest.mark.parametrize("error", EVERY)
def test_an_error_lies_in_the_tree_below_what_it_is(error):
    """The indentation of the drawing is the inheritance."""
    lines = [line for line in errors.__doc__.splitlines() if "Error  " in line or "Image" in line]
    depths = {}
    for line in lines:
        name = next(word for word in line.split() if word.endswith("Error"))
        depths[name] = line.index(name) // 4
    assert depths[error.__name__] == error.__mro__.index(errors.LavitError)


def test_a_users_mistake_ends_in_2_and_what_went_wrong_in_1():
    assert {error.exit_code for error in EVERY} == {1, 2, 3}
    for error in (errors.UsageError, errors.CheckpointError, errors.DatasetError):
        assert error.exit_code == 2
    for error in (errors.ExportError, errors.ParityError, errors.InferenceError):
        assert error.exit_code == 1


def test_statuses_are_the_clients_fault_for_pictures_and_ours_for_the_rest():
    for error in EVERY:
        is_picture = issubclass(error, errors.ImageError)
        assert (400 <= error.http_status < 500) == is_picture, error
