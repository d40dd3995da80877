import dataclasses

import pytest
import torch

from lavit_deploy.profiles.baselines import BASELINES
from lavit_deploy.profiles.baselines.vit import vit_counts
from lavit_deploy.profiles.counting.stage_counts import total
from lavit_deploy.profiles.counting.trace import trace


@pytest.mark.parametrize(
    ("name", "published"),
    # 2.98 is printed as 2.9
    [("dynamicvit_s", 2.98), ("dynamicvit_b", 11.4), ("evit_s", 3.0)],
)
def test_counts_at_another_published_keep_ratio_agree_too(name, published):
    # The authors' repositories: DynamicViT-DeiT-S/0.7, -B/0.7, and EViT with a keep rate of 0.7.
    baseline = BASELINES[name]
    config = dataclasses.replace(baseline.config, keep=0.7)
    found = total(dataclasses.replace(baseline, config=config).closed_form()) / 1e9
    assert abs(found / published - 1) <= 0.02 or round(found, 1) == published


def test_what_ppt_computes_without_choosing_tokens_is_the_closed_form_of_its_layers():
    baseline = BASELINES["ppt_s"]
    image = torch.zeros(1, 3, *baseline.image_size)
    found = trace(baseline.build("sdpa"), image, baseline.module_rules).by_stage
    (stage, head) = found
    assert found[stage].pop("token_selection") > 0
    assert found == {name: +parts for name, parts in vit_counts(baseline.config).items()}
    assert head == "head"
