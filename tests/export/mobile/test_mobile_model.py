"""The mobile form computes what the model computes, in operators that phones have."""

import dataclasses

import numpy as np
import pytest
import torch

from lavit_deploy.export.judging.reference import reference_logits
from lavit_deploy.export.mobile.mobile_model import MobileResidual, mobile_form, write_program
from lavit_deploy.folding.modules.scores import FoldedResidual
from lavit_deploy.model.lavit import LaViT


def test_the_mobile_form_predicts_what_the_model_predicts(tiny_model, tiny_preprocess, pictures):
    form = mobile_form(tiny_model, tiny_preprocess)
    with torch.inference_mode():
        found = [form(torch.from_numpy(picture[None])).numpy() for picture in pictures]
    expected = reference_logits(tiny_model, pictures, tiny_preprocess)
    # Both round to float32, in different orders (see lavit_deploy.tasks.logits_parity).
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-4 * abs(expected).max())


def test_the_class_token_survives(tiny_model, tiny_preprocess, pictures):
    config = dataclasses.replace(tiny_model.config, class_token=True)
    model = LaViT(config).eval()
    form = mobile_form(model, tiny_preprocess)
    with torch.inference_mode():
        found = form(torch.from_numpy(pictures[:1])).numpy()
    expected = reference_logits(model, pictures[:1], tiny_preprocess)
    np.testing.assert_allclose(found, expected, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_the_residual_equals_a_convolution_along_the_query_grid(patch):
    conv = torch.nn.Conv3d(2, 3, (patch, patch, 1), stride=(patch, patch, 1)).double()
    grid = (2 * patch, 3 * patch)
    folded = FoldedResidual(conv, grid, class_token=False)
    scores = torch.randn(1, 2, grid[0] * grid[1], 5, dtype=torch.float64)
    with torch.no_grad():
        # 1e-12: float64 sums of a few terms, in another order.
        torch.testing.assert_close(
            MobileResidual(folded)(scores), folded(scores), rtol=0, atol=1e-12
        )


@pytest.mark.slow
@pytest.mark.parametrize("planar", [False, True])
def test_the_program_has_one_picture_and_at_most_four_dimensions(
    tiny_model, tiny_preprocess, tmp_path, planar
):
    path = tmp_path / "model.pt2"
    write_program(mobile_form(tiny_model, tiny_preprocess), path, planar=planar)
    program = torch.export.load(path)
    shapes = [
        node.meta["val"].shape
        for node in program.graph.nodes
        if isinstance(node.meta.get("val"), torch.Tensor)
    ]
    assert max(len(shape) for shape in shapes) <= 4
    kinds = {str(node.target) for node in program.graph.nodes}
    assert not any("conv3d" in kind for kind in kinds)
