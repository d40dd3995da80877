"""How long an answer will take: batches ahead by their measured times, and what comes on top."""

from __future__ import annotations

from lavit_deploy.serving.batching.batch_time import BatchTimeModel
from lavit_deploy.serving.batching.lateness import LatenessQuantile


class WaitPredictor:
    """Predicts waits, and learns from every batch and every answer.

    Args:
        max_batch: pictures in a full batch.

    Attributes:
        batches: how long batches take.
    """

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self.batches = BatchTimeModel()
        self._lateness = LatenessQuantile()

    def batches_ahead(self, count: int, *, accepted: int, instances: int) -> float:
        """Seconds of the batches that some more pictures would wait for, theirs included.

        Args:
            count: how many more.
            accepted: how many there are already.
            instances: of the runtime, that take batches.
        """
        return self.batches.seconds(
            accepted + count, self._max_batch, idle=not accepted, instances=max(1, instances)
        )

    def until_answer(self, batches_ahead: float, *, accepted: int) -> float:
        """Seconds until the answer, with what answers lately took longer than their batches."""
        return max(0.0, batches_ahead + self._lateness.seconds) if accepted else batches_ahead

    def of_one_batch(self, size: int) -> float:
        """Seconds of a batch that begins now, on a machine that does nothing else."""
        return self.batches.seconds(size, self._max_batch, idle=True)

    def answered(self, seconds: float, *, predicted: float) -> None:
        """Learn from an answer, also from one that came too late to be sent.

        Args:
            seconds: from its admission.
            predicted: `batches_ahead` then.
        """
        self._lateness.observe(seconds, predicted=predicted)
