"""What must be known of a model family, so that checkpoints, exports and bundles can hold it.

Beside a family's object nothing in this project names its classes: a new one is one file that
subclasses `ModelFamily`, and one line in `lavit_deploy.families.catalogue`. No module here imports
a framework before a model is built.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from lavit_deploy.common.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from lavit_deploy.folding.fold import Folding
    from lavit_deploy.preprocess import Preprocess

CUSTOM = "custom"
"""Name of a configuration that no preset has."""


@runtime_checkable
class Configuration(Protocol):
    """A model's sizes: hashable, comparable, and plain data at heart."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Input height and width, pixels."""

    @property
    def in_channels(self) -> int:
        """Input channels."""

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier, K."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, as checkpoints and manifests store them."""


Config = TypeVar("Config", bound=Configuration)


class ModelFamily(ABC, Generic[Config]):
    """Models that differ in their sizes alone.

    Attributes:
        name: in checkpoints and manifests, such as "lavit".
        task: what the outputs mean, by its name in `lavit_deploy.tasks`.
        config_type: type of the configurations, a dataclass; no other family has it.
        presets: names of well-known sizes; a name is in no other family. Each function takes
            `num_classes` and `image_size`, the side of a square picture in pixels.
        module_parts: which part of `multiply_adds` a module's work belongs to: a regular expression
            of how the module's path begins, with a group "stage" for the 0-based stage where there
            are several, and the part; the first that matches counts.
        free_fields: what of a configuration may be any while it is still the preset's.
    """

    name: ClassVar[str]
    task: ClassVar[str] = "classification"
    config_type: type[Config]
    presets: Mapping[str, Callable[..., Config]]
    module_parts: Sequence[tuple[str, str]] = ()
    free_fields: frozenset[str] = frozenset({"image_size", "num_classes"})

    @abstractmethod
    def read_config(self, values: dict[str, Any]) -> Config:
        """Read what `to_dict` of a configuration wrote.

        Raises:
            ConfigError: a key is unknown or missing, or a value breaks a rule.
        """

    @abstractmethod
    def build(self, config: Config) -> nn.Module:
        """The network with random weights.

        It keeps its configuration as the attribute `config`, and takes normalised pictures, float32
        [B, C, H, W]; what it gives is its task's, for classification logits [B, K].
        """

    @abstractmethod
    def layer_names(self, config: Config) -> tuple[str, ...]:
        """Modules of `build`'s network whose outputs are compared, in the order of computation.

        They are also the parts that int8 is decided for, one by one. A module that gives several
        values gives the one that matters first.
        """

    @abstractmethod
    def float32_modules(self, model: nn.Module) -> frozenset[str]:
        """Modules that stay in float32 where the others compute in half precision.

        Args:
            model: from `build`, or folded. The last layer must be among them: outputs are float32.
        """

    @abstractmethod
    def parameter_count(self, config: Config) -> Counter[str]:
        """Trainable parameters by part, in closed form; their sum is the model's."""

    @abstractmethod
    def multiply_adds(self, config: Config) -> Mapping[str, Counter[str]]:
        """Multiply-adds of one picture by stage and part, in closed form.

        One multiply and one add are one operation; convolutions and matrix products count.

        Returns:
            Counts by part, under "stage 1", "stage 2" ... and "head".
        """

    def fold(self, model: nn.Module, preprocess: Preprocess) -> Folding[nn.Module] | None:
        """An equal model that is cheaper to run, and that takes pixels; None if there is none.

        Args:
            model: trained, of this family; it is not changed.
            preprocess: mean and standard deviation of its training.

        Raises:
            ExportError: a rewrite did not keep its contract.
        """
        del model, preprocess
        return None

    def takes_pixels(self, model: nn.Module) -> bool:
        """Whether a model takes uint8 pictures [B, H, W, C], as folded ones do."""
        del model
        return False

    def stays_float(self, scope: str) -> bool:
        """Whether products of a module stay in float when others become int8.

        Args:
            scope: path of the module within the network or its folded form.
        """
        del scope
        return False

    def describes(self, values: Mapping[str, Any]) -> bool:
        """Whether a dictionary is meant as a configuration of this family.

        Checkpoints hold other things under `config` too, such as that of a training. Here: it has a
        key that every configuration must have, or, where none must be, one that it may have.
        """
        required = {name for name, optional in self._fields().items() if not optional}
        return not (required or set(self.config_keys())).isdisjoint(values)

    def config_keys(self) -> frozenset[str]:
        """The keys that a configuration may have."""
        return frozenset(self._fields())

    def _fields(self) -> dict[str, bool]:
        """Fields of the configurations, which are dataclasses, and whether each has a default."""
        missing = dataclasses.MISSING
        return {
            field.name: field.default is not missing or field.default_factory is not missing
            for field in dataclasses.fields(self.config_type)  # type: ignore[arg-type] # see above
        }

    def fitted_preset(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Config:
        """A preset with what a checkpoint's tensors show, such as the number of classes.

        Args:
            name: of the preset.
            shapes: shape of every tensor by its name.
        """
        del shapes
        return self.presets[name]()

    def equal_sizes(
        self, config: Config, shapes: Mapping[str, tuple[int, ...]]
    ) -> tuple[tuple[int, int], ...]:
        """Heights and widths of pictures at which a checkpoint's tensors have the same shapes.

        Args:
            config: fits the tensors.
            shapes: shape of every tensor by its name.

        Returns:
            Those that are plausible, and that of `config` where the shapes depend on it; none
            where they do not, and every size will do.
        """
        del config, shapes
        return ()

    def preset_name(self, config: Config) -> str:
        """The preset that a configuration is, whatever its `free_fields`; else "custom"."""
        layout = self._layout(config)
        names = (name for name, make in self.presets.items() if self._layout(make()) == layout)
        return next(names, CUSTOM)

    def _layout(self, config: Config) -> dict[str, Any]:
        """What of a configuration makes it a preset.

        A preset at the configuration's size is not asked for: there may be none.
        """
        values = config.to_dict()
        return {key: value for key, value in values.items() if key not in self.free_fields}

    def resized(self, config: Config, image_size: tuple[int, int]) -> Config:
        """The same model for pictures of another height and width, in pixels.

        Raises:
            ConfigError: it does not exist at that size.
        """
        return self.read_config({**config.to_dict(), "image_size": list(image_size)})

    def preset(self, name: str, **sizes: int) -> Config:
        """The preset of a name.

        Raises:
            ConfigError: no such preset; lists those there are.
        """
        if name not in self.presets:
            raise ConfigError(f"no preset {name!r}; there are {', '.join(self.presets)}")
        return self.presets[name](**sizes)
