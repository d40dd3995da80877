"""A second task, as somebody else's package would add it: how much of each colour is in a picture.

Its family is the tiny one's network with another meaning of the outputs.
"""

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from lavit_deploy.common.errors import InferenceError
from lavit_deploy.manifest import Parity
from lavit_deploy.tasks.task import Task
from tiny_family import TinyConfig, TinyFamily


class Amounts(BaseModel):
    """Of one picture."""

    amounts: dict[str, float]


class AmountsTask(Task[list[float]]):
    """An amount for each label; nothing is most likely."""

    name = "amounts"
    answer_type = Amounts

    def check(self, output, labels):
        if output.shape != (len(labels),):
            raise InferenceError(f"expected {len(labels)} amounts, found {output.shape}")

    def read(self, output, top_k):
        return output[:top_k].tolist()

    def answer(self, result, labels):
        return Amounts(amounts=dict(zip(labels, result, strict=False)))

    def compare(self, found, reference, precision, *, source, method="run"):
        difference = np.abs(found - reference)
        return Parity(
            method=method,
            images=len(reference),
            source=source,
            max_difference=float(difference.max()),
            mean_difference=float(difference.mean()),
            cosine=1.0,
            top1_agreement=1.0,
            passed=bool(difference.max() < self.tolerance(precision)),
            reason="judged by amounts",
        )

    def tolerance(self, precision):
        return 1e-3 if precision == "fp32" else 1.0


@dataclass(frozen=True, kw_only=True)
class AmountsConfig(TinyConfig):
    """As the tiny one's."""


class AmountsFamily(TinyFamily):
    """The tiny network, its outputs amounts."""

    name = "tiny_amounts"
    task = "amounts"
    config_type = AmountsConfig
    presets = {  # noqa: RUF012 - never changed
        "amounts_8": lambda num_classes=3, image_size=16: AmountsConfig(
            num_classes=num_classes, image_size=(image_size, image_size)
        )
    }

    def read_config(self, values):
        return AmountsConfig(**values)


AMOUNTS = AmountsTask()
FAMILY = AmountsFamily()
