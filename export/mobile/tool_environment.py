"""Which Python runs a format's tools: their packages do not all fit into one environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lavit_deploy.common.errors import ExportError

_SECONDS = 1800
_PROBE_SECONDS = 120


@dataclass(frozen=True)
class ToolEnvironment:
    """The interpreter of a format.

    Attributes:
        form: the format.
        python: the interpreter.
    """

    form: str
    python: Path

    def call(self, action: str, *arguments: str) -> None:
        """Run `lavit_deploy.export.mobile.conversion_process` on arguments.

        Raises:
            ExportError: it failed; with the last line that it wrote.
        """
        with tempfile.TemporaryDirectory() as folder:
            # The other interpreter sees this package, and none of the packages installed beside it.
            package = Path(folder) / "lavit_deploy"
            package.mkdir()
            (package / "__init__.py").touch()
            (package / "export").symlink_to(Path(__file__).parents[1], True)
            try:
                ran = subprocess.run(  # noqa: S603 - our own module in a Python the user names
                    [
                        self.python,
                        "-m",
                        "lavit_deploy.export.mobile.conversion_process",
                        action,
                        self.form,
                        *arguments,
                    ],
                    env={**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"},
                    capture_output=True,
                    text=True,
                    timeout=_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise ExportError(f"{self.form}: {action} took more than {_SECONDS} s") from None
        if ran.returncode != 0:
            last = ran.stderr.strip().splitlines()[-1:] or [f"exit status {ran.returncode}"]
            raise ExportError(f"{self.form}: {action} failed: {last[0]}")


def find_tool_environment(form: str, modules: Sequence[str]) -> ToolEnvironment | None:
    """The interpreter that has a format's packages: that of `interpreter_variable`, or this one.

    Returns:
        None if it lacks one of `modules`.
    """
    python = Path(os.environ.get(interpreter_variable(form)) or sys.executable)
    program = (
        "import importlib.util as u, sys;"
        "sys.exit(any(u.find_spec(name) is None for name in sys.argv[1:]))"
    )
    try:
        ran = subprocess.run(  # noqa: S603 - a Python that the user names
            [python, "-P", "-c", program, *modules],
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ToolEnvironment(form, python) if ran.returncode == 0 else None


def interpreter_variable(form: str) -> str:
    """The environment variable that names a format's interpreter."""
    return f"LAVIT_{form.upper()}_PYTHON"
