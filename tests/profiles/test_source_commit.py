import os
import subprocess
import sys
from pathlib import Path

from lavit_deploy.profiles.source_commit import source_commit

ROOT = Path(__file__).parents[2]


def test_a_commit_says_whether_files_were_changed(tmp_path):
    assert source_commit(tmp_path) is None

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments],  # noqa: S607 - found on PATH
            check=True, capture_output=True,
        )  # fmt: skip

    git("init")
    (tmp_path / "file").write_text("old")
    git("add", "file")
    git("commit", "-m", "first")
    clean = source_commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "file").write_text("new")
    assert source_commit(tmp_path) == clean + "+"


def test_the_commit_is_that_of_this_repository_wherever_one_stands(tmp_path):
    head = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"],  # noqa: S607 - found on PATH
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    program = "from lavit_deploy.profiles.source_commit import source_commit as c; print(c())"
    for folder in (ROOT, tmp_path, ROOT / "profiles"):
        found = subprocess.run(
            [sys.executable, "-c", program],
            check=True, capture_output=True, text=True, cwd=folder, env=os.environ,
        ).stdout.strip()  # fmt: skip
        assert found.removesuffix("+") == head
