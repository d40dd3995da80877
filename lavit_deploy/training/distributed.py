"""The processes that train together: one, or those that `torchrun` started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from lavit_deploy.common.errors import UsageError


@dataclass(frozen=True)
class World:
    """This process and the others.

    Attributes:
        rank: 0-based number of this process; 0 alone writes and prints.
        size: number of processes.
        device: where this process computes.
        control: group over the CPU, None when there is one process. It carries decisions, so that
            the GPU is not waited for.
    """

    rank: int
    size: int
    device: torch.device
    control: distributed.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def largest(self, value: int) -> int:
        """The largest of all processes' values: how they agree on something."""
        if self.control is None:
            return value
        shared = torch.tensor(value)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX, group=self.control)
        return int(shared)

    def largest_of_each(self, values: Tensor) -> Tensor:
        """The largest of all processes' values, elementwise, on the device of `values`."""
        if self.size > 1:
            distributed.all_reduce(values, distributed.ReduceOp.MAX)
        return values

    def total(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all processes, on the CPU, in its own precision."""
        summed = values.detach().cpu().clone()
        if self.control is not None:
            distributed.all_reduce(summed, group=self.control)
        return summed


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the processes that `torchrun` started, if it did; leave them at the end.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N". Under torchrun each process takes the GPU of its
            local rank.

    Raises:
        UsageError: the device does not exist here.
    """
    launched = "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ
    chosen = _device(device, int(os.environ["LOCAL_RANK"]) if launched else None)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if not launched:
        yield World(0, 1, chosen)
        return
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(
            distributed.get_rank(),
            distributed.get_world_size(),
            chosen,
            distributed.new_group(backend="gloo"),
        )
    finally:
        distributed.destroy_process_group()


def _device(name: str, local_rank: int | None) -> torch.device:
    available = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device is {name!r}; it must be auto, cpu, cuda or cuda:N") from None
    if device.type not in {"cpu", "cuda"}:
        raise UsageError(f"--device is {name!r}; training runs on cpu or cuda")
    if device.type == "cpu":
        return device
    if not available:
        raise UsageError(f"--device is {name!r} and PyTorch sees no NVIDIA GPU here")
    index = device.index if local_rank is None else local_rank
    index = torch.cuda.current_device() if index is None else index
    if index >= torch.cuda.device_count():
        raise UsageError(f"no GPU number {index}: there are {torch.cuda.device_count()}")
    return torch.device("cuda", index)
