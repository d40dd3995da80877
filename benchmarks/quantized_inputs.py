"""What `benchmarks/quantized.py` is fed: pictures, and checkpoints of LaViT-S and LaViT-T.

    python benchmarks/quantized_inputs.py --out inputs

writes, always the same:

- `calib/` and `held/`: 40 crops, half of them mirrored, of each of eight photographs
  of scikit-image to calibrate on, and of eight others to judge on;
- `lavit_s.pth`, `lavit_t.pth`: random weights and 1000 classes, for speed and agreement;
- `lavit_s_digits.pth`, `lavit_t_digits.pth`: the same with a head of ten classes that is fitted to
  scikit-learn's digits by ridge regression, in closed form. No trained weights of these sizes
  exist. Such a head reads small differences of random features, which int8 does not keep.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from lavit_deploy.checkpoint import save_checkpoint
from lavit_deploy.datasets import Pictures, digit_pictures
from lavit_deploy.export.judging.parity_pictures import SAMPLES
from lavit_deploy.model.config import preset
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.preprocess import Preprocess, decode, normalise

_CROPS = 40
_SIDE = 256
_BATCH = 8
_RIDGE = 1e-4
"""Penalty over the mean square of the features."""


def main() -> None:
    """Write pictures and checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    out: Path = parser.parse_args().out
    for name in ("calib", "held"):
        (out / name).mkdir(parents=True, exist_ok=True)
    write_pictures(out)
    for name in ("lavit_t", "lavit_s"):
        torch.manual_seed(0)
        model = LaViT(preset(name)).eval()
        classes = [str(number) for number in range(model.config.num_classes)]
        save_checkpoint(out / f"{name}.pth", model, preprocess=Preprocess(), classes=classes)
        fitted, accuracy = with_fitted_head(model)
        print(f"{name}_digits: {accuracy:.2%} of the held-out digits")
        classes = [str(number) for number in range(10)]
        save_checkpoint(
            out / f"{name}_digits.pth", fitted, preprocess=Preprocess(), classes=classes
        )


def write_pictures(out: Path) -> None:
    """Write crops of every photograph into `calib` or `held`."""
    generator = np.random.default_rng(0)
    folder = resources.files("skimage.data")
    for place, name in enumerate(SAMPLES):
        image = decode((folder / name).read_bytes()).convert("RGB")
        part = "held" if place % 2 else "calib"
        for number in range(_CROPS):
            side = generator.uniform(0.3, 1.0) * min(image.size)
            left = generator.uniform(0, image.width - side)
            top = generator.uniform(0, image.height - side)
            box = (round(left), round(top), round(left + side), round(top + side))
            crop = image.crop(box).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
            if number % 2:
                crop = ImageOps.mirror(crop)
            crop.save(out / part / f"{Path(name).stem}-{number:02d}.png")


def with_fitted_head(model: LaViT) -> tuple[LaViT, float]:
    """The model with a head for digits, and its share of right classes of the held-out ones."""
    source = digit_pictures()
    config = replace(model.config, num_classes=len(source.classes))
    fitted = LaViT(config).eval()
    fitted.load_state_dict(
        {key: value for key, value in model.state_dict().items() if not key.startswith("head.")},
        strict=False,
    )
    fitted.head = nn.Identity()
    train, train_labels = _features(fitted, source.train)
    held, held_labels = _features(fitted, source.held_out)
    fitted.head = _ridge(train, train_labels, len(source.classes))
    with torch.no_grad():
        found = fitted.head(held).argmax(dim=1)
    return fitted, (found == held_labels).double().mean().item()


@torch.no_grad()
def _features(model: nn.Module, pictures: Pictures) -> tuple[Tensor, Tensor]:
    """What the head reads of every picture [N, D], and the labels [N]."""
    preprocess = Preprocess()
    parts = []
    for start in range(0, len(pictures), _BATCH):
        places = range(start, min(start + _BATCH, len(pictures)))
        images = np.stack([preprocess(pictures.image(place)) for place in places])
        parts.append(model(torch.from_numpy(normalise(images, preprocess))))
    return torch.cat(parts), torch.tensor(pictures.labels)


def _ridge(features: Tensor, labels: Tensor, classes: int) -> nn.Linear:
    """The linear layer [D] -> [K] with the least penalised squared error to one-hot labels."""
    x = features.double()
    middle = x.mean(dim=0)
    centred = x - middle
    wanted = nn.functional.one_hot(labels, classes).double()
    gram = centred.T @ centred
    penalty = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram + penalty, centred.T @ (wanted - wanted.mean(dim=0)))
    linear = nn.Linear(x.shape[1], classes)
    with torch.no_grad():
        linear.weight.copy_(weight.T)
        linear.bias.copy_(wanted.mean(dim=0) - middle @ weight)
    return linear


if __name__ == "__main__":
    main()
