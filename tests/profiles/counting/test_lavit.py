import pytest

from lavit_deploy.model.config import preset
from lavit_deploy.model.counts import multiply_adds
from lavit_deploy.profiles.counting.lavit import LAVIT_MODULES, lavit_counts
from lavit_deploy.profiles.counting.parts import Place
from lavit_deploy.profiles.counting.stage_counts import by_part


@pytest.mark.parametrize("name", ["lavit_nano", "lavit_micro", "lavit_t", "lavit_s", "lavit_b"])
def test_counts_by_stage_sum_up_to_those_of_the_model(name):
    config = preset(name)
    assert by_part(lavit_counts(config)) == multiply_adds(config)


@pytest.mark.parametrize(
    ("module", "place"),
    [
        ("stages.1.blocks.0.attn.theta", Place("stage 2", "la_transform")),
        ("stages.1.blocks.0.attn.psi", Place("stage 2", "la_transform")),
        ("stages.2.residual.depthwise", Place("stage 3", "attention_residual")),
        ("stages.0.blocks.1.attn.kv", Place("stage 1", "attention_projections")),
        ("stages.0.blocks.1.attn", Place("stage 1", "attention_scores_values")),
        ("stages.3.chain.0", Place("stage 4", "la_transform")),  # folded
        ("normalise", Place("stage 1", "patch_embed")),  # exported
        ("last_norm", Place("head", "head")),
    ],
)
def test_modules_of_trained_and_of_folded_models_have_their_places(module, place):
    assert LAVIT_MODULES.locate(module) == place
