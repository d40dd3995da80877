"""What was done is kept, and only a run of the same kind goes on with it."""

import pytest

from lavit_deploy.common.errors import UsageError
from lavit_deploy.prediction.journal import Journal

ABOUT = {"model": "m", "top_k": 5}


def record(name):
    return {"picture": name, "status": "ok"}


def test_a_run_goes_on_after_what_is_done(tmp_path):
    path = tmp_path / "out.partial"
    with Journal(path, ABOUT) as journal:
        journal.add([record("a"), record("b")])
    with Journal(path, ABOUT) as journal:
        assert journal.done == {"a", "b"}
        journal.add([record("c")])
        assert [item["picture"] for item in journal.records()] == ["a", "b", "c"]


@pytest.mark.parametrize("lost", range(1, 40, 3))
def test_a_line_that_a_crash_cut_off_is_done_again(tmp_path, lost):
    path = tmp_path / "out.partial"
    with Journal(path, ABOUT) as journal:
        journal.add([record("a"), record("b")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    with Journal(path, ABOUT) as journal:
        assert journal.done == (
            {"a"} if lost <= len('{"picture": "b", "status": "ok"}\n') else set()
        )
        journal.add([record(name) for name in ("a", "b") if name not in journal.done])
    assert path.read_bytes() == whole


def test_a_first_line_that_was_cut_off_begins_again(tmp_path):
    path = tmp_path / "out.partial"
    path.write_text('{"model": "m", "to')
    with Journal(path, ABOUT) as journal:
        assert journal.done == set()
        journal.add([record("a")])
        assert len(list(journal.records())) == 1


def test_another_run_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "out.partial"
    with Journal(path, ABOUT) as journal:
        journal.add([record("a")])
    with pytest.raises(UsageError, match="is of another run: top_k was 5, now 1"):
        Journal(path, {**ABOUT, "top_k": 1})
    with Journal(path, {**ABOUT, "top_k": 1}, anew=True) as journal:
        assert journal.done == set()
