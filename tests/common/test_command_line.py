"""What every command does with its options, its errors and its exit code."""

import errno
import os

import pytest

from lavit_deploy import __version__
from lavit_deploy.common import command_line, errors


def raising(error):
    def main(_arguments):
        raise error

    return main


@pytest.mark.parametrize("code", [0, 1, 5])
def test_what_the_command_returns_is_the_exit_code(code, capsys):
    assert command_line.run(lambda _arguments: code) == code
    assert capsys.readouterr() == ("", "")


def test_a_command_reads_its_own_arguments():
    given = []
    command_line.run(lambda arguments: given.append(arguments) or 0)
    assert given == [None]  # argparse then takes those of the process


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.LavitError("no"), 1),
        (errors.ParityError("no"), 1),
        (errors.UsageError("no"), 2),
        (errors.ConfigError("no"), 2),
        (errors.MissingDependencyError("onnx", extra="export", purpose="write graphs"), 3),
    ],
)
def test_every_error_of_ours_ends_with_its_own_code_on_one_line(error, code, capsys):
    assert command_line.run(raising(error)) == code
    captured = capsys.readouterr()
    assert captured.err == f"error: {error}\n"
    assert captured.out == ""


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_what_a_user_can_mend_about_the_disk_is_one_line(code, capsys):
    error = OSError(code, os.strerror(code), "model.onnx")
    assert command_line.run(raising(error)) == 1
    assert capsys.readouterr().err == f"error: model.onnx: {os.strerror(code)}\n"


def test_an_error_of_the_disk_without_a_file_is_one_line_too(capsys):
    assert command_line.run(raising(OSError(errno.ENOSPC, "No space left on device"))) == 1
    assert capsys.readouterr().err == "error: a file: No space left on device\n"


@pytest.mark.parametrize("error", [ZeroDivisionError(), IsADirectoryError(errno.EISDIR, "it is")])
def test_a_fault_of_the_program_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        command_line.run(raising(error))


def test_ctrl_c_ends_in_130(capsys):
    assert command_line.run(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_has_seen_enough_is_no_failure(capsys):
    assert command_line.run(raising(BrokenPipeError())) == 0
    assert capsys.readouterr().err == ""


@pytest.fixture
def parser():
    made = command_line.parser("lavit-x", "Does x.", "  lavit-x --speed 3\n  lavit-x --names a b")
    made.add_argument("--speed", type=int, default=7, help="how fast")
    made.add_argument("--names", nargs="*", default=["a", "b"], help="who")
    made.add_argument("--none", nargs="*", default=[], help="nobody unless given")
    made.add_argument("--quiet", action="store_true", help="say nothing")
    made.add_argument("--out", help="where; the current folder otherwise")
    return made


def test_the_help_shows_defaults_that_are_values_and_keeps_the_lines_of_the_examples(parser):
    shown = " ".join(parser.format_help().split())
    assert "how fast (default: 7)" in shown
    assert "who (default: a b)" in shown
    assert shown.count("(default:") == 2
    assert parser.format_help().endswith("examples:\n  lavit-x --speed 3\n  lavit-x --names a b\n")


def test_the_version_is_the_projects(parser, capsys):
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"lavit-x {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--wrong"], "unrecognized arguments: --wrong"),
        (["--speed", "fast"], "argument --speed: invalid int value: 'fast'"),
        (["--spee", "3"], "unrecognized arguments: --spee 3"),  # an option may be added
    ],
)
def test_a_wrong_option_is_one_line(parser, arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {message} (see lavit-x --help)\n"
