"""Ray Serve, with its batching: python ray_serve_app.py PORT REPLICAS."""

from __future__ import annotations

import asyncio
import signal
import sys

from model import MAX_BATCH, MAX_WAIT_SECONDS, Answer, Model
from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=512, ray_actor_options={"num_cpus": 0.5})
class Classify:
    """Batches of files, decoded and classified in a thread: the replica stays responsive."""

    def __init__(self) -> None:
        self._model = Model()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=MAX_WAIT_SECONDS)
    async def classify(self, files: list[bytes]) -> list[Answer]:
        """Classify some pictures."""
        return await asyncio.to_thread(self._classify, files)

    def _classify(self, files: list[bytes]) -> list[Answer]:
        logits = self._model.infer([self._model.decode(data) for data in files])
        return [self._model.answer(row) for row in logits]

    async def __call__(self, request: Request) -> Answer:
        """One request."""
        form = await request.form()
        return await self.classify(await form["file"].read())


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Classify.options(num_replicas=int(sys.argv[2])).bind(), route_prefix="/classify")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
