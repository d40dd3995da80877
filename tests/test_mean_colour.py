"""The graph that the service's tests keep is the one that its source describes."""

import pytest

import mean_colour


def test_the_file_is_what_the_source_builds():
    onnx = pytest.importorskip("onnx")
    assert onnx.load(mean_colour.FILE) == mean_colour.built()
