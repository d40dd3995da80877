"""Which commit of the source measured."""

from __future__ import annotations

from pathlib import Path

import lavit_deploy
from lavit_deploy.profiles.timing.machine_state import answer_of


def source_commit(root: Path | None = None) -> str | None:
    """Git commit of the source, "+" appended where files were changed; None if unknown.

    An installed package has none.

    Args:
        root: the repository's; the folder that holds `lavit_deploy` by default. This file is no
            way to it: it lies beside that folder, and is linked into it.
    """
    folder = root or Path(lavit_deploy.__file__).resolve().parents[1]
    revision = answer_of("git", "-C", str(folder), "rev-parse", "--short=12", "HEAD")
    if revision is None or not (folder / ".git").exists():
        return None
    changed = answer_of("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return revision + ("+" if changed else "")
