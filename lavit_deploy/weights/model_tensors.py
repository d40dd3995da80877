"""A model's tensors, and those of a checkpoint that are to become them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from lavit_deploy.common.errors import CheckpointError
from lavit_deploy.families.catalogue import family_of
from lavit_deploy.families.family import Configuration
from lavit_deploy.weights.fitting import Fit, Shape
from lavit_deploy.weights.usable import broken, is_counter, unusable

StateDict = dict[str, Tensor]


def empty_model(config: Configuration) -> nn.Module:
    """The model of a configuration, its tensors without numbers."""
    with torch.device("meta"):
        return family_of(config).build(config)


class ModelTensors:
    """What a model's tensors must be.

    Args:
        config: of the model.
    """

    def __init__(self, config: Configuration) -> None:
        self.config = config

    @cached_property
    def expected(self) -> StateDict:
        """The model's tensors without numbers."""
        return empty_model(self.config).state_dict()

    @property
    def shapes(self) -> dict[str, Shape]:
        """Their shapes by name."""
        return {name: tuple(tensor.shape) for name, tensor in self.expected.items()}

    def completed(self, fit: Fit) -> StateDict:
        """The tensors of a fit, with the counters that the model has and no others.

        Counters, such as BatchNorm's of batches, are not read by inference: checkpoints leave them
        out, averages make them fractions, and tools add their own.
        """
        kept = {
            name: tensor
            for name, tensor in found_tensors(fit).items()
            if name in self.expected or not is_counter(name, tensor)
        }
        for name, wanted in self.expected.items():
            if is_counter(name, wanted):
                given = kept.get(name)
                if given is None or given.shape != wanted.shape or not is_counter(name, given):
                    kept[name] = torch.zeros(wanted.shape, dtype=wanted.dtype)
        return kept

    def misfits(self, found: StateDict) -> list[str]:
        """Every tensor that is missing, unexpected or misshapen, in words."""
        expected = self.expected
        missing = [
            f"missing    {key} {_shape(expected[key])}" for key in expected if key not in found
        ]
        unexpected = [
            f"unexpected {key} {_shape(found[key])}" for key in found if key not in expected
        ]
        misshapen = [
            f"misshapen  {key} {_shape(found[key])}, the model has {_shape(expected[key])}"
            for key in expected
            if key in found and found[key].shape != expected[key].shape
        ]
        return missing + unexpected + misshapen

    def of(self, fit: Fit, path: Path) -> StateDict:
        """The tensors of a checkpoint that are the model's.

        Raises:
            CheckpointError: they are no weights, do not fit, or are not finite; names all that are
                missing, unexpected, misshapen or not finite.
        """
        found = self.completed(fit)
        weights = {
            name: tensor
            for name, tensor in found.items()
            if name in self.expected and not is_counter(name, self.expected[name])
        }
        if wrong := unusable(weights):
            raise CheckpointError(f"{path}: {wrong}")
        differ = self.misfits(found)
        if differ and any(tensor.is_quantized for tensor in found.values()):
            raise CheckpointError(f"{path}: {unusable(found)}")
        if differ:
            raise CheckpointError(
                f"{path} does not fit the model ({len(differ)} tensors):\n  " + "\n  ".join(differ)
            )
        if names := broken(weights):
            raise CheckpointError(f"{path} holds NaN or infinity in {', '.join(names)}")
        return {name: found[name] for name in self.expected}


def found_tensors(fit: Fit) -> StateDict:
    """The tensors of a fit by the model's names."""
    return {name: node.tensor for name, node in fit.tensors.items() if node.tensor is not None}


def found_shapes(fit: Fit) -> dict[str, Shape]:
    """Their shapes."""
    return {name: tuple(tensor.shape) for name, tensor in found_tensors(fit).items()}


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
