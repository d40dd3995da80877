"""The LaViT family as data: `LaViTConfig`, its rules, and the presets.

Paper: S. Zhang, H. Liu, S. Lin, K. He, "You Only Need Less Attention at Each Stage in Vision
Transformers", CVPR 2024, arXiv:2406.00427. `docs/model.md` gives every deviation and its reason.

This module imports no framework: the service reads configurations from a manifest.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from lavit_deploy.common.config_values import number, switch, whole, wholes
from lavit_deploy.common.errors import ConfigError

STAGES = 4

_MOST_CHANNELS = 4


@dataclass(frozen=True, kw_only=True)
class LaViTConfig:
    """Architecture of one LaViT. Tuples hold one entry per stage.

    Attributes:
        image_size: input height and width in pixels; one number for a square. The LA maps are tied
            to the token count, so a model has one input size.
        in_channels: input channels: 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA).
        num_classes: outputs of the classifier, K.
        patch_sizes: kernel and stride of each stage's patch embedding.
        depths: layers per stage, L_m.
        dims: channels per stage, D_m.
        heads: attention heads per stage, H_m.
        mlp_ratios: hidden width of the MLP as a multiple of D_m.
        sr_ratios: spatial reduction of keys and values, r_m: M = N / r^2.
        la_start: 1-based layer where less-attention begins in each stage, 0 = never (Table 1).
        attention_residual: add the downsampled scores of the previous stage (Eq. 6-7).
        residual_scale_init: initial LayerScale of the attention residual (Eq. 7).
        class_token: classify from PVT's token, added in stage 4, instead of the mean of tokens.
        norm_eps: epsilon of every LayerNorm.

    Numbers may come as text or as NumPy scalars, sequences as lists.

    Raises:
        ConfigError: a value is of another kind, or the configuration breaks a rule of the
            architecture; says which and how.
    """

    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    num_classes: int = 1000
    patch_sizes: tuple[int, ...] = (4, 2, 2, 2)
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    heads: tuple[int, ...]
    mlp_ratios: tuple[int, ...]
    sr_ratios: tuple[int, ...]
    la_start: tuple[int, ...]
    attention_residual: bool = True
    residual_scale_init: float = 0.1
    class_token: bool = False
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _read(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if self.in_channels > _MOST_CHANNELS:
            raise ConfigError(
                f"in_channels is {self.in_channels}; pictures have 1 (grey), 2 (grey and alpha), "
                "3 (RGB) or 4 (RGBA) channels"
            )
        if self.norm_eps <= 0:
            raise ConfigError(f"norm_eps is {self.norm_eps!r}; it must be positive")
        for stage in range(STAGES):
            self._check_stage(stage)
        if self.attention_residual:
            self._check_residual()
        if self.class_token and self.sr_ratios[-1] != 1:
            raise ConfigError(
                f"class_token needs sr_ratios[3] = 1, given {self.sr_ratios[-1]}: a class token "
                "has no place on the grid that spatial reduction pools"
            )

    def _check_stage(self, stage: int) -> None:
        number = stage + 1
        height, width = self.image_size if stage == 0 else self.grid(stage - 1)
        patch = self.patch_sizes[stage]
        if height % patch or width % patch:
            raise ConfigError(
                f"stage {number} cuts a {height} x {width} grid into patches of {patch}: "
                f"image_size {self.image_size} must be divisible at every stage"
            )
        grid_height, grid_width = height // patch, width // patch
        ratio = self.sr_ratios[stage]
        if grid_height % ratio or grid_width % ratio:
            raise ConfigError(
                f"stage {number} has a {grid_height} x {grid_width} token grid, "
                f"which sr_ratios[{stage}] = {ratio} does not divide"
            )
        if self.dims[stage] % self.heads[stage]:
            raise ConfigError(
                f"stage {number}: {self.dims[stage]} channels do not split "
                f"into {self.heads[stage]} heads"
            )
        start = self.la_start[stage]
        if start == 1:
            raise ConfigError(
                f"la_start[{stage}] = 1 leaves stage {number} without a layer that computes "
                "scores; less-attention can begin at layer 2 (0 = never)"
            )
        if start > self.depths[stage]:
            raise ConfigError(
                f"la_start[{stage}] = {start} lies beyond the {self.depths[stage]} layers of "
                f"stage {number} (0 = never)"
            )

    def _check_residual(self) -> None:
        keys = [self.key_grid(stage) for stage in range(STAGES)]
        if len(set(keys)) > 1:
            raise ConfigError(
                f"attention_residual needs one key grid in all stages, these are {keys}: choose "
                "sr_ratios so that the token grid divided by the ratio is the same everywhere, "
                "or attention_residual=False"
            )

    def grid(self, stage: int) -> tuple[int, int]:
        """Token grid (h, w) of a stage, 0-based."""
        height, width = self.image_size
        for patch in self.patch_sizes[: stage + 1]:
            height, width = height // patch, width // patch
        return height, width

    def key_grid(self, stage: int) -> tuple[int, int]:
        """Grid of keys and values of a stage: the token grid divided by r."""
        height, width = self.grid(stage)
        ratio = self.sr_ratios[stage]
        return height // ratio, width // ratio

    def has_class_token(self, stage: int) -> bool:
        """Whether the tokens of this stage begin with the class token."""
        return self.class_token and stage == STAGES - 1

    def tokens(self, stage: int) -> int:
        """Query tokens N of a stage, the class token included."""
        height, width = self.grid(stage)
        return height * width + self.has_class_token(stage)

    def keys(self, stage: int) -> int:
        """Key tokens M of a stage, the class token included."""
        height, width = self.key_grid(stage)
        return height * width + self.has_class_token(stage)

    def head_dim(self, stage: int) -> int:
        """Channels per head, d = D / H."""
        return self.dims[stage] // self.heads[stage]

    def is_less_attention(self, stage: int, layer: int) -> bool:
        """Whether 0-based `layer` of 0-based `stage` is a less-attention layer."""
        start = self.la_start[stage]
        return start > 0 and layer >= start - 1

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, as checkpoints and manifests store them."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LaViTConfig:
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: an unknown or missing key, or a value that breaks a rule.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        required = {
            field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING
        }
        unknown, missing = sorted(set(values) - known), sorted(required - set(values))
        if unknown or missing:
            raise ConfigError(
                "model config"
                + (f" has unknown keys {unknown}" if unknown else "")
                + (f" lacks {missing}" if missing else "")
                + f"; valid keys: {sorted(known)}"
            )
        return cls(**values)


def _read(name: str, value: object) -> object:
    """The value of a field as its own type.

    Raises:
        ConfigError: it is of another.
    """
    if name == "image_size":
        sides = value if isinstance(value, list | tuple) else (value, value)
        return wholes(name, sides, count=2, least=1)
    if name in {"in_channels", "num_classes"}:
        return whole(name, value, least=1)
    if name in {"attention_residual", "class_token"}:
        return switch(name, value)
    if name in {"residual_scale_init", "norm_eps"}:
        return number(name, value)
    return wholes(name, value, count=STAGES, least=0 if name == "la_start" else 1)


def _pvt_like(
    depths: tuple[int, ...], la_start: tuple[int, ...], *, num_classes: int, image_size: int
) -> LaViTConfig:
    return LaViTConfig(
        image_size=(image_size, image_size),
        num_classes=num_classes,
        depths=depths,
        dims=(64, 128, 320, 512),
        heads=(1, 2, 5, 8),
        mlp_ratios=(8, 8, 4, 4),
        sr_ratios=(8, 4, 2, 1),
        la_start=la_start,
    )


def lavit_t(*, num_classes: int = 1000, image_size: int = 224) -> LaViTConfig:
    """LaViT-T: PVT-Tiny's depths; Table 1's row is illegible in the only copy."""
    return _pvt_like((2, 2, 2, 2), (0, 0, 2, 2), num_classes=num_classes, image_size=image_size)


def lavit_s(*, num_classes: int = 1000, image_size: int = 224) -> LaViTConfig:
    """LaViT-S exactly as Table 1 prints it: 22.4 M parameters."""
    return _pvt_like((3, 4, 6, 3), (0, 0, 3, 2), num_classes=num_classes, image_size=image_size)


def lavit_b(*, num_classes: int = 1000, image_size: int = 224) -> LaViTConfig:
    """LaViT-B: PVT-Medium's depths, LA starting where Table 7 is best."""
    return _pvt_like((3, 4, 18, 3), (0, 0, 4, 3), num_classes=num_classes, image_size=image_size)


def lavit_micro(*, num_classes: int = 10, image_size: int = 64) -> LaViTConfig:
    """LaViT-micro: not in the paper; 64-pixel pictures, M = 4, 1.3 M parameters."""
    return LaViTConfig(
        image_size=(image_size, image_size),
        num_classes=num_classes,
        depths=(1, 2, 3, 3),
        dims=(32, 64, 96, 128),
        heads=(1, 2, 3, 4),
        mlp_ratios=(4, 4, 4, 4),
        sr_ratios=(8, 4, 2, 1),
        la_start=(0, 0, 2, 2),
    )


def lavit_nano(*, num_classes: int = 10, image_size: int = 32) -> LaViTConfig:
    """LaViT-nano: not in the paper; 32-pixel pictures, M = 16, 0.8 M parameters."""
    return LaViTConfig(
        image_size=(image_size, image_size),
        num_classes=num_classes,
        patch_sizes=(2, 2, 2, 1),
        depths=(1, 2, 2, 2),
        dims=(32, 64, 128, 128),
        heads=(1, 2, 4, 4),
        mlp_ratios=(3, 3, 3, 3),
        sr_ratios=(4, 2, 1, 1),
        la_start=(0, 2, 2, 2),
    )


PRESETS = {
    "lavit_nano": lavit_nano,
    "lavit_micro": lavit_micro,
    "lavit_t": lavit_t,
    "lavit_s": lavit_s,
    "lavit_b": lavit_b,
}
"""Name of each preset on a command line, and the function that makes its configuration."""


def preset(name: str, **options: int) -> LaViTConfig:
    """The preset called `name`.

    Raises:
        ConfigError: no such preset; lists those there are.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name](**options)
