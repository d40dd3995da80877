"""Fixtures: a tiny model and its checkpoint, for folders whose tests need PyTorch."""

from dataclasses import replace

import pytest
import torch

from lavit_deploy.checkpoint import load_checkpoint, save_checkpoint
from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.preprocess import Preprocess

TINY = LaViTConfig(
    image_size=(32, 32),
    num_classes=5,
    depths=(1, 1, 2, 3),
    dims=(8, 8, 16, 16),
    heads=(1, 1, 2, 2),
    mlp_ratios=(2, 2, 2, 2),
    sr_ratios=(8, 4, 2, 1),
    la_start=(0, 0, 2, 2),
)

CLASSES = ("ant", "bee", "cat", "dog", "eel")

SHALLOW = replace(TINY, depths=(1, 1, 1, 2), la_start=(0, 0, 0, 2))
"""Less-attention, the residual and every kind of block once: for what takes long for each block."""


@pytest.fixture(autouse=True)
def seeded():
    """Initial weights come from torch's global generator: the same ones in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_model():
    """A LaViT of a few thousand parameters whose parameters are all away from 0, 1 and identity."""
    return model_of(TINY)


def model_of(config):
    """A model whose parameters are all away from 0, 1 and identity."""
    generator = torch.Generator().manual_seed(22)
    with torch.random.fork_rng():
        torch.manual_seed(22)  # the initialisation draws from the process's generator
        model = LaViT(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    return model


@pytest.fixture(scope="session")
def tiny_preprocess():
    return Preprocess(resize=36, crop=(32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


@pytest.fixture(scope="session")
def tiny_checkpoint_file(tiny_model, tiny_preprocess, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pth"
    save_checkpoint(path, tiny_model, preprocess=tiny_preprocess, classes=CLASSES)
    return path


@pytest.fixture(scope="session")
def shallow_checkpoint_file(tiny_preprocess, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "shallow.pth"
    save_checkpoint(path, model_of(SHALLOW), preprocess=tiny_preprocess, classes=CLASSES)
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_checkpoint_file):
    return load_checkpoint(tiny_checkpoint_file)
