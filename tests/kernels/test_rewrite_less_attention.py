"""Folded models whose less-attention layers are one operator each."""

from __future__ import annotations

import pytest
import torch

from lavit_deploy.common.errors import ExportError
from lavit_deploy.folding.fold import default_rewrites, fold
from lavit_deploy.folding.rewrites.less_attention_chain import CollapseChains
from lavit_deploy.kernels.rewrite_less_attention import FusedMap, FuseLessAttention, round_scores
from lavit_deploy.model.config import lavit_micro
from lavit_deploy.model.lavit import LaViT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    """A LaViT with several keys, random everywhere: scores, and what maps them, matter."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = LaViT(lavit_micro()).eval()
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.05)
    return made


@pytest.fixture
def folding(model, tiny_preprocess):
    return fold(model, tiny_preprocess, rewrites=(*default_rewrites(), FuseLessAttention()))


def pictures(config):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, *config.image_size, 3), dtype=torch.uint8, generator=generator)


def test_every_less_attention_layer_becomes_an_operator_and_nothing_changes(folding):
    model, report = folding
    layers = sum(
        model.config.is_less_attention(stage, layer)
        for stage, depth in enumerate(model.config.depths)
        for layer in range(depth)
    )
    assert report.rewrites[-1].changed == layers > 0
    assert report.difference < 1e-10  # float64, against the literal model
    assert not any(type(module).__name__ == "IndependentMaps" for module in model.modules())


def test_only_the_layer_that_feeds_the_next_stages_residual_gives_scores(folding):
    wanted = [
        module.with_scores for module in folding.model.modules() if isinstance(module, FusedMap)
    ]
    assert wanted == [False, True, False, False]  # two in stage 3, two in stage 4


def test_the_operators_are_in_the_exported_program(folding):
    program = torch.export.export(folding.model, (pictures(folding.model.config),))
    found = [str(node.target) for node in program.graph.nodes if "lavit" in str(node.target)]
    assert found == [
        "lavit.less_attention.default",
        "lavit.less_attention_with_scores.default",
        "lavit.less_attention.default",
        "lavit.less_attention.default",
    ]


def test_scores_can_be_rounded_and_the_constants_stay_float32(folding):
    model = folding.model
    images = pictures(model.config)
    with torch.inference_mode():
        wanted = model(images)
        round_scores(model, torch.bfloat16)
        found = model(images)
    one = next(module for module in model.modules() if isinstance(module, FusedMap))
    assert one.queries.dtype == torch.bfloat16
    assert one.keys.dtype == one.constant.dtype == torch.float32
    # bfloat16 keeps 8 bits of a score: the logits move, and by a few per cent at most.
    assert 0 < (found - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_a_chain_that_is_not_collapsed_is_refused(model, tiny_preprocess):
    rewrites = (
        *(item for item in default_rewrites() if not isinstance(item, CollapseChains)),
        FuseLessAttention(),
    )
    with pytest.raises(ExportError, match=r"'fused-less-attention' failed .* still a chain"):
        fold(model, tiny_preprocess, rewrites=rewrites)
