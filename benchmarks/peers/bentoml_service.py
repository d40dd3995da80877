"""BentoML, with its adaptive batching: bentoml serve bentoml_service:Classify --port 8000."""

# No `from __future__ import annotations`: BentoML reads the annotations.

from pathlib import Path

import bentoml
from model import MAX_BATCH, Answer, Model


@bentoml.service(workers=1, traffic={"timeout": 30, "max_concurrency": 512})
class Classify:
    """A batch of files, decoded and classified together."""

    def __init__(self) -> None:
        self._model = Model()

    @bentoml.api(route="/classify", batchable=True, max_batch_size=MAX_BATCH)
    def classify(self, file: list[Path]) -> list[Answer]:
        """Classify some pictures."""
        logits = self._model.infer([self._model.decode(path.read_bytes()) for path in file])
        return [self._model.answer(row) for row in logits]
