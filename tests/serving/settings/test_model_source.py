"""Which model has which name and version."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.common.errors import UsageError
from lavit_deploy.serving.settings.model_source import ModelKey, ModelSource, keys_of

WORDS = st.sampled_from(["a", "b", "c.d-e_f"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits=/m/d", ModelSource(Path("/m/d"), "digits")),
        ("digits:2=/m/d", ModelSource(Path("/m/d"), "digits", "2")),
        ("digits:v1.5=a=b:c", ModelSource(Path("a=b:c"), "digits", "v1.5")),
    ],
)
def test_a_name_a_version_and_a_path_are_read(text, expected):
    assert ModelSource.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "digits", "digits=", "=/m", ":1=/m", "digits:=/m", "a/b=/m", "a:b c=/m", "é=/m"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(UsageError, match="must be"):
        ModelSource.parse(text)


def test_versions_are_numbered_under_each_name_around_those_that_are_given():
    named = [
        (ModelSource(Path("1")), "lavit"),
        (ModelSource(Path("2"), "lavit", "1"), "other"),
        (ModelSource(Path("3")), "digits"),
        (ModelSource(Path("4"), "lavit"), "other"),
    ]
    assert keys_of(named) == [
        ModelKey("lavit", "2"),
        ModelKey("lavit", "1"),
        ModelKey("digits", "1"),
        ModelKey("lavit", "3"),
    ]


def test_one_name_and_version_twice_is_refused():
    twice = [(ModelSource(Path(path), "a", "7"), "x") for path in ("first", "second")]
    with pytest.raises(UsageError, match="first and second are both a version 7"):
        keys_of(twice)


@given(st.lists(st.tuples(st.none() | WORDS, WORDS), max_size=8))
def test_keys_differ_and_keep_the_order_of_their_sources(models):
    named = [(ModelSource(Path(str(n)), given), name) for n, (given, name) in enumerate(models)]
    keys = keys_of(named)
    assert [key.name for key in keys] == [given or name for given, name in models]
    assert len(set(keys)) == len(models)
