"""What was found about the attention maps of a model, as a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.environment import Environment
from lavit_deploy.profiles.report.record import Record


class Statistic(Record):
    """A number of each picture.

    Attributes:
        mean: over the pictures.
        deviation: standard deviation over the pictures; 0 for one picture.
    """

    mean: float
    deviation: float


class LayerSimilarity(Record):
    """One layer's attention maps: softmax over M keys of each of N queries, H heads.

    Cosines are of a head's whole map [N, M] as one vector, the mean over heads.

    Attributes:
        stage: 1-based stage.
        layer: 1-based layer within the stage.
        less_attention: whether its scores are transformed and not computed.
        plain: cosine with the same head's map one layer before (the caption of Fig. 3); None in the
            first layer of a stage, as are the next three.
        centred: the same of what the maps have beyond the uniform one, A - 1 / M.
        scores: the same of pre-softmax scores, each row's mean removed: softmax cannot see it.
        matched: `centred`, with the heads of both layers paired so that it is largest: heads of
            neighbouring layers need not correspond.
        entropy: mean entropy of the rows over log M: 1 for uniform maps, 0 for a single entry.
        largest: mean of the rows' largest entries.
        pictures: plain cosine with the same layer's map of another picture: 1 where the map does
            not depend on the picture; None for one picture.
    """

    stage: int
    layer: int
    less_attention: bool
    plain: Statistic | None
    centred: Statistic | None
    scores: Statistic | None
    matched: Statistic | None
    entropy: Statistic
    largest: Statistic
    pictures: Statistic | None

    @property
    def name(self) -> str:
        """As tables and plots call it."""
        return f"{self.stage}.{self.layer}"


class ModelSimilarity(Record):
    """A model and its control.

    Attributes:
        label: as it was given.
        trained: its layers, with its weights.
        untrained: the same layers of the same sizes with new random weights: what a number means
            without any training.
    """

    label: str
    trained: tuple[LayerSimilarity, ...]
    untrained: tuple[LayerSimilarity, ...]


class SimilarityReport(Record):
    """One run of `lavit-profile --similarity`.

    Attributes:
        project_version: version of lavit-deploy.
        created: ISO 8601, UTC.
        command: the command line.
        environment: the machine and the libraries.
        data: where the pictures came from.
        pictures: how many were used.
        models: what was found.
    """

    project_version: str
    created: str
    command: tuple[str, ...]
    environment: Environment
    data: str
    pictures: int
    models: tuple[ModelSimilarity, ...]

    def write_json(self, path: Path) -> None:
        """Everything, as JSON."""
        write_text(path, json.dumps(self.model_dump(mode="json"), indent=2) + "\n")

    def write_csv(self, path: Path) -> None:
        """A row for each layer, trained and untrained."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(next(self._rows())), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows())
        write_text(path, text.getvalue())

    def _rows(self) -> Iterator[dict[str, object]]:
        for model in self.models:
            for weights in ("trained", "untrained"):
                layers: tuple[LayerSimilarity, ...] = getattr(model, weights)
                for one in layers:
                    row: dict[str, object] = {"model": model.label, "weights": weights}
                    for name in LayerSimilarity.model_fields:
                        value = getattr(one, name)
                        if name in _MEASURES:
                            row[name] = None if value is None else value.mean
                            row[f"{name}_deviation"] = None if value is None else value.deviation
                        else:
                            row[name] = value
                    yield row


MEASURES = {
    "plain": "cosine with the layer before",
    "centred": "the same, uniform part removed",
    "scores": "cosine of scores",
    "matched": "centred, heads matched",
    "entropy": "entropy / log M",
    "largest": "largest entry",
    "pictures": "cosine across pictures",
}
"""What is measured of every layer, and what it is called for people."""

_MEASURES = frozenset(MEASURES)
