"""Builds the files of a release into dist/, after looking at what a release must have.

    python .ci/dist.py           # docs/releasing.md has the whole recipe
    python .ci/dist.py --draft   # from a work tree, whatever it is

Exit code 1: something is not ready; each thing is one line.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"


def version() -> str:
    """`__version__` of the package, read without importing it."""
    text = (ROOT / "lavit_deploy" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if found is None:
        raise SystemExit("lavit_deploy/__init__.py has no __version__")
    return found[1]


def changelog_section(number: str) -> str:
    """What CHANGELOG.md says of a version; empty where it has no dated section of it."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    head = rf"^## \[{re.escape(number)}\] - \d{{4}}-\d\d-\d\d$"
    found = re.search(head + r"\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def obstacles(number: str) -> list[str]:
    """Why this work tree is no release."""
    found = []
    if not re.fullmatch(r"\d+\.\d+\.\d+", number):
        found.append(f"version {number} is not of the form 1.2.3")
    if not changelog_section(number):
        found.append(f"CHANGELOG.md has no section '## [{number}] - YYYY-MM-DD' with a text")
    if _git("status", "--porcelain"):
        found.append("the work tree has changes that are not committed")
    if (tag := f"v{number}") in _git("tag", "--list").split():
        found.append(f"the tag {tag} exists already")
    return found


def build() -> list[Path]:
    """The source distribution, and the wheel that is built from it."""
    shutil.rmtree(DIST, ignore_errors=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(DIST), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command
    files = sorted(DIST.iterdir())
    (wheel,) = (file for file in files if file.suffix == ".whl")
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    foreign = {name for name in names if name != "lavit_deploy" and ".dist-info" not in name}
    if foreign:
        raise SystemExit(f"{wheel.name} would install {', '.join(sorted(foreign))} as well")
    return files


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 - git


def main() -> int:
    """Look, build, and print what was built."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draft", action="store_true", help="build whatever is there")
    options = parser.parse_args()
    number = version()
    found = obstacles(number)
    for line in found:
        print(f"{'draft' if options.draft else 'not ready'}: {line}", file=sys.stderr)
    if found and not options.draft:
        return 1
    for file in build():
        print(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
