"""A second model family, as somebody else's package would add it: two convolutions and a head."""

import dataclasses
from collections import Counter
from dataclasses import dataclass

from lavit_deploy.common.errors import ConfigError
from lavit_deploy.families.family import ModelFamily

GROUPS = {"lavit_deploy.families": {"tiny": "TINY"}}


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Sizes: pictures are cut into patches of 4 x 4 pixels."""

    image_size: tuple[int, int] = (16, 16)
    in_channels: int = 3
    num_classes: int = 3
    width: int = 8

    def __post_init__(self):
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if any(side % 4 for side in self.image_size):
            raise ConfigError(f"image_size {self.image_size} is no multiple of 4")

    def to_dict(self):
        return dataclasses.asdict(self) | {"image_size": list(self.image_size)}


class TinyFamily(ModelFamily[TinyConfig]):
    """Small convolutional networks."""

    name = "tiny"
    config_type = TinyConfig
    presets = {  # noqa: RUF012 - never changed
        "tiny_8": lambda num_classes=3, image_size=16: TinyConfig(
            num_classes=num_classes, image_size=(image_size, image_size)
        )
    }
    module_parts = ((r"patches", "patch_embed"), (r"mix", "convolutions"), (r"head", "head"))

    def read_config(self, values):
        unknown = set(values) - {field.name for field in dataclasses.fields(TinyConfig)}
        if unknown:
            raise ConfigError(f"unknown keys {sorted(unknown)}")
        return TinyConfig(**values)

    def build(self, config):
        from torch import nn

        class TinyNet(nn.Module):
            def __init__(self):
                super().__init__()
                self.config = config
                self.patches = nn.Conv2d(config.in_channels, config.width, 4, stride=4)
                self.mix = nn.Conv2d(config.width, config.width, 3, padding=1)
                self.head = nn.Linear(config.width, config.num_classes)

            def forward(self, images):
                x = self.mix(self.patches(images).relu()).relu()  # [B, D, h, w]
                return self.head(x.mean(dim=(2, 3)))  # -> [B, K]

        return TinyNet()

    def layer_names(self, config):
        return ("patches", "mix", "head")

    def float32_modules(self, model):
        return frozenset({"head"})

    def parameter_count(self, config):
        width = config.width
        return Counter(
            patch_embed=config.in_channels * width * 16 + width,
            convolutions=width * width * 9 + width,
            head=width * config.num_classes + config.num_classes,
        )

    def multiply_adds(self, config):
        tokens = (config.image_size[0] // 4) * (config.image_size[1] // 4)
        width = config.width
        stage = Counter(
            patch_embed=tokens * config.in_channels * width * 16,
            convolutions=tokens * width * width * 9,
        )
        return {"stage 1": stage, "head": Counter(head=width * config.num_classes)}

    def fitted_preset(self, name, shapes):
        config = self.presets[name]()
        head = shapes.get("head.weight", (config.num_classes,))
        return dataclasses.replace(config, num_classes=head[0])


TINY = TinyFamily()
