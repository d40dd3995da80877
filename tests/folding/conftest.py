"""Models and measures that the tests of folding share."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from graph_store import ask_the_exporter, graph_store  # noqa: F401 - fixtures
from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.preprocess import Preprocess
from tiny_models import seeded, tiny_checkpoint, tiny_checkpoint_file, tiny_model, tiny_preprocess  # noqa: F401 - fixtures

SMALL = LaViTConfig(
    image_size=(32, 64),
    num_classes=7,
    depths=(1, 2, 4, 3),
    dims=(8, 16, 24, 32),
    heads=(1, 2, 3, 2),
    mlp_ratios=(2, 2, 3, 2),
    sr_ratios=(8, 4, 2, 1),
    la_start=(0, 2, 3, 2),
)
CONFIGS = {
    "not square": SMALL,
    "class token": dataclasses.replace(SMALL, class_token=True),
    "no residual": dataclasses.replace(SMALL, attention_residual=False, sr_ratios=(4, 2, 1, 1)),
    "no less-attention": dataclasses.replace(SMALL, la_start=(0, 0, 0, 0)),
}
PREPROCESS = Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def randomised(config, seed=11):
    """A float64 model in which no number is at a value that hides a mistake (0, 1, identity).

    Vectors (biases, affines, LayerScale, BatchNorm's statistics) move by 0.3, matrices by an
    amount that neither kills nor explodes what passes through them.
    """
    generator = torch.Generator().manual_seed(seed)
    model = LaViT(config).double().eval()
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if value.dtype != torch.float64:
                continue
            fan_in = value[0].numel() if value.ndim > 1 else 1
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value.add_(noise * (0.5 / fan_in**0.5 if fan_in > 1 else 0.3))
            if name.endswith("running_var"):
                value.abs_().add_(0.1)
    return model


def pictures_of(config, count=2, seed=5):
    """Random uint8 pictures [count, H, W, C]."""
    size = (count, *config.image_size, config.in_channels)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8))


def literal_input(pictures, preprocess):
    """The normalisation of training in float64: uint8 [B, H, W, C] -> [B, C, H, W]."""
    mean = torch.tensor(preprocess.mean, dtype=torch.float64)
    std = torch.tensor(preprocess.std, dtype=torch.float64)
    return ((pictures.double() / 255.0 - mean) / std).permute(0, 3, 1, 2)


def relative_difference(model, folded, pictures, preprocess=PREPROCESS):
    """max |folded - literal| / max |literal| of the logits."""
    with torch.inference_mode():
        expected = model(literal_input(pictures, preprocess))
        found = folded(pictures)
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Operators this small take a hundred times longer when threads wait for a busy core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def support():
    """This file: importlib mode gives tests no other way to its functions."""
    return SimpleNamespace(
        SMALL=SMALL,
        CONFIGS=CONFIGS,
        PREPROCESS=PREPROCESS,
        randomised=randomised,
        pictures_of=pictures_of,
        literal_input=literal_input,
        relative_difference=relative_difference,
    )


@pytest.fixture(params=CONFIGS)
def model(request):
    """A randomised model of each small configuration."""
    return randomised(CONFIGS[request.param])


@pytest.fixture
def small_model():
    return randomised(SMALL)


@pytest.fixture
def digits():
    """The trained checkpoint that ships with the examples."""
    return Path(__file__).parents[2] / "examples" / "lavit_digits.pth"
