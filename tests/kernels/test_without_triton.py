"""A machine without Triton, which is one without CUDA, hears nothing of it."""

import subprocess
import sys

WITHOUT = """\
import sys
sys.modules["triton"] = None
from lavit_deploy.kernels import mlp
from lavit_deploy.kernels import less_attention
"""


def test_the_operators_are_imported_without_a_word():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
