from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_models import seeded, tiny_checkpoint, tiny_checkpoint_file, tiny_model, tiny_preprocess  # noqa: F401 - fixtures

SCRIPT = Path(__file__).parent / "interpreted.py"

Call = tuple[str, tuple[Any, ...], dict[str, Any]]
"""A kernel by its name in `interpreted.py`, its arguments and its options."""


class Interpreter:
    """A process that runs kernels under Triton's interpreter: it takes seconds to start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._asked = 0

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """What each call gives; a call that fails ends the process with its traceback."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, SCRIPT],
                env={**os.environ, "TRITON_INTERPRET": "1", "TRITON_DEFAULT_FP_FUSION": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self._asked += 1
        cases, results = (
            self._folder / f"{self._asked}.{name}.pt" for name in ("cases", "results")
        )
        torch.save(calls, cases)
        print(cases, results, sep="\t", file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == f"{results}\n", "the kernel failed, see above"
        return torch.load(results)

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()


@pytest.fixture(scope="session")
def interpret(tmp_path_factory):
    """Runs calls of kernels, [(name, arguments, options)], under Triton's interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    interpreter = Interpreter(tmp_path_factory.mktemp("interpreted"))
    yield interpreter.run
    interpreter.close()
