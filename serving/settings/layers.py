"""Settings from the command line, the environment and a file, in that order of precedence.

Every option of the parser is a key of the file, called as the option is without its dashes, and a
variable: `--max-batch`, `max-batch = 16`, `LAVIT_SERVE_MAX_BATCH`. There is no second list.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lavit_deploy.common.errors import UsageError
from lavit_deploy.serving.settings.model_source import ModelSource
from lavit_deploy.serving.settings.settings import ServiceSettings

PREFIX = "LAVIT_SERVE_"
CONFIG = "config"
_DEFAULT = "default"
_SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_TOML_TYPES: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float)}
_KINDS: dict[Any, str] = {int: "a whole number", float: "a number"}


class MultiValue(argparse.Action):
    """Collects values in a tuple, which `ServiceSettings` can keep as it is."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse's signature
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,  # noqa: ARG002 - argparse's signature
    ) -> None:
        before = getattr(namespace, self.dest, ())
        setattr(namespace, self.dest, (*before, *self.parts(values or ())))

    def parts(self, values: str | Sequence[Any]) -> Sequence[Any]:
        """What one use of the option gives."""
        return values

    def split(self, text: str) -> list[str]:
        """The values in an environment variable: words, quoted as in a shell.

        Raises:
            ValueError: a quote is not closed.
        """
        try:
            return shlex.split(text)
        except ValueError:
            raise ValueError("words, quoted as in a shell") from None


class CommaSeparated(MultiValue):
    """The same for an option whose values are one word with commas."""

    def parts(self, values: str | Sequence[Any]) -> Sequence[Any]:
        return self.split(values) if isinstance(values, str) else values

    def split(self, text: str) -> list[str]:
        return text.split(",")


@dataclass(frozen=True)
class Field:
    """One setting, by all of its names.

    Attributes:
        action: the parser's option.
    """

    action: argparse.Action

    @property
    def name(self) -> str:
        """The key in a file: the option without its dashes."""
        return self.names[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The same with the names that it had before."""
        options = [
            name.removeprefix("--")
            for name in self.action.option_strings
            if not (self._is_switch and name.startswith("--no-"))
        ]
        return tuple(options) or (self.action.dest,)

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variable of each name."""
        return tuple(PREFIX + name.replace("-", "_").upper() for name in self.names)

    def from_text(self, text: str) -> Any:  # noqa: ANN401 - as many types as settings
        """The value of a variable's text.

        Raises:
            ValueError: says what would be valid.
        """
        if isinstance(self.action, MultiValue):
            return tuple(self._one(part) for part in self.action.split(text))
        if self._is_switch:
            if text.lower() not in _SWITCH:
                raise ValueError("true or false")
            return _SWITCH[text.lower()]
        return self._one(text)

    def from_toml(self, value: object) -> Any:  # noqa: ANN401 - as many types as settings
        """The value of a file's key.

        Raises:
            ValueError: says what would be valid.
        """
        if isinstance(self.action, MultiValue):
            if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
                raise ValueError("a list of strings")
            return tuple(self._one(part) for part in value)
        if self._is_switch:
            if not isinstance(value, bool):
                raise ValueError("true or false")
            return value
        wanted = _TOML_TYPES.get(self.action.type, (str,))
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise ValueError(self._valid)  # noqa: TRY004 - one kind of error for whatever is wrong
        return self._one(str(value))

    def from_flags(self, given: Any) -> Any:  # noqa: ANN401 - as argparse collects them
        """The value of what stood on the command line.

        Raises:
            ValueError: says what would be valid.
        """
        if isinstance(self.action, MultiValue):
            return tuple(self._one(part) for part in given)
        return given if self._is_switch else self._one(given)

    @property
    def _is_switch(self) -> bool:
        return isinstance(self.action, argparse.BooleanOptionalAction)

    @property
    def _valid(self) -> str:
        if self.action.choices is not None:
            return "one of " + ", ".join(map(str, self.action.choices))
        return _KINDS.get(self.action.type, "text in quotes")

    def _one(self, text: str) -> Any:  # noqa: ANN401 - as many types as settings
        convert = self.action.type
        try:
            value = convert(text) if callable(convert) else text
        except UsageError as error:
            raise ValueError(str(error)) from None
        except ValueError:
            raise ValueError(self._valid) from None
        if self.action.choices is not None and value not in self.action.choices:
            raise ValueError(self._valid)
        return value


@dataclass(frozen=True)
class Resolved:
    """Every setting, and where each one comes from.

    Attributes:
        values: by the name in `ServiceSettings`.
        origins: the same keys; "default", an option, a variable, or a file's line.
        fields: the options.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    fields: tuple[Field, ...]

    def settings(self) -> ServiceSettings:
        """The settings, checked.

        Raises:
            UsageError: out of range or contradictory; says where each value came from.
        """
        try:
            return ServiceSettings(**self.values)
        except UsageError as error:
            message = str(error)
            named = set(re.findall(r"--([a-z-]+)", message))
            elsewhere = [
                f"--{field.name} is from {origin}"
                for field in self.fields
                if field.name in named
                and (origin := self.origins[field.action.dest]) not in {_DEFAULT, f"--{field.name}"}
            ]
            where = f" ({'; '.join(elsewhere)})" if elsewhere else ""
            raise UsageError(message + where) from None

    def toml(self, secrets: Iterable[str] = ()) -> str:
        """A file that says the same, with each value's origin as a comment.

        Args:
            secrets: variables that are set and must not be shown.
        """
        rows = [(self._line(field), self.origins[field.action.dest]) for field in self.fields]
        width = max(len(line) for line, _ in rows)
        lines = [f"{line:<{width}}  # {origin}" for line, origin in rows]
        lines += [f"# {variable} is set; its keys are not shown" for variable in secrets]
        return "\n".join(lines)

    def _line(self, field: Field) -> str:
        value = self.values[field.action.dest]
        return f"# {field.name}" if value is None else f"{field.name} = {_toml(value)}"


def read(
    make_parser: Callable[[], argparse.ArgumentParser],
    arguments: Sequence[str] | None,
    environment: Mapping[str, str],
) -> tuple[Resolved, argparse.Namespace]:
    """Everything that was said, wherever it was said.

    Args:
        make_parser: makes the options, new with each call.
        arguments: the command line; None: the process's.
        environment: the process's variables.

    Returns:
        The settings, and the options that are none (such as `--show-config`).

    Raises:
        UsageError: an unknown key or variable, or a value that cannot be used.
        SystemExit: `--help` or `--version` has been answered.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not {"-h", "--help"}.isdisjoint(arguments):
        make_parser().parse_args(["--help"])  # below, options have lost what it shows
    table = _table(make_parser())
    given, others = _flags(make_parser(), table, arguments)
    variables = _variables(table, environment)
    layers = [_defaults(table)]
    path = getattr(others, CONFIG, None) or environment.get(PREFIX + CONFIG.upper())
    if path:
        layers.append(_file(table, Path(path)))
    layers += [variables, given]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        for dest, (value, origin) in layer.items():
            values[dest], origins[dest] = value, origin
    return Resolved(values, origins, table), others


_Layer = dict[str, tuple[Any, str]]


def _table(parser: argparse.ArgumentParser) -> tuple[Field, ...]:
    """The parser's options that are settings."""
    settings = {field.name for field in fields(ServiceSettings)}
    every = parser._actions  # noqa: SLF001 - argparse has no public list of its options
    return tuple(Field(action) for action in every if action.dest in settings)


def _defaults(table: Iterable[Field]) -> _Layer:
    return {field.action.dest: (field.action.default, _DEFAULT) for field in table}


def _flags(
    parser: argparse.ArgumentParser, table: Sequence[Field], arguments: Sequence[str]
) -> tuple[_Layer, argparse.Namespace]:
    """What stands on the command line; all three sources convert values in one place, `Field`."""
    for field in _table(parser):
        field.action.default = argparse.SUPPRESS
        field.action.type = None
        field.action.choices = None
    parser.exit_on_error = False  # it would print its usage above the line that matters
    try:
        namespace, unknown = parser.parse_known_intermixed_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    if unknown:
        raise _unknown("option", unknown[0], [f"--{field.name}" for field in table], "--help")
    layer: _Layer = {}
    for field in table:
        if hasattr(namespace, field.action.dest):
            text = getattr(namespace, field.action.dest)
            origin = f"--{field.name}" if field.action.option_strings else "command line"
            layer[field.action.dest] = (_converted(field.from_flags, text, origin), origin)
    return layer, namespace


def _variables(table: Sequence[Field], environment: Mapping[str, str]) -> _Layer:
    known = {variable: field for field in table for variable in field.variables}
    layer: _Layer = {}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable == PREFIX + CONFIG.upper():
            continue
        if environment[variable].startswith("tcp://") or "_SERVICE_" in variable:
            raise UsageError(
                f"{variable} was set by Kubernetes for a Service called lavit-serve: call it "
                "otherwise, or set enableServiceLinks: false"
            )
        if variable not in known:
            raise _unknown("variable", variable, known, "--show-config")
        field = known[variable]
        value = _converted(field.from_text, environment[variable], variable)
        _put(layer, field, value, variable)
    return layer


def _file(table: Sequence[Field], path: Path) -> _Layer:
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--config {path} cannot be read: {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--config {path} is no TOML: {error}") from None
    known = {name: field for field in table for name in field.names}
    layer: _Layer = {}
    for key, value in content.items():
        origin = f"{path} line {_line(text, key)}"
        if key not in known:
            raise _unknown(f"key in {origin}:", key, known, "--show-config")
        field = known[key]
        converted = _converted(field.from_toml, value, f"{origin}, {key}")
        _put(layer, field, converted, origin)
    return layer


def _put(layer: _Layer, field: Field, value: object, origin: str) -> None:
    """Add a setting that may have been given by an older name too."""
    if field.action.dest in layer:
        before = layer[field.action.dest][1]
        raise UsageError(f"{before} and {origin} are one setting: leave out the older name")
    layer[field.action.dest] = (value, origin)


def _line(text: str, key: str) -> int:
    """The line that begins a key or a table of this name; tomllib does not say."""
    begins = re.compile(rf"\s*\[*\s*[\"']?{re.escape(key)}[\"']?\s*[=.\]]")
    numbered = enumerate(text.splitlines(), 1)
    return next((number for number, line in numbered if begins.match(line)), 1)


def _converted(convert: Callable[[Any], Any], given: object, origin: str) -> Any:  # noqa: ANN401 - as many types as settings
    try:
        return convert(given)
    except ValueError as error:
        raise UsageError(f"{origin}: given {given!r}, valid is {error}") from None


def _unknown(what: str, given: str, known: Iterable[str], see: str) -> UsageError:
    known = sorted(known)
    dashed = given.replace("_", "-") if what.startswith("key") else given
    near = get_close_matches(dashed.partition("=")[0], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"lavit-serve {see} lists what there is"
    return UsageError(f"unknown {what} {given}; {hint}")


def _toml(value: object) -> str:
    """A setting's value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    if isinstance(value, ModelSource):
        version = f":{value.version}" if value.version else ""
        return _toml(f"{value.name}{version}={value.path}")
    escaped = "".join(
        f"\\U{ord(char):08x}" if char in '"\\' or not char.isprintable() else char
        for char in str(value)
    )
    return f'"{escaped}"'
