"""How a LaViT is trained, as data: `Recipe`, its rules, and the recipes that come with the project.

The paper trains with DeiT's augmentation and regularisation, AdamW, 300 epochs of which 5 warm up,
a cosine schedule from 0.005 and a global batch of 1024 (Section 4.1). What it leaves out is DeiT's
(H. Touvron et al., arXiv:2012.12877) or this project's, and `docs/training.md` says which.

This module imports no framework: a command line can print its defaults at once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lavit_deploy.common.errors import UsageError

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Initialisation = Literal["pvt", "xavier"]
Scaling = Literal["linear", "root"]

REFERENCE_BATCH = 1024
"""Global batch size that `Recipe.base_lr` is given for."""

_WORDS = {"precision": Precision, "initialisation": Initialisation, "lr_scaling": Scaling}

_SHARES = frozenset(
    {
        "label_smoothing",
        "drop_path",
        "mix_probability",
        "cutmix_share",
        "erase_probability",
        "flip_probability",
        "rand_augment_magnitude",
        "teacher_share",
        "translation",
        "zoom",
    }
)
_POSITIVE = frozenset(
    {
        "image_size",
        "epochs",
        "batch_size",
        "accumulate",
        "repeats",
        "base_lr",
        "mixup_alpha",
        "cutmix_alpha",
    }
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a training's result, apart from the data and the architecture.

    Attributes:
        image_size: height and width of the input, pixels.
        epochs: passes over the training pictures.
        batch_size: pictures per optimiser step over all processes together.
        accumulate: parts that a process computes its share of a batch in, to save memory.
        repeats: times a drawn picture occurs in an epoch, each with its own augmentation; the
            epoch stays as long (repeated augmentation, E. Hoffer et al., arXiv:1901.09335).
        base_lr: peak learning rate for a batch of `REFERENCE_BATCH`.
        lr_scaling: how it follows the batch: "linear" as in the paper, "root" as is right for Adam
            (S. Malladi et al., arXiv:2205.10287).
        warmup_epochs: epochs over which the learning rate grows linearly to its peak.
        final_lr_share: share of the peak that the cosine ends at.
        weight_decay: AdamW's, for matrices and kernels other than the LA maps.
        clip_norm: largest norm of the gradient, 0 for none.
        score_limit: largest attention score, kept by scaling the weights that make it; 0 for none.
        label_smoothing: share of a label spread over all classes.
        teacher_share: share of a target that is the teacher's answer, where there is a teacher.
        drop_path: stochastic depth of the last layer.
        dp_weight: weight of the diagonality-preserving loss, 0 to leave it out.
        ema_epochs: window of the averaged weights in epochs; decay = 1 - 1 / steps.
        crop_scale: range of the area of the random crop; (1, 1) takes the evaluation's crop.
        flip_probability: of a horizontal flip.
        rand_augment_ops: operations of RandAugment, 0 for none.
        rand_augment_magnitude: their strength, 0 to 1.
        rotation: largest angle of a random affine map, degrees.
        translation: its largest shift as a share of the side.
        zoom: its largest change of scale as a share.
        shear: its largest shear, degrees.
        mix_probability: of mixing a batch, by mixup or CutMix.
        cutmix_share: share of mixed batches that use CutMix.
        mixup_alpha: both parameters of mixup's Beta distribution.
        cutmix_alpha: both parameters of CutMix's.
        erase_probability: of random erasing.
        precision: of the matrix products in training; "auto" is bfloat16 or float16 on a GPU,
            float32 on a CPU. Validation is always float32.
        initialisation: of the linear layers: "pvt", a standard deviation of 0.02, or "xavier", one
            by their sizes, for models with few channels.
        seed: of the initial weights, the order of pictures and all augmentation.

    Raises:
        UsageError: a value that makes no training; says which and what would do.
    """

    image_size: int = 224
    epochs: int = 300
    batch_size: int = 1024
    accumulate: int = 1
    repeats: int = 3
    base_lr: float = 0.005
    lr_scaling: Scaling = "linear"
    warmup_epochs: float = 5.0
    final_lr_share: float = 0.002
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    score_limit: float = 0.0
    label_smoothing: float = 0.1
    teacher_share: float = 0.8
    drop_path: float = 0.1
    dp_weight: float = 0.1
    ema_epochs: float = 20.0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip_probability: float = 0.5
    rand_augment_ops: int = 2
    rand_augment_magnitude: float = 0.9
    rotation: float = 0.0
    translation: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    mix_probability: float = 1.0
    cutmix_share: float = 0.5
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    erase_probability: float = 0.25
    precision: Precision = "auto"
    initialisation: Initialisation = "pvt"
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "crop_scale":
                object.__setattr__(self, field.name, _crop_scale(value))
            elif field.name in _WORDS:
                known = get_args(_WORDS[field.name])
                if value not in known:
                    raise UsageError(
                        f"{field.name} is {value!r}; it must be one of {', '.join(known)}"
                    )
            elif isinstance(field.default, int):
                _whole(field.name, value)
            else:
                object.__setattr__(self, field.name, _real(field.name, value))
        if self.warmup_epochs >= self.epochs:
            raise UsageError(
                f"warmup_epochs is {self.warmup_epochs:g} of {self.epochs} epochs; it must be less"
            )

    @property
    def peak_lr(self) -> float:
        """The learning rate after the warm-up, for this batch size."""
        share = self.batch_size / REFERENCE_BATCH
        return self.base_lr * (math.sqrt(share) if self.lr_scaling == "root" else share)

    def for_epochs(self, epochs: int) -> Recipe:
        """This recipe with another length, warm-up and averaging window in proportion.

        Raises:
            UsageError: fewer than one epoch.
        """
        _whole("epochs", epochs)
        scale = epochs / self.epochs
        return dataclasses.replace(
            self,
            epochs=epochs,
            warmup_epochs=self.warmup_epochs * scale,
            ema_epochs=self.ema_epochs * scale,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, as recipe.json and the training state store them."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Read what `to_dict` wrote; fields that are absent have their defaults.

        Raises:
            UsageError: an unknown field, or a value that makes no training.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UsageError(f"a recipe has no {', '.join(unknown)}; it has {', '.join(known)}")
        return cls(**values)


def _crop_scale(value: object) -> tuple[float, float]:
    if isinstance(value, list | tuple) and len(value) == 2:
        low, high = (_real("crop_scale", item) for item in value)
        if 0 < low <= high <= 1:
            return low, high
    raise UsageError(
        f"crop_scale is {value!r}; it must be two shares of the picture's area, 0 < least <= most "
        "<= 1"
    )


def _whole(name: str, value: object) -> int:
    """`value` if it is a whole number in the range of the field called `name`."""
    least = 1 if name in _POSITIVE else 0
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    return value


def _real(name: str, value: object) -> float:
    """`value` as a float if it is in the range of the field called `name`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"{name} is {value!r}; it must be a number")
    if value < 0 or (name in _POSITIVE and value == 0):
        bound = "more than" if name in _POSITIVE else "at least"
        raise UsageError(f"{name} is {value!r}; it must be {bound} 0")
    if name in _SHARES and value > 1:
        raise UsageError(f"{name} is {value!r}; it is a share, from 0 to 1")
    return float(value)


def imagenet() -> Recipe:
    """The paper's recipe for ImageNet-1k."""
    return Recipe()


def digits() -> Recipe:
    """For scikit-learn's 8 x 8 handwritten digits: minutes on two cores.

    No flips, crops, colours or mixing: a mirrored 2 is no digit, and small affine maps are what
    handwriting varies by. The rest is the paper's recipe on a smaller scale.
    """
    return Recipe(
        image_size=64,
        epochs=60,
        batch_size=64,
        repeats=1,
        base_lr=0.004,
        lr_scaling="root",
        warmup_epochs=3.0,
        ema_epochs=4.0,
        crop_scale=(1.0, 1.0),
        flip_probability=0.0,
        rand_augment_ops=0,
        rotation=10.0,
        translation=0.1,
        zoom=0.1,
        shear=8.0,
        mix_probability=0.0,
        erase_probability=0.0,
    )


def fashion_mnist() -> Recipe:
    """For Fashion-MNIST's 28 x 28 pictures of clothes, shown at 32 x 32.

    Clothes may be mirrored and shifted a little, and part of them may be hidden; they do not come
    turned.
    """
    return Recipe(
        image_size=32,
        epochs=30,
        batch_size=128,
        repeats=1,
        base_lr=0.0057,
        lr_scaling="root",
        warmup_epochs=1.0,
        ema_epochs=2.0,
        crop_scale=(1.0, 1.0),
        rand_augment_ops=0,
        translation=0.07,
        mix_probability=0.0,
        initialisation="xavier",
    )


RECIPES = {"digits": digits, "fashion-mnist": fashion_mnist, "imagenet": imagenet}
"""Name of each recipe on a command line, and the function that makes it."""
