import pytest

from lavit_deploy.profiles.baselines.regnet import REGNET


@pytest.mark.parametrize(
    ("module", "stage", "part"),
    [
        ("regnet.embedder.embedder.convolution", "stage 1", "patch_embed"),
        ("regnet.encoder.stages.0.layers.0.shortcut", "stage 1", "patch_embed"),
        ("regnet.encoder.stages.2.layers.4.layer.2.attention.0", "stage 3", "convolutions"),
        ("regnet.pooler", "head", "head"),
    ],
)
def test_a_module_belongs_to_its_stage_and_part(module, stage, part):
    assert REGNET.module_rules.locate(module) == (stage, part)
