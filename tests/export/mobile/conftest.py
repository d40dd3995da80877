import os
import subprocess
from pathlib import Path

import pytest

from export.mobile.interpreters import find_tools, variable
from export.mobile.target import Format
from export.parity import reference_logits
from export.pictures import Pictures
from export.workbench import Workbench
from lavit_deploy.manifest import BatchRange


@pytest.fixture
def bench(tiny_checkpoint, tiny_preprocess, pictures):
    """A workbench of the tiny model on the shared pictures."""
    model = tiny_checkpoint.build()
    return Workbench(
        tiny_checkpoint,
        model,
        Pictures(pictures, "test"),
        reference_logits(model, pictures, tiny_preprocess),
        BatchRange(minimum=1, optimum=2, maximum=4),
        "cpu",
    )


@pytest.fixture
def tools_of():
    """The interpreter of a format; the test is skipped where nothing has its packages."""

    def found(form: Format):
        tools = find_tools(form.name, form.modules)
        if tools is None:
            missing = ", ".join(form.modules)
            pytest.skip(f"no Python with {missing} ({variable(form.name)} names one)")
        return tools

    return found


@pytest.fixture
def run_example(tmp_path):
    """Run an example script on a file in a given Python; gives what it printed."""

    def ran(python: Path, name: str, file: Path, picture: Path) -> str:
        script = Path(__file__).parents[3] / "examples" / "mobile" / f"classify_{name}.py"
        done = subprocess.run(
            [python, script, file, picture],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": ""},
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return ran
