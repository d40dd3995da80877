import pytest

from lavit_deploy.profiles.baselines.lit import LIT


@pytest.mark.parametrize(
    ("module", "stage", "part"),
    [
        ("patch_embed.proj", "stage 1", "patch_embed"),
        ("stages.2.merge.offsets", "stage 3", "patch_embed"),
        ("stages.3.blocks.1.attn.qkv", "stage 4", "attention_projections"),
        ("stages.3.blocks.1.attn", "stage 4", "attention_scores_values"),
        ("stages.0.blocks.1.mlp.fc1", "stage 1", "mlp"),
    ],
)
def test_a_module_belongs_to_its_stage_and_part(module, stage, part):
    assert LIT.module_rules.locate(module) == (stage, part)
