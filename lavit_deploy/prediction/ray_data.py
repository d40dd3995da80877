"""Prediction with Ray Data, for what outgrows one machine.

    ds = ray.data.read_binary_files("s3://bucket/pictures", include_paths=True)
    ds = predict_dataset(ds, "/lavit_s.bundle", workers=8, cpus=4)
    ds.write_parquet("s3://bucket/predictions")

Decoding, batches and records are those of `lavit-predict`; `examples/ray_predict.py` is a whole
job.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ray.data import ActorPoolStrategy, Dataset

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.manifest import Device
from lavit_deploy.prediction.run import Options, Predictor
from lavit_deploy.prediction.sources import Item


class BundlePredictor:
    """One worker: a bundle, opened once, that predicts batches of files.

    Args:
        bundle: folder of `lavit-export`, at the same path on every node.
        threads: of the runtime.
        options: see `Options`; decoding stays in the worker's process.
    """

    def __init__(self, bundle: str, threads: int, **options: Any) -> None:  # noqa: ANN401 - Ray's
        self._predictor = Predictor(Bundle.open(Path(bundle)), Options(threads=threads, **options))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Predict some files.

        Args:
            batch: columns "path" and "bytes".

        Returns:
            Columns "picture", "status", "class", "probability" and "error"; the class is empty
            and the probability NaN where a picture could not be classified.
        """
        pairs = zip(batch["path"], batch["bytes"], strict=True)
        items = [Item(str(path), content) for path, content in pairs]
        records = [record for some in self._predictor.records(items) for record in some]
        best = [record.get("predictions", [None])[0] for record in records]
        return {
            "picture": [record["picture"] for record in records],
            "status": [record["status"] for record in records],
            "class": ["" if item is None else item["label"] for item in best],
            "probability": np.array(
                [np.nan if item is None else item["probability"] for item in best]
            ),
            "error": [record.get("error", "") for record in records],
        }


def predict_dataset(
    dataset: Dataset,
    bundle: str,
    *,
    workers: int,
    cpus: int = 1,
    device: Device = "cpu",
    gpus: float = 0.0,
    artifact: str = "auto",
    batch: int = 64,
) -> Dataset:
    """Predict every file of a data set.

    Args:
        dataset: with columns "path" and "bytes", as `ray.data.read_binary_files` with
            `include_paths=True` gives.
        bundle: folder of `lavit-export`, at the same path on every node.
        workers: processes that predict. Files are read by others: together the workers must leave
            a core of the cluster free, or nothing begins.
        cpus: cores of each, and threads of its runtime.
        device: where to compute.
        gpus: GPUs of each, or a share of one.
        artifact: by name; "auto": the fastest that is accurate enough on each worker.
        batch: files that a worker gets at a time.

    Returns:
        A data set, computed when it is read, with the columns of `BundlePredictor`.
    """
    return dataset.map_batches(
        BundlePredictor,
        fn_constructor_kwargs={
            "bundle": bundle,
            "threads": cpus,
            "artifact": artifact,
            "device": device,
        },
        batch_size=batch,
        compute=ActorPoolStrategy(size=workers),
        num_cpus=cpus,
        num_gpus=gpus,
    )
