"""TensorRT's own progress, for the progress bar; Ctrl-C stops a build between two steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lavit_deploy.runtimes.tensorrt_library import Library

Progress = Callable[[str], None]
"""Told what the builder is doing, as a phrase such as "Building engine 2/6"."""


class BuildPhases:
    """The phases that are open, outermost first, and how far each has come."""

    def __init__(self, report: Progress) -> None:
        self._report = report
        self._open: dict[str, list[int]] = {}
        self.interrupted: BaseException | None = None

    def start(self, name: str, steps: int) -> None:
        """A phase of so many steps begins."""
        self._open[name] = [0, steps]
        self._say(name)

    def step(self, name: str, step: int) -> bool:
        """A step (from 0) of a phase is done; gives whether to go on."""
        if name in self._open:
            self._open[name][0] = step + 1
            if len(self._open) == 1 or self._open[name][1] <= _FEW:
                self._say(name)
        return self.interrupted is None

    def finish(self, name: str) -> None:
        """A phase has ended."""
        self._open.pop(name, None)

    def _say(self, name: str) -> None:
        done, steps = self._open[name]
        try:
            self._report(f"{name} {done}/{steps}")
        except BaseException as error:  # noqa: BLE001 # must not unwind through C++; raised after it
            self.interrupted = error


_FEW = 100
"""BuildPhases of more steps than this are reported when they begin, not at every step."""


def make_monitor(library: Library, phases: BuildPhases) -> Any:  # noqa: ANN401 # as `Library.module`
    """An IProgressMonitor that tells `phases`."""

    class Monitor(library.module.IProgressMonitor):  # type: ignore[misc,name-defined] # as above
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, _parent: str | None, num_steps: int) -> None:
            phases.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
