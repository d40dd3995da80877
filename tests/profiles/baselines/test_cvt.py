import pytest

from lavit_deploy.profiles.baselines.cvt import CVT


@pytest.mark.parametrize(
    ("module", "stage", "part"),
    [
        ("cvt.encoder.stages.1.embedding", "stage 2", "patch_embed"),
        (
            "cvt.encoder.stages.2.layers.3.attention.attention.convolution_projection_key",
            "stage 3",
            "attention_projections",
        ),
        ("cvt.encoder.stages.2.layers.3.attention.attention", "stage 3", "attention_scores_values"),
        ("cvt.encoder.stages.0.layers.0.intermediate.dense", "stage 1", "mlp"),
        ("layernorm", "head", "head"),
    ],
)
def test_a_module_belongs_to_its_stage_and_part(module, stage, part):
    assert CVT.module_rules.locate(module) == (stage, part)
