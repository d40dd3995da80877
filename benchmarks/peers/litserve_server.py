"""LitServe, with its dynamic batching: python litserve_server.py PORT WORKERS."""

# No `from __future__ import annotations`: LitServe reads the annotations.

import sys
from collections.abc import Sequence

import litserve
import numpy as np
import numpy.typing as npt
from fastapi import Request
from model import MAX_BATCH, MAX_WAIT_SECONDS, Answer, Model

from lavit_deploy.preprocess import Pixels


class ClassifyAPI(litserve.LitAPI):
    """Decoding, a batch in the runtime, one answer each."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """Called in each worker."""
        self._model = Model()

    def decode_request(self, request: Request) -> Pixels:
        """One picture; LitServe gives a form, whatever it has to be annotated with."""
        return self._model.decode(request["file"].file.read())

    def batch(self, inputs: Sequence[Pixels]) -> list[Pixels]:
        """Pictures stay a list: the model stacks them."""
        return list(inputs)

    def predict(self, x: list[Pixels]) -> npt.NDArray[np.float32]:
        """Logits [B, K]."""
        return self._model.infer(x)

    def unbatch(self, output: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """Logits [K] of each."""
        return list(output)

    def encode_response(self, output: npt.NDArray[np.float32]) -> Answer:
        """One answer."""
        return self._model.answer(output)


if __name__ == "__main__":
    api = ClassifyAPI(
        max_batch_size=MAX_BATCH, batch_timeout=MAX_WAIT_SECONDS, api_path="/classify"
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(sys.argv[2]))
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        generate_client_file=False,
        log_level="warning",
    )
