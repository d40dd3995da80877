"""A small convolutional network for Fashion-MNIST that a LaViT can learn from.

Trains a residual network of 0.6 M parameters (94.2 % on the test pictures after 14 epochs, a
quarter of an hour on one core) and writes it as a program that `lavit-train --teacher` takes.

    python benchmarks/fashion_mnist_teacher.py --data fashion-mnist --out teacher.pt2

It uses the 60,000 training pictures alone; the test pictures are only counted, after each epoch.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavit_deploy.common.atomic_files import atomic_path
from lavit_deploy.datasets import Pictures, open_data
from lavit_deploy.training.pictures.batches import EvaluationView

SIZE = 32
BATCH = 256
PEAK_LR, WARMUP_STEPS = 0.004, 200
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
AVERAGING = 0.005
"""Share of the current weights in the averaged ones, each step."""
MARGIN = 2
"""Largest shift, pixels."""
HOLE, HOLE_PROBABILITY = 8, 0.5
"""Side of the square that is hidden in a whole batch, and how often."""
BLACK = -1.0


class Set(NamedTuple):
    """Pictures uint8 [N, H, W, 1] and labels int64 [N]."""

    pixels: Tensor
    labels: Tensor


class Residual(nn.Module):
    """x + two convolutions of x, [B, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels, channels), _convolution(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Network(nn.Module):
    """Pictures of clothes, of which one channel is looked at: [B, C, 32, 32] -> logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(1, 32),
            nn.MaxPool2d(2),
            _convolution(32, 64),
            Residual(64),
            nn.MaxPool2d(2),
            _convolution(64, 128),
            Residual(128),
            nn.MaxPool2d(2),
            _convolution(128, 128),
        )
        self.head = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        grey = images[:, :1].contiguous(memory_format=torch.channels_last)
        return self.head(self.body(grey).mean((2, 3)))


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion-mnist", help="what lavit-train takes")
    parser.add_argument("--out", type=Path, required=True, help="program to write, .pt2")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    data = open_data(options.data, SIZE)
    torch.set_num_threads(1)  # small layers: two threads mostly wait for each other
    torch.manual_seed(options.seed)
    train_set, test_set = (
        _all(pictures, EvaluationView(pictures, data.preprocess))
        for pictures in (data.train, data.held_out)
    )
    network = trained(train_set, test_set, options.epochs)
    network = network.to(memory_format=torch.contiguous_format)  # programs store plain tensors
    images = torch.zeros(8, 3, SIZE, SIZE)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network.eval(), (images,), dynamic_shapes=({0: batch},))
    with atomic_path(options.out) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file)
    print(options.out)


def _all(pictures: Pictures, view: EvaluationView) -> Set:
    pixels = []
    for index in range(len(pictures)):
        sample = view[index]
        if not hasattr(sample, "pixels"):
            raise SystemExit(f"error: {sample}")
        pixels.append(sample.pixels[:, :, :1])
    return Set(torch.from_numpy(np.stack(pixels)), torch.tensor(pictures.labels))


def trained(train_set: Set, test_set: Set, epochs: int) -> Network:
    """Averaged weights after the last epoch; no epoch is chosen by the test pictures."""
    network = Network().to(memory_format=torch.channels_last)
    average = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY, fused=True
    )
    steps = len(train_set.labels) // BATCH
    for epoch in range(epochs):
        network.train()
        order = torch.randperm(len(train_set.labels))
        total = 0.0
        for step in range(steps):
            some = order[step * BATCH : (step + 1) * BATCH]
            images = augmented(_normalised(train_set.pixels[some]))
            share = _learning_rate_share(epoch * steps + step, epochs * steps)
            for group in optimiser.param_groups:
                group["lr"] = PEAK_LR * share
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network(images)
            loss = F.cross_entropy(
                logits.float(), train_set.labels[some], label_smoothing=LABEL_SMOOTHING
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            _average(average, network)
            total += loss.item()
        print(
            f"epoch {epoch + 1}/{epochs}  loss {total / steps:.4f}  "
            f"test {accuracy(network, test_set):.2%}  averaged {accuracy(average, test_set):.2%}",
            flush=True,
        )
    return average


def _normalised(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, 1] -> float32 [B, 1, H, W] from -1 to 1, as the recipes for grey pictures."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def augmented(images: Tensor) -> Tensor:
    """Mirrored, shifted and with a hole, [B, 1, H, W]."""
    count = len(images)
    mirrored = torch.rand(count) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    padded = F.pad(images, (MARGIN,) * 4, value=BLACK)
    top, left = (torch.randint(0, 2 * MARGIN + 1, (count,)) for _ in range(2))
    side = torch.arange(SIZE)
    rows, columns = top[:, None] + side, left[:, None] + side  # [B, H], [B, W]
    # [B, 1, H + 4, W + 4] -> [B, H, W, 1] -> [B, 1, H, W]
    shifted = padded[
        torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]
    ].permute(0, 3, 1, 2)
    if torch.rand(()) < HOLE_PROBABILITY:
        row, column = torch.randint(0, SIZE - HOLE, (2,)).tolist()
        shifted = shifted.clone()
        shifted[:, :, row : row + HOLE, column : column + HOLE] = BLACK
    return shifted


def _learning_rate_share(step: int, steps: int) -> float:
    """Linear warm-up times a cosine to 0."""
    return min((step + 1) / WARMUP_STEPS, 1.0) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


@torch.no_grad()
def _average(average: Network, network: Network) -> None:
    pairs = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
    for mean, current in pairs:
        if mean.is_floating_point():
            mean.lerp_(current, AVERAGING)
        else:  # BatchNorm's count of batches
            mean.copy_(current)


@torch.inference_mode()
def accuracy(network: Network, pictures: Set) -> float:
    """Share of right answers."""
    network.eval()
    right = sum(
        int((network(_normalised(some)).argmax(dim=1) == labels).sum())
        for some, labels in zip(pictures.pixels.split(500), pictures.labels.split(500), strict=True)
    )
    return right / len(pictures.labels)


if __name__ == "__main__":
    main()
