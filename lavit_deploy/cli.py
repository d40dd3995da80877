"""What the command lines share: one place where errors become messages and exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from lavit_deploy import __version__
from lavit_deploy.errors import LavitError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it: 128 + SIGINT."""


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults that are values, and keeps the examples' lines."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # A switch is off unless given; where the default is None, the help says what happens then.
        plain = action.default is None or action.default is False or action.default == ()
        return action.help if plain else super()._get_help_string(action)


def parser(program: str, description: str, examples: str) -> argparse.ArgumentParser:
    """An argument parser with --version, defaults in the help, and examples below it.

    Abbreviated options are refused: a script must not break when an option is added.
    """
    made = argparse.ArgumentParser(
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
        error without a traceback; 130 after Ctrl-C.
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
