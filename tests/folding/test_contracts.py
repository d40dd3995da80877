"""A rewrite says what it needs, what it leaves, and who ran before it when it fails."""

import pytest
import torch

from lavit_deploy.common.errors import ExportError
from lavit_deploy.folding.cost import cost_of
from lavit_deploy.folding.fold import default_rewrites, fold
from lavit_deploy.folding.rewrite import ContractError, Rewrite, run
from lavit_deploy.folding.rewrites.layer_norms import FoldLayerNorms
from lavit_deploy.folding.rewrites.less_attention_chain import CollapseChains, cheaper_order
from lavit_deploy.folding.rewrites.normalisation import FoldNormalisation
from lavit_deploy.folding.rewrites.patch_products import ProductsFromConvolutions
from lavit_deploy.folding.rewrites.query_scale import FoldQueryScale
from lavit_deploy.folding.rewrites.stacked_projections import StackProjections
from lavit_deploy.folding.softmax_invariance import key_constants_matter
from lavit_deploy.folding.unfolded import unfolded
from lavit_deploy.model.config import lavit_b, lavit_s, lavit_t
from lavit_deploy.model.counts import multiply_adds
from lavit_deploy.model.lavit import LaViT

pytestmark = pytest.mark.slow


class DoubledHead(Rewrite):
    """Not an identity."""

    name = "doubled-head"

    def apply(self, model):
        with torch.no_grad():
            model.head.weight *= 2.0
        return 1


class Unkept(Rewrite):
    """Promises what it does not do."""

    name = "unkept"

    def apply(self, model):
        return 0

    def ensures(self, model):
        raise ContractError("nothing was done")


class Broken(Rewrite):
    """Has a fault of its own."""

    name = "broken"

    def apply(self, model):
        raise ZeroDivisionError


def test_a_rewrite_that_changes_the_function_is_named_with_those_before_it(support, small_model):
    rewrites = [FoldNormalisation(), FoldQueryScale(), DoubledHead(), CollapseChains()]
    expected = r"'doubled-head' failed \(rewrites before it: normalisation, query-scale\).*identity"
    with pytest.raises(ExportError, match=expected):
        fold(small_model, support.PREPROCESS, rewrites=rewrites)


def test_a_promise_that_is_not_kept_is_an_error(support, small_model):
    folded = unfolded(small_model, support.PREPROCESS)
    with pytest.raises(ExportError, match=r"'unkept' failed \(rewrites before it: none\): nothing"):
        run([Unkept()], folded)


def test_a_fault_keeps_its_type_and_says_where_it_happened(support, small_model):
    folded = unfolded(small_model, support.PREPROCESS)
    with pytest.raises(ZeroDivisionError) as caught:
        run([FoldQueryScale(), Broken()], folded)
    assert caught.value.__notes__ == [
        "the rewrite 'broken' failed (rewrites before it: query-scale)"
    ]


@pytest.mark.parametrize(
    ("rewrites", "reason"),
    [
        ([StackProjections()], "still scaled"),
        ([ProductsFromConvolutions(), FoldLayerNorms()], "already a matrix product"),
        ([ProductsFromConvolutions(), FoldNormalisation()], "must still be a convolution"),
        ([FoldQueryScale(), StackProjections(), FoldLayerNorms()], "already stacked"),
        ([CollapseChains("factors")], "have no factors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_rewrite_refuses_a_model_that_it_does_not_understand(
    support, small_model, rewrites, reason
):
    folded = unfolded(small_model, support.PREPROCESS)
    with pytest.raises(ExportError, match=reason):
        run(rewrites, folded)


def test_weights_that_are_already_rounded_are_refused(support, small_model):
    folded = unfolded(small_model, support.PREPROCESS).float()
    with pytest.raises(ExportError, match="float64"):
        run(default_rewrites(), folded)


def test_a_model_that_gives_no_numbers_is_refused(support, small_model):
    with torch.no_grad():
        small_model.head.bias[0] = float("nan")
    with pytest.raises(ExportError, match="the unfolded form moved logits by nan"):
        fold(small_model, support.PREPROCESS)


def test_rewrites_run_twice_change_nothing_more(support, small_model):
    folded = unfolded(small_model, support.PREPROCESS)
    run(default_rewrites()[:6], folded)
    again = run([FoldQueryScale(), CollapseChains()], folded)
    assert [result.changed for result in again] == [0, 0]


def test_what_is_left_has_no_norm_to_fold(support, small_model):
    folded = fold(small_model, support.PREPROCESS).model
    affine = {
        name
        for name, module in folded.named_modules()
        if isinstance(module, torch.nn.LayerNorm) and module.elementwise_affine
    }
    assert affine == {f"stages.{index}.patch_embed.norm" for index in range(4)}
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert {value.dtype for value in folded.parameters()} == {torch.float32}
    assert not any(value.requires_grad for value in folded.parameters())


@pytest.mark.parametrize("make", [lavit_t, lavit_s])
def test_the_counted_multiply_adds_are_the_closed_forms(support, make):
    config = make(image_size=64)
    folded = unfolded(support.randomised(config), support.PREPROCESS)
    assert cost_of(folded).multiply_adds == sum(multiply_adds(config).values())


def test_the_report_counts_what_was_saved(support, small_model):
    report = fold(small_model, support.PREPROCESS).report
    assert [result.rewrite for result in report.rewrites] == [
        rewrite.name for rewrite in default_rewrites()
    ]
    assert report.after.operators < report.before.operators
    assert report.after.multiply_adds < report.before.multiply_adds
    parameters = sum(value.numel() for value in small_model.parameters())
    statistics = sum(b.numel() for n, b in small_model.named_buffers() if "running" in n)
    assert report.before.weights == parameters + statistics + 6  # mean and std


@pytest.mark.parametrize(
    ("size", "stage", "order"),
    [
        (224, 2, "scores"),
        (448, 2, "factors"),  # 784 queries and 196 keys of 64 channels
        (448, 3, "scores"),  # the residual is in these scores, so they have no factors
    ],
)
def test_the_cheaper_order_of_products_is_chosen(support, size, stage, order):
    with torch.device("meta"):
        model = LaViT(lavit_s(image_size=size))
    folded = unfolded(model, support.PREPROCESS)
    assert cheaper_order(folded, stage) == order


def test_constants_over_keys_live_where_something_reads_the_scores():
    config = lavit_s()  # LA from layer 3 of 6 in stage 3, from layer 2 of 3 in stage 4
    alive = {
        (stage, layer)
        for stage in range(4)
        for layer in range(config.depths[stage])
        if key_constants_matter(config, stage, layer)
    }
    # The sources of chains, the chains of the literal model, and stage 3's last layer, whose
    # scores reach stage 4's chain through the residual. Stages 1 and 2 end in scores that reach
    # only the softmax of the next first layer.
    assert alive == {(2, 1), (2, 2), (2, 3), (2, 4), (2, 5), (3, 0), (3, 1)}
    # In lavit_b nothing but softmax reads stage 4's first layer.
    assert not key_constants_matter(lavit_b(), 2, 17)


def test_a_class_token_makes_constants_differ_between_keys(support):
    config = support.CONFIGS["class token"]
    assert key_constants_matter(config, 2, config.depths[2] - 1)
    assert key_constants_matter(config, 3, config.depths[3] - 2)
    assert not key_constants_matter(config, 3, config.depths[3] - 1)
