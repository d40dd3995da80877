import time

import pytest
import torch
from torch import nn

from lavit_deploy.profiles.breakdown.module_times import ModuleTimes
from lavit_deploy.profiles.counting.module_rules import ModuleRules, Rule

SPLITTER = ModuleRules((Rule(r"slow", "mlp"), Rule(r"outer\.inner", "patch_embed")))


class Sleep(nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return x


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Sleep(0.02)

    def forward(self, x):
        time.sleep(0.01)
        return self.inner(x)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.slow = Sleep(0.03)
        self.outer = Outer()

    def forward(self, x):
        return self.outer(self.slow(x))


@pytest.fixture(scope="module")
def split():
    model = Model()
    with ModuleTimes(model, "cpu") as times:
        return times.split(lambda: model(torch.zeros(1)), SPLITTER, batch=1, calls=3)


def test_a_module_has_at_least_the_time_that_it_slept(split):
    times = {cell.part: cell.milliseconds for cell in split.cells}
    assert times["mlp"] >= 30
    assert times["patch_embed"] >= 20


def test_what_a_module_does_itself_is_not_its_inner_modules_time(split):
    assert split.unattributed_ms >= 10
    assert split.unattributed[0] == "outer"
    attributed = sum(cell.milliseconds for cell in split.cells)
    assert split.total_ms == pytest.approx(attributed + split.unattributed_ms)


def test_hooks_are_gone_afterwards():
    model = Model()
    with ModuleTimes(model, "cpu"):
        assert model.slow._forward_hooks
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
