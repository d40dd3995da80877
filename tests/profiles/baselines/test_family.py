"""A family of baselines is one object: a tiny one is profiled end to end."""

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from lavit_deploy.common.errors import UsageError
from lavit_deploy.profiles import cli
from lavit_deploy.profiles.baselines import BASELINES, BaselineFamily, Published, Variant
from lavit_deploy.profiles.counting.module_rules import module_rules
from lavit_deploy.profiles.counting.stage_counts import HEAD, classifier
from lavit_deploy.profiles.report.schema import Report
from lavit_deploy.profiles.subjects import names

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class MixerConfig:
    image_size: tuple[int, int] = (16, 16)
    dim: int = 8
    hidden: int = 24
    num_classes: int = 3


class Mixer(nn.Module):
    """Patches of 4 pixels, one MLP over their channels, their mean, a classifier."""

    def __init__(self, config):
        super().__init__()
        self.patches = nn.Conv2d(3, config.dim, 4, stride=4)
        self.mlp = nn.Sequential(
            nn.Linear(config.dim, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.dim)
        )
        self.classifier = nn.Linear(config.dim, config.num_classes)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)  # [B, D, h, w] -> [B, N, D]
        return self.classifier((tokens + self.mlp(tokens)).mean(dim=1))


def counts(config):
    tokens = (config.image_size[0] // 4) * (config.image_size[1] // 4)
    return {
        "stage 1": Counter(
            patch_embed=tokens * 3 * 4 * 4 * config.dim,
            mlp=tokens * 2 * config.dim * config.hidden,
        ),
        HEAD: classifier(config.dim, config.num_classes),
    }


MIXER = BaselineFamily(
    name="Mixer",
    implementation="reference module",
    build=lambda config, attention: Mixer(config),
    module_rules=module_rules((r"patches", "patch_embed"), (r"mlp", "mlp"), (r"classifier", HEAD)),
    variants=(
        Variant("mixer_small", MixerConfig(), Published(0.001, 0.002, "this file")),
        Variant("mixer_wide", MixerConfig(hidden=48), notes=("twice the hidden channels",)),
    ),
    counts=counts,
    least_size=8,
    size_step=4,
)


@pytest.fixture
def mixers(monkeypatch):
    """The catalogue with one more family."""
    found = {baseline.name: baseline for baseline in MIXER.baselines()}
    monkeypatch.setattr(names, "BASELINES", {**BASELINES, **found})
    return found


def test_a_new_family_is_counted_timed_split_and_scaled_by_its_name(mixers, tmp_path, capsys):
    file = tmp_path / "report.json"
    options = ["--batch", "2", "--runs", "3", "--threads", "1", "--split", "--growth", "16", "32"]
    code = cli.main(["mixer_small", "mixer_wide", *options, "--strict", "--json", str(file)])
    assert code == 0
    small, wide = Report.read(file).models
    expected = {stage: dict(parts) for stage, parts in counts(MixerConfig()).items()}
    assert small.counts.by_stage == expected
    assert small.counts.total == small.counts.closed_form
    assert (small.kind, small.published.gflops, wide.published) == ("baseline", 0.002, None)
    assert small.notes == ("reference module of this project, random weights",)
    assert wide.notes[1] == "twice the hidden channels"
    assert wide.counts.by_part["mlp"] == 2 * small.counts.by_part["mlp"]
    assert all(model.timings[0].median_ms > 0 for model in (small, wide))
    assert {cell.part for cell in small.time_splits[0].cells} == {"patch_embed", "mlp", "head"}
    assert {part.part: part.exponent for part in small.growth.parts} == pytest.approx(
        {"patch_embed": 1.0, "mlp": 1.0, "head": 0.0}
    )
    assert "mixer_wide" in capsys.readouterr().out


def test_a_wrong_closed_form_of_a_new_family_is_found(mixers, monkeypatch):
    def wrong(config):
        return {**counts(config), HEAD: Counter(head=1)}

    family = BaselineFamily(**{**vars(MIXER), "counts": wrong})
    monkeypatch.setitem(names.BASELINES, "mixer_small", next(family.baselines()))
    with pytest.raises(cli.ProfileError, match="closed form"):
        cli.main(["mixer_small", "--no-timing", "--strict"])


def test_at_another_size_nothing_is_published(mixers):
    small = mixers["mixer_small"]
    assert small.at(16) is small
    assert small.at(None) is small
    assert small.at(20).image_size == (20, 20)
    assert small.at(20).published is None


def test_a_family_without_a_closed_form_has_none(mixers):
    family = BaselineFamily(**{**vars(MIXER), "counts": None})
    assert next(family.baselines()).closed_form() is None


def test_two_builds_have_the_same_weights_and_are_in_evaluation_mode(mixers):
    first, second = (mixers["mixer_small"].build("eager") for _ in range(2))
    assert not first.training
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "size"),
    [("swin_tiny", 192), ("swin_tiny", 230), ("pvt_tiny", 100), ("deit_tiny", 220)],
)
def test_a_size_that_the_architecture_cannot_take_is_refused(name, size):
    with pytest.raises(UsageError, match=name):
        BASELINES[name].at(size)


def test_a_model_can_be_asked_for_at_its_own_odd_size():
    assert BASELINES["efficientnet_b4"].at(380) == BASELINES["efficientnet_b4"]


def test_building_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    BASELINES["pvt_tiny"].build("sdpa")
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
