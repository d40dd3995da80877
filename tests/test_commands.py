"""What all commands have in common."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "transformers", "sklearn", "fastapi", "rich")
COMMANDS = {
    "lavit-export": "lavit_deploy.export.cli",
    "lavit-predict": "lavit_deploy.prediction.cli",
    "lavit-profile": "lavit_deploy.profiles.cli",
    "lavit-serve": "lavit_deploy.serving.cli",
    "lavit-train": "lavit_deploy.training.cli",
}


def run_python(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "module", ["lavit_deploy", "lavit_deploy.bundle.bundle", "lavit_deploy.common.command_line"]
)
def test_the_core_imports_no_framework(module):
    ran = run_python(f"import sys, {module}; print(*sys.modules, sep=chr(10))")
    assert not set(HEAVY) & set(ran.stdout.split()), ran.stderr


@pytest.mark.parametrize(("name", "module"), COMMANDS.items())
def test_every_command_has_help_with_examples_and_a_version(name, module):
    program = f"import sys; sys.argv[0] = {name!r}; from {module} import entry; entry()"
    helped = run_python(program, "--help")
    assert helped.returncode == 0, helped.stderr
    assert f"usage: {name}" in helped.stdout
    assert f"examples:\n  {name} " in helped.stdout
    version = run_python(program, "--version")
    assert version.stdout.strip().startswith(f"{name} 0.")
