"""What other packages add, found by their entry points."""

from dataclasses import dataclass

import pytest

from installed_packages import install  # noqa: F401 - a fixture
from lavit_deploy.common.errors import UsageError
from lavit_deploy.common.plugins import installed

GROUP = "lavit_deploy.test_things"
"""A group that no package of this machine uses."""


def test_without_such_packages_there_is_nothing():
    assert installed(GROUP, int) == ()


def test_what_packages_declare_comes_in_the_order_of_the_names(install):
    install("late", "A = 1\nB = 2", {GROUP: {"zebra": "A", "ant": "B"}})
    install("early", "C = 3", {GROUP: {"bee": "C"}, "another.group": {"cat": "C"}})
    assert installed(GROUP, int) == (2, 3, 1)


def test_a_subclass_will_do(install):
    install("flag", "A = True", {GROUP: {"a": "A"}})
    assert installed(GROUP, int) == (True,)


@dataclass
class Thing:
    """What somebody expects."""


def test_another_kind_of_object_is_named_with_what_was_expected(install):
    install("wrong", "A = 1", {GROUP: {"a": "A"}})
    with pytest.raises(UsageError) as caught:
        installed(GROUP, Thing)
    assert str(caught.value) == (
        f"wrong:A, which an installed package adds to {GROUP}, is a int, expected a Thing"
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "has no attribute 'A'"),
        ("import not_there_at_all", "No module named 'not_there_at_all'"),
    ],
)
def test_what_cannot_be_imported_is_named_with_the_reason(install, source, reason):
    install("broken", source, {GROUP: {"a": "A"}})
    with pytest.raises(UsageError, match=f"broken:A, .* cannot be imported: .*{reason}"):
        installed(GROUP, int)


def test_a_fault_inside_such_a_package_keeps_its_traceback(install):
    install("faulty", "1 / 0", {GROUP: {"a": "A"}})
    with pytest.raises(ZeroDivisionError):
        installed(GROUP, int)
