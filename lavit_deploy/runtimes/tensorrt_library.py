"""TensorRT and TensorRT-RTX: two packages with one interface."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lavit_deploy.common.errors import BundleError, MissingDependencyError

Flavour = Literal["tensorrt", "tensorrt_rtx"]
"""Also the name of the Python module and of the runtime in a manifest."""

_EXTRAS: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
_TITLES: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class Library:
    """An imported TensorRT.

    Attributes:
        flavour: which of the two.
        module: its Python module. Its makers publish no types.
    """

    flavour: Flavour
    module: Any

    @property
    def version(self) -> str:
        """Version of the package, such as "11.4.0.106"."""
        return str(self.module.__version__)

    @property
    def is_rtx(self) -> bool:
        """Whether engines are compiled for compute capabilities, on any machine."""
        return self.flavour == "tensorrt_rtx"

    @property
    def title(self) -> str:
        """The product's name."""
        return _TITLES[self.flavour]

    @property
    def is_strongly_typed_by_itself(self) -> bool:
        """Whether every network takes its precision from the graph: all but TensorRT 10."""
        return self.is_rtx or int(self.version.split(".", maxsplit=1)[0]) >= 11


def installed(flavour: Flavour) -> bool:
    """Whether the package is there; it is not imported."""
    return importlib.util.find_spec(flavour) is not None


def import_library(flavour: Flavour) -> Library:
    """Import one of the two.

    Raises:
        MissingDependencyError: it is not installed, or lacks its shared libraries.
    """
    try:
        module = importlib.import_module(flavour)
    except (ImportError, OSError):
        raise MissingDependencyError(
            flavour, extra=_EXTRAS[flavour], purpose=f"build or run {_TITLES[flavour]} engines"
        ) from None
    return Library(flavour, module)


_PLUGIN = ("LessAttention", "lavit")
"""Name and namespace of the one plugin of this project."""


def load_plugin(library: Library, file: Path) -> None:
    """Register the plugins of a shared library, once in a process.

    TensorRT refuses a library whose plugins are there already, so a second engine with the plugin
    must not load it again.

    Raises:
        BundleError: it cannot be loaded.
    """
    registry = library.module.get_plugin_registry()
    if any((item.name, item.plugin_namespace) == _PLUGIN for item in registry.all_creators):
        return
    if registry.load_library(str(file)) is None:
        raise BundleError(
            f"{library.title} {library.version} cannot load the plugin {file}: "
            "build it with the headers of this version (docs/plugin.md)"
        )


def make_runtime(library: Library, logger: Any, *, host_code: bool = False) -> Any:  # noqa: ANN401 # as `Library.module`
    """A runtime of the library; it must live as long as the engines that it loads.

    Args:
        library: the library.
        logger: what `make_logger` gave.
        host_code: let an engine bring code for the CPU: version-compatible ones hold a runtime.
    """
    runtime = library.module.Runtime(logger)
    if host_code:
        runtime.engine_host_code_allowed = True
    return runtime


@dataclass
class Messages:
    """What a library said, collected by `logger`.

    Attributes:
        errors: messages of its errors, in order.
        warnings: messages of its warnings, in order.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def summary(self, count: int = 3) -> str:
        """The first errors in one line."""
        lines = [" ".join(message.split()) for message in self.errors[:count]]
        return "; ".join(lines) or "the library gave no reason"


def make_logger(library: Library, messages: Messages) -> Any:  # noqa: ANN401 # as `Library.module`
    """A logger of the library that fills `messages` and prints nothing."""
    severity = library.module.ILogger.Severity

    class Logger(library.module.ILogger):  # type: ignore[misc,name-defined] # as `Library.module`
        def log(self, level: Any, message: str) -> None:  # noqa: ANN401 # as `Library.module`
            if level in {severity.ERROR, severity.INTERNAL_ERROR}:
                messages.errors.append(message)
            elif level == severity.WARNING:
                messages.warnings.append(message)

    return Logger()
