"""What the command lines share: one place where errors become messages and exit codes."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from lavit_deploy import __version__
from lavit_deploy.common.errors import LavitError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it: 128 + SIGINT."""


_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of the system that its user can mend, and a traceback would only hide."""


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults that are values, and keeps the examples' lines."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # A switch is off unless given; where the default is None, the help says what happens then.
        if action.default is None or action.default is False or action.default in ((), []):
            return action.help
        if isinstance(action.default, list | tuple):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong without the usage before it, which would fill the screen."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def parser(program: str, description: str, examples: str) -> argparse.ArgumentParser:
    """An argument parser with --version, defaults in the help, and examples below it.

    Abbreviated options are refused: a script must not break when an option is added.
    """
    made = _Parser(
        prog=program,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"{program} {__version__}")
    return made


def run(main: Callable[[Sequence[str] | None], int]) -> int:
    """Run a command line on `sys.argv`.

    Returns:
        The exit code: what `main` returns; that of a `LavitError`, whose message goes to standard
        error without a traceback; 1 where the disk is full or not ours; 130 after Ctrl-C.
    """
    try:
        return main(None)
    except LavitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return 0  # the reader of our output, such as `head`, has seen enough
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        print(f"error: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 1
