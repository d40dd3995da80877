"""Of the descriptors that are free, most are for connections and some for everything else."""

import os
import resource
import sys

import pytest

from lavit_deploy.serving.http.connections.places import Places

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")


@pytest.mark.parametrize(
    ("free", "served", "refused"),
    [(1000, 936, 32), (100, 75, 12), (12, 8, 2), (5, 1, 2), (-3, 1, 2)],
)
def test_some_are_kept(free, served, refused):
    assert Places.of(free) == Places(served, refused)


def test_what_is_open_has_no_place():
    before = Places.available()
    files = [open(os.devnull) for _ in range(7)]  # noqa: SIM115, PTH123 - held open together
    try:
        assert Places.available().served == before.served - 7
    finally:
        for file in files:
            file.close()


def test_without_a_limit_there_is_none(monkeypatch):
    monkeypatch.setattr(
        resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )
    assert Places.available() is None
