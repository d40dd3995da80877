from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tiny_models import seeded, tiny_checkpoint, tiny_checkpoint_file, tiny_model, tiny_preprocess  # noqa: F401 - fixtures

SCRIPT = Path(__file__).parent / "interpreted.py"


@pytest.fixture(scope="session")
def interpret(tmp_path_factory):
    """Runs calls of kernels, [(name, arguments, options)], under Triton's interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")

    def run(calls):
        folder = tmp_path_factory.mktemp("interpreted")
        torch.save(calls, folder / "cases.pt")
        subprocess.run(
            [sys.executable, SCRIPT, folder / "cases.pt", folder / "results.pt"],
            env={**os.environ, "TRITON_INTERPRET": "1", "TRITON_DEFAULT_FP_FUSION": "1"},
            check=True,
        )
        return torch.load(folder / "results.pt")

    return run
