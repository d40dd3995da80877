"""Why a training of a LaViT fails at a large learning rate, and what keeps it from failing.

Trains lavit_micro at 32 pixels on part of Fashion-MNIST, each variant with the same seeds, and
writes down the loss, the gradient's norm, and every layer's scores and attention maps by step.

    python benchmarks/training_stability.py run --data fashion-mnist --out runs/stability
    python benchmarks/training_stability.py report --runs runs/stability

A run that is there already is not repeated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lavit_deploy.model.config import LaViTConfig, lavit_micro
from lavit_deploy.model.lavit import LaViT, LayerScores
from lavit_deploy.training.optimisation import Objective, learning_rate_share, parameter_groups
from lavit_deploy.training.pictures.augmentation import smoothed
from lavit_deploy.training.recipe import Recipe
from lavit_deploy.training.stability.score_limit import ScoreLimit

SIZE = 32
TRAIN, HELD_OUT = 12_800, 2_000
BATCH = 128
EPOCHS = 2
EVERY = 10
"""Steps between two rows of what is written down."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train.

    Attributes:
        lr: peak learning rate of this batch size.
        dp_weight: weight of the DP loss.
        warmup: share of the steps that warm up.
        clip_norm: largest norm of the gradient, 0 for none.
        weight_decay: AdamW's.
        beta2: AdamW's second moment.
        la_start: where less-attention begins in each stage.
        residual: attention residual between stages.
        residual_scale: LayerScale it starts from.
        init: "trunc" (0.02, the model's), or "xavier" for the linear layers.
        la_lr: share of the learning rate that Theta and Psi have.
        qk_lr: share of it that queries and keys have (with the values, which share their matrix).
        score_limit: of `ScoreLimit`, 0 for none.
    """

    lr: float
    dp_weight: float = 0.0
    warmup: float = 0.05
    clip_norm: float = 1.0
    weight_decay: float = 0.05
    beta2: float = 0.999
    la_start: tuple[int, ...] = (0, 0, 2, 2)
    residual: bool = True
    residual_scale: float = 0.1
    init: str = "trunc"
    la_lr: float = 1.0
    qk_lr: float = 1.0
    score_limit: float = 0.0

    def name(self, seed: int) -> str:
        """File of a run: only what differs from the default."""
        parts = [
            f"{field.name}-{_short(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if field.name == "lr" or getattr(self, field.name) != field.default
        ]
        return "_".join([*parts, f"seed-{seed}"])


def _short(value: object) -> str:
    return "".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def config_of(variant: Variant) -> LaViTConfig:
    """lavit_micro at 32 pixels: 8, 4, 2 and 2 tokens a side, 2 x 2 keys in every stage."""
    return dataclasses.replace(
        lavit_micro(num_classes=10, image_size=64),
        image_size=(SIZE, SIZE),
        patch_sizes=(4, 2, 2, 1),
        sr_ratios=(4, 2, 1, 1),
        la_start=variant.la_start,
        attention_residual=variant.residual,
        residual_scale_init=variant.residual_scale,
    )


def built(variant: Variant, seed: int) -> LaViT:
    """The model before training."""
    torch.manual_seed(seed)
    model = LaViT(config_of(variant))
    if variant.init == "xavier":
        for name, module in model.named_modules():
            is_map = name.endswith((".theta", ".psi"))
            if isinstance(module, nn.Linear) and not is_map and name != "head":
                std = math.sqrt(2.0 / (module.in_features + module.out_features))
                nn.init.trunc_normal_(module.weight, std=std)
    return model


def optimiser(model: LaViT, variant: Variant) -> torch.optim.AdamW:
    """The trainer's groups, with Theta and Psi apart."""
    groups: list[dict[str, Any]] = []
    for group in parameter_groups(model, variant.weight_decay):
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for share in sorted({1.0, variant.la_lr, variant.qk_lr}):
            some = [one for one in group["params"] if _share(names[id(one)], variant) == share]
            if some:
                groups.append({**group, "params": some, "lr": variant.lr * share})
    return torch.optim.AdamW(groups, lr=variant.lr, betas=(0.9, variant.beta2))


def _share(name: str, variant: Variant) -> float:
    """Share of the learning rate that a parameter has."""
    if ".theta." in name or ".psi." in name:
        return variant.la_lr
    return variant.qk_lr if ".attn.q." in name or ".attn.kv." in name else 1.0


def run(variant: Variant, seed: int, data: tuple[Tensor, ...]) -> dict[str, Any]:
    """Train one variant; what was seen by step, and the accuracy at the end of each epoch."""
    pixels, labels, held_out, held_out_labels = data
    model = built(variant, seed)
    objective = Objective(model, variant.dp_weight)
    adam = optimiser(model, variant)
    limit = ScoreLimit(model, variant.score_limit) if variant.score_limit else None
    steps = len(pixels) // BATCH
    recipe = Recipe(
        image_size=SIZE, epochs=EPOCHS, batch_size=BATCH, warmup_epochs=variant.warmup * EPOCHS
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, learning_rate_share(recipe, steps))
    order = torch.Generator().manual_seed(seed)
    rows: list[dict[str, Any]] = []
    accuracies: list[float] = []
    for epoch in range(EPOCHS):
        model.train()
        for step, some in enumerate(_batches(len(pixels), order)):
            images, targets = pixels[some], smoothed(labels[some], 10, 0.1)
            losses = objective(images, targets)
            adam.zero_grad(set_to_none=True)
            losses.total.backward()
            number = epoch * steps + step
            seen = _gradients(model) if number % EVERY == 0 else None
            if variant.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), variant.clip_norm)
            adam.step()
            if limit is not None:
                limit.apply()
            schedule.step()
            if seen is not None:
                rows.append(
                    {
                        "step": number,
                        "lr": schedule.get_last_lr()[0],
                        "loss": losses.classification.item(),
                        "dp": losses.diagonality.item(),
                        **seen,
                        **maps_now(model, held_out[:256]),
                    }
                )
        accuracies.append(_accuracy(model, held_out, held_out_labels))
    return {
        "variant": dataclasses.asdict(variant),
        "seed": seed,
        "accuracies": accuracies,
        "rows": rows,
    }


def _batches(count: int, order: torch.Generator) -> Iterator[Tensor]:
    shuffled = torch.randperm(count, generator=order)
    for start in range(0, count - BATCH + 1, BATCH):
        yield shuffled[start : start + BATCH]


def _gradients(model: LaViT) -> dict[str, float]:
    """Norms before clipping: of all, and of Theta and Psi alone."""

    def norm(wanted: Callable[[str], bool]) -> float:
        squares = [
            parameter.grad.square().sum()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and wanted(name)
        ]
        return math.sqrt(torch.stack(squares).sum().item()) if squares else 0.0

    return {
        "gradient": norm(lambda _: True),
        "gradient_maps": norm(lambda name: ".theta." in name or ".psi." in name),
    }


@torch.no_grad()
def maps_now(model: LaViT, images: Tensor) -> dict[str, Any]:
    """Every layer's scores and maps on some pictures; BatchNorm as in training."""
    statistics = [(buffer, buffer.clone()) for buffer in model.buffers()]
    out = model.forward_with_scores(images)
    for buffer, before in statistics:
        buffer.copy_(before)
    share = out.logits.argmax(dim=-1).bincount(minlength=10).max().item() / len(images)
    return {"one_class": share, "layers": [_layer(item) for item in out.scores]}


def _layer(item: LayerScores) -> dict[str, Any]:
    scores = item.scores.float()
    maps = scores.softmax(dim=-1)  # [B, H, N, M]
    entropy = -(maps * maps.clamp_min(1e-12).log()).sum(dim=-1).mean() / math.log(maps.shape[-1])
    mean = maps.mean(dim=0, keepdim=True)
    queries = maps.mean(dim=2, keepdim=True)
    return {
        "name": f"{item.stage + 1}.{item.layer + 1}",
        "less_attention": item.less_attention,
        "largest": scores.abs().max().item(),
        "entropy": entropy.item(),
        # total variation distances: 0 where all pictures, or all queries, have the same map
        "across_pictures": ((maps - mean).abs().sum(dim=-1).mean() / 2).item(),
        "across_queries": ((maps - queries).abs().sum(dim=-1).mean() / 2).item(),
    }


@torch.inference_mode()
def _accuracy(model: LaViT, images: Tensor, labels: Tensor) -> float:
    model.eval()
    right = sum(
        int((model(some).argmax(dim=-1) == wanted).sum())
        for some, wanted in zip(images.split(500), labels.split(500), strict=True)
    )
    return right / len(labels)
