"""One label for each picture: logits [B, K], softmax over the classes."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from lavit_deploy.manifest import Confidence, Manifest, Parity, Precision
from lavit_deploy.runtimes.base import Logits
from lavit_deploy.tasks.confidence import log_sum_exp
from lavit_deploy.tasks.logits_parity import TOLERANCES, compare
from lavit_deploy.tasks.ranking import RankedClasses, check_logits, rank
from lavit_deploy.tasks.task import Task


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Prediction(_Answer):
    """One class and how likely it is."""

    label: str = Field(description="The class's name.")
    index: int = Field(description="Its position in the model's output, from 0.", ge=0)
    probability: float = Field(
        description="Softmax over all classes, calibrated where the model is.", ge=0, le=1
    )


class Predictions(_Answer):
    """The classes of one picture."""

    predictions: tuple[Prediction, ...] = Field(description="Most likely first.")
    unknown: bool | None = Field(
        default=None,
        description="Whether the picture is unlike those that the model knows; null where the "
        "model has no threshold for it.",
    )


class Ranking(NamedTuple):
    """What the logits of one picture say.

    Attributes:
        classes: class and probability, most likely first.
        unknown: whether the picture is unlike known ones; None where no threshold was fitted.
    """

    classes: RankedClasses
    unknown: bool | None = None


class ClassificationTask(Task[Ranking]):
    """The most likely classes of a picture and their probabilities.

    Args:
        confidence: what makes probabilities of the model's logits; None for the plain softmax.
    """

    name: ClassVar[str] = "classification"
    answer_type = Predictions

    def __init__(self, confidence: Confidence | None = None) -> None:
        self._temperature = 1.0 if confidence is None else confidence.temperature
        self._unknown_below = None if confidence is None else confidence.unknown_below

    def of(self, manifest: Manifest) -> Self:
        return type(self)(manifest.confidence)

    def check(self, output: Logits, labels: tuple[str, ...]) -> None:
        check_logits(output, len(labels))

    def read(self, output: Logits, top_k: int) -> Ranking:
        classes = rank(output, min(top_k, len(output)), self._temperature)
        if self._unknown_below is None:
            return Ranking(classes)
        return Ranking(classes, unknown=bool(log_sum_exp(output) < self._unknown_below))

    def answer(self, result: Ranking, labels: tuple[str, ...]) -> Predictions:
        return Predictions(
            unknown=result.unknown,
            predictions=tuple(
                [
                    Prediction(label=labels[place], index=place, probability=probability)
                    for place, probability in result.classes
                ]
            ),
        )

    def compare(
        self,
        found: Logits,
        reference: Logits,
        precision: Precision,
        *,
        source: str,
        method: str = "run",
    ) -> Parity:
        return compare(found, reference, precision, source=source, method=method)

    def tolerance(self, precision: Precision) -> float:
        return TOLERANCES[precision].relative


CLASSIFICATION = ClassificationTask()
