"""What must be known of a task, so that bundles can be compared, opened and answered from.

Beside a task's object nothing in export, bundle or the models of the service reads outputs: a new
one is one file that subclasses `Task`, and one line in `lavit_deploy.tasks.catalogue`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel

from lavit_deploy.manifest import Manifest, Parity, Precision
from lavit_deploy.runtimes.base import Logits

Result = TypeVar("Result")


class Task(ABC, Generic[Result]):
    """What the outputs of a model mean.

    Attributes:
        name: in manifests and of model families, such as "classification".
        answer_type: schema of what is answered about one picture; JSON's and OpenAPI's.
    """

    name: ClassVar[str]
    answer_type: type[BaseModel]

    def of(self, _manifest: Manifest) -> Self:
        """The task as a bundle has it, with what was fitted to its model.

        Args:
            manifest: the bundle's.
        """
        return self

    @abstractmethod
    def check(self, output: Logits, labels: tuple[str, ...]) -> None:
        """Refuse an output that no answer can be made of.

        Args:
            output: of one picture.
            labels: the model's classes.

        Raises:
            InferenceError: another shape than the task's, or values that are not finite.
        """

    @abstractmethod
    def read(self, output: Logits, top_k: int) -> Result:
        """What one picture's output says.

        Args:
            output: of one picture, checked.
            top_k: the most entries to give, at least 1.
        """

    @abstractmethod
    def answer(self, result: Result, labels: tuple[str, ...]) -> BaseModel:
        """A result as it is answered, an `answer_type`.

        Args:
            result: what `read` gave.
            labels: the model's classes.
        """

    @abstractmethod
    def compare(
        self,
        found: Logits,
        reference: Logits,
        precision: Precision,
        *,
        source: str,
        method: str = "run",
    ) -> Parity:
        """Measure and judge the difference of two models' outputs of the same pictures.

        Args:
            found: the artifact's, one row for each picture.
            reference: the float32 PyTorch model's.
            precision: decides what is allowed.
            source: where the pictures came from.
            method: how the artifact was run.
        """

    @abstractmethod
    def tolerance(self, precision: Precision) -> float:
        """The largest difference that a precision is allowed, relative to the reference's scale.

        It is what a layer's output must leave to be named as the first that differs.
        """
