import pytest

from lavit_deploy.profiles.baselines.efficientnet import EFFICIENTNET


@pytest.mark.parametrize(
    ("module", "stage", "part"),
    [
        ("efficientnet.embeddings.convolution", "stage 1", "patch_embed"),
        ("efficientnet.encoder.blocks.5.expansion", "stage 1", "convolutions"),
        ("efficientnet.encoder.blocks.6.expansion", "stage 2", "convolutions"),
        ("efficientnet.encoder.blocks.21.projection", "stage 3", "convolutions"),
        ("efficientnet.encoder.blocks.22.expansion", "stage 4", "convolutions"),
        ("efficientnet.encoder.top_conv", "head", "head"),
    ],
)
def test_a_module_belongs_to_its_stage_and_part(module, stage, part):
    assert EFFICIENTNET.module_rules.locate(module) == (stage, part)
