"""A task is found by its name."""

import pytest

from lavit_deploy.common.errors import ConfigError
from lavit_deploy.tasks.catalogue import TASKS, find_task


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_task_is_found_by_its_name(task):
    assert find_task(task.name) is task


def test_a_name_that_is_none_lists_those_there_are():
    with pytest.raises(ConfigError, match="no task 'divination'; there are classification"):
        find_task("divination")
