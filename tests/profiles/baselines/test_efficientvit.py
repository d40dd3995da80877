import pytest

from lavit_deploy.profiles.baselines.efficientvit import EFFICIENTVIT


@pytest.mark.parametrize(
    ("module", "stage", "part"),
    [
        ("stem.0", "stage 1", "patch_embed"),
        ("stages.2.blocks.1.context.aggregate", "stage 3", "attention_projections"),
        ("stages.2.blocks.1.context", "stage 3", "attention_scores_values"),
        ("stages.2.blocks.1.local.0", "stage 3", "convolutions"),
        ("head.3", "head", "head"),
    ],
)
def test_a_module_belongs_to_its_stage_and_part(module, stage, part):
    assert EFFICIENTVIT.module_rules.locate(module) == (stage, part)
