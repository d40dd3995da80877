"""What all commands and all errors have in common."""

import errno
import inspect
import os
import subprocess
import sys

import pytest

from lavit_deploy.common import command_line, environment, errors

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


def test_an_error_becomes_one_message_and_its_exit_code(monkeypatch, capsys):
    def fail(_arguments):
        raise errors.CheckpointError("no checkpoint at x.pth")

    assert command_line.run(fail) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: no checkpoint at x.pth\n"
    assert captured.out == ""


def test_ctrl_c_ends_in_130(capsys):
    def interrupt(_arguments):
        raise KeyboardInterrupt

    assert command_line.run(interrupt) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_full_disk_is_one_message_and_another_error_of_the_system_is_not(capsys):
    def fail(code):
        raise OSError(code, os.strerror(code), "model.onnx")

    assert command_line.run(lambda _arguments: fail(errno.ENOSPC)) == 1
    assert capsys.readouterr().err == "error: model.onnx: No space left on device\n"
    with pytest.raises(IsADirectoryError):
        command_line.run(lambda _arguments: fail(errno.EISDIR))


def test_a_wrong_option_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.parser("lavit-x", "", "").parse_args(["--wrong"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: unrecognized arguments: --wrong (see lavit-x --help)\n"
    )


def test_a_fault_of_the_program_keeps_its_traceback():
    def fault(_arguments):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command_line.run(fault)


def test_every_error_is_in_the_documented_tree():
    for name, item in inspect.getmembers(errors, inspect.isclass):
        assert issubclass(item, errors.LavitError)
        (line,) = [text for text in errors.__doc__.splitlines() if f" {name} " in f" {text} "]
        if item is errors.LavitError:
            continue
        assert f"exit {item.exit_code}" in line or "HTTP" in line, line
        if "HTTP" in line:
            assert f"HTTP {item.http_status}" in line, line


def test_a_missing_package_is_named_with_the_command_that_brings_it():
    error = errors.MissingDependencyError("onnx", extra="export", purpose="write graphs")
    assert str(error) == (
        'onnx is needed to write graphs and is not installed: pip install "lavit-deploy[export]"'
    )
    assert error.exit_code == 3


def test_cores_are_those_this_process_may_use():
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from lavit_deploy.common.environment import available_cores; print(available_cores())"
    )
    assert run_python(program).stdout.strip() == "1"


def test_a_containers_cpu_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_cgroup_cpu_quota", lambda: 0.5)
    assert environment.available_cores() == 1


def test_the_environment_names_processor_and_libraries():
    here = environment.Environment.here()
    assert here.cpu
    assert here.memory_gib > 0
    assert "numpy" in here.libraries
    assert environment.Environment.model_validate_json(here.model_dump_json()) == here
