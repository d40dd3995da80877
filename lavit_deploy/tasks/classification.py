"""One label for each picture: logits [B, K], softmax over the classes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from lavit_deploy.manifest import Parity, Precision
from lavit_deploy.runtimes.base import Logits
from lavit_deploy.tasks.logits_parity import TOLERANCES, compare
from lavit_deploy.tasks.ranking import RankedClasses, check_logits, rank
from lavit_deploy.tasks.task import Task


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Prediction(_Answer):
    """One class and how likely it is."""

    label: str = Field(description="The class's name.")
    index: int = Field(description="Its position in the model's output, from 0.", ge=0)
    probability: float = Field(description="Softmax over all classes.", ge=0, le=1)


class Predictions(_Answer):
    """The classes of one picture."""

    predictions: tuple[Prediction, ...] = Field(description="Most likely first.")


class ClassificationTask(Task[RankedClasses]):
    """The most likely classes of a picture and their probabilities."""

    name: ClassVar[str] = "classification"
    answer_type = Predictions

    def check(self, output: Logits, labels: tuple[str, ...]) -> None:
        check_logits(output, len(labels))

    def read(self, output: Logits, top_k: int) -> RankedClasses:
        return rank(output, min(top_k, len(output)))

    def answer(self, result: RankedClasses, labels: tuple[str, ...]) -> Predictions:
        return Predictions(
            predictions=tuple(
                [
                    Prediction(label=labels[place], index=place, probability=probability)
                    for place, probability in result
                ]
            )
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
