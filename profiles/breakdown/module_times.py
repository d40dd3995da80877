"""Where an eager PyTorch model spends its time: hooks on every module."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Self

import torch
from torch import nn

from lavit_deploy.manifest import Device
from lavit_deploy.profiles.breakdown.part_times import CallTimes, time_by_part
from lavit_deploy.profiles.counting.module_rules import ModuleRules
from lavit_deploy.profiles.report.times import TimeSplit

_WARMUP = 5


class ModuleTimes(AbstractContextManager["ModuleTimes"]):
    """While entered, notes when each module of a model begins and ends.

    The time between two such moments belongs to the innermost module that is running, so what an
    attention layer computes itself is its scores and values, and what a block computes itself is
    its residual sums. On a GPU the moments are CUDA events in the stream, which cost no
    synchronisation; they are read after the call.

    Args:
        model: in the form in which it is called.
        device: where it runs.
    """

    def __init__(self, model: nn.Module, device: Device) -> None:
        self._model = model
        self._on_gpu = device == "cuda"
        self._running: list[str] = []
        self._moments: list[tuple[str, Any]] = []
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, module in self._model.named_modules():
            self._hooks.append(module.register_forward_pre_hook(self._begin(name), prepend=True))
            self._hooks.append(module.register_forward_hook(self._end))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def split(
        self, call: Callable[[], object], rules: ModuleRules, *, batch: int, calls: int
    ) -> TimeSplit:
        """Run the model and divide its time.

        Args:
            call: runs it once.
            rules: where its modules belong.
            batch: images per call, for the record.
            calls: calls to take the median over.
        """
        for _ in range(_WARMUP):
            self._taken(call)
        return time_by_part(
            [self._taken(call) for _ in range(calls)],
            {name: rules.locate(name) for name, _ in self._model.named_modules()},
            method="hooks on PyTorch modules",
            batch=batch,
        )

    def _taken(self, call: Callable[[], object]) -> CallTimes:
        """Seconds of one call by the innermost module."""
        self._running.clear()
        self._moments.clear()
        call()
        if self._on_gpu:
            torch.cuda.synchronize()
        own: defaultdict[str, float] = defaultdict(float)
        for (name, start), (_, end) in zip(self._moments, self._moments[1:], strict=False):
            own[name] += self._between(start, end)
        return CallTimes(own, self._between(self._moments[0][1], self._moments[-1][1]))

    def _begin(self, name: str) -> Callable[..., None]:
        def begin(_module: nn.Module, _inputs: object) -> None:
            self._running.append(name)
            self._moments.append((name, self._now()))

        return begin

    def _end(self, _module: nn.Module, _inputs: object, _output: object) -> None:
        self._running.pop()
        self._moments.append((self._running[-1] if self._running else "", self._now()))

    def _now(self) -> Any:  # noqa: ANN401 - a number of seconds, or a CUDA event
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _between(self, start: Any, end: Any) -> float:  # noqa: ANN401 - as `_now` gives them
        return start.elapsed_time(end) / 1000 if self._on_gpu else end - start
