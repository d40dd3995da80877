"""Every task, one line each, and how one is found.

Installed packages add theirs as entry points of the group `lavit_deploy.tasks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lavit_deploy.common.errors import ConfigError
from lavit_deploy.common.plugins import installed
from lavit_deploy.tasks.classification import CLASSIFICATION
from lavit_deploy.tasks.task import Task

AnyTask = Task[Any]
"""A task, whatever its results are."""

TASKS: tuple[AnyTask, ...] = (CLASSIFICATION,)

GROUP = "lavit_deploy.tasks"
"""Entry points by which installed packages add tasks."""


def all_tasks() -> Iterator[AnyTask]:
    """This project's tasks, then those that installed packages add, which takes a look."""
    yield from TASKS
    yield from installed(GROUP, Task)  # type: ignore[type-abstract] # of instances


def find_task(name: str) -> AnyTask:
    """The task of a name.

    Raises:
        ConfigError: there is none; lists those there are.
    """
    for task in all_tasks():
        if task.name == name:
            return task
    known = ", ".join(task.name for task in all_tasks())
    raise ConfigError(f"no task {name!r}; there are {known}")
