"""A plain FastAPI handler: one picture, one call of the runtime, in FastAPI's pool of threads.

uvicorn plain_fastapi:app --port 8000
"""

# No `from __future__ import annotations`: FastAPI reads the annotations.

from threading import Lock
from typing import Annotated

from fastapi import FastAPI, File
from model import Answer, Model

app = FastAPI()
model = Model()
lock = Lock()  # a runtime is for one thread at a time


@app.post("/classify")
def classify(file: Annotated[bytes, File()]) -> Answer:
    """`def`, not `async def`: FastAPI then runs it in a thread, as it recommends for such work."""
    pixels = model.decode(file)
    with lock:
        (logits,) = model.infer([pixels])
    return model.answer(logits)
