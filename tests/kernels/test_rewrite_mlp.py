"""Folded models whose narrow MLPs are one operator each."""

from __future__ import annotations

import pytest
import torch

from lavit_deploy.common.errors import ExportError
from lavit_deploy.export.graphs.precision import to_precision
from lavit_deploy.folding.fold import default_rewrites, fold
from lavit_deploy.folding.rewrites.layer_norms import FoldLayerNorms
from lavit_deploy.kernels.mlp import WIDTHS
from lavit_deploy.kernels.rewrite_less_attention import FuseLessAttention
from lavit_deploy.kernels.rewrite_mlp import FusedMlpBlock, FuseNarrowMlps
from lavit_deploy.model.config import lavit_micro


@pytest.fixture
def folding(tiny_model, tiny_preprocess):
    return fold(tiny_model, tiny_preprocess, rewrites=(*default_rewrites(), FuseNarrowMlps()))


def pictures(config):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, *config.image_size, 3), dtype=torch.uint8, generator=generator)


def fused_layers(model):
    return sum(isinstance(module, FusedMlpBlock) for module in model.modules())


def test_every_narrow_mlp_becomes_an_operator_and_nothing_changes(folding):
    model, report = folding
    narrow = {stage for stage in range(4) if model.config.dims[stage] in WIDTHS}
    assert narrow == {2, 3}  # 8, 8, 16, 16 channels
    assert {stage for stage, _, block in model.layers() if isinstance(block, FusedMlpBlock)} == (
        narrow
    )
    assert report.rewrites[-1].changed == fused_layers(model) == 5
    assert report.difference < 1e-10  # float64, against the literal model
    program = torch.export.export(model, (pictures(model.config),))
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("lavit.fused_mlp.default") == 5


def test_it_goes_together_with_the_less_attention_operator(tiny_model, tiny_preprocess):
    both = (*default_rewrites(), FuseLessAttention(), FuseNarrowMlps())
    model, report = fold(tiny_model, tiny_preprocess, rewrites=both)
    assert report.difference < 1e-10
    assert [result.changed for result in report.rewrites[-2:]] == [3, 5]
    assert fused_layers(model) == 5


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_in_half_precision_it_is_the_plain_model_in_half_precision(
    folding, tiny_model, tiny_preprocess, precision
):
    """The operator rounds where the layers do: tokens, hidden units, weights; not the stream."""
    fused = to_precision(folding.model, precision)
    plain = to_precision(fold(tiny_model, tiny_preprocess).model, precision)
    kinds = {
        block.mlp.fc1.weight.dtype for _, _, block in fused.layers() if type(block) is FusedMlpBlock
    }
    assert kinds == {{"fp16": torch.float16, "bf16": torch.bfloat16}[precision]}
    with torch.inference_mode():
        found, wanted = (model(pictures(fused.config)) for model in (fused, plain))
    # The same roundings but for fc2's output, which the operator keeps in float32.
    unit = 2**-10 if precision == "fp16" else 2**-7
    assert (found - wanted).abs().max() < 4 * unit * wanted.abs().max()


def test_a_layer_norm_that_still_has_its_affine_is_refused(tiny_model, tiny_preprocess):
    others = tuple(item for item in default_rewrites() if not isinstance(item, FoldLayerNorms))
    with pytest.raises(ExportError, match="stage 1, layer 1 still has an affine"):
        fold(tiny_model, tiny_preprocess, rewrites=(*others[:1], FuseNarrowMlps()))


def test_a_model_without_narrow_stages_stays_as_it_is(tiny_preprocess):
    from dataclasses import replace

    from lavit_deploy.model.lavit import LaViT

    config = replace(lavit_micro(), dims=(8, 24, 40, 48), heads=(1, 1, 1, 2))
    model = LaViT(config).eval()
    _, report = fold(model, tiny_preprocess, rewrites=(*default_rewrites(), FuseNarrowMlps()))
    assert report.rewrites[-1].changed == 0
