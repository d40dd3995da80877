import pytest

from lavit_deploy.profiles.baselines.resnet import RESNET


@pytest.mark.parametrize(
    ("module", "stage", "part"),
    [
        ("resnet.embedder.embedder.convolution", "stage 1", "patch_embed"),
        ("resnet.encoder.stages.1.layers.0.shortcut.convolution", "stage 2", "patch_embed"),
        ("resnet.encoder.stages.3.layers.2.layer.1.convolution", "stage 4", "convolutions"),
        ("classifier.1", "head", "head"),
    ],
)
def test_a_module_belongs_to_its_stage_and_part(module, stage, part):
    assert RESNET.module_rules.locate(module) == (stage, part)
