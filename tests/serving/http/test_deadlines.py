"""A request that would be late is refused at once, and one that is late gets no answer but 504."""

import threading
import time

import pytest

from lavit_deploy.serving.http.deadlines import HEADER, LONGEST_MS

HOUR = {HEADER: str(LONGEST_MS)}


def slow_runtime(runtime, seconds):
    """Makes every call of the runtime last."""
    infer = runtime._infer

    def slowly(images):
        time.sleep(seconds)
        return infer(images)

    runtime._infer = slowly
    return runtime


@pytest.fixture
def busy(runtime, make_client, picture):
    """A service whose batches took 0.2 s at the warm-up, and whose model now holds one picture."""
    client = make_client(slow_runtime(runtime, 0.2), max_batch=1)
    while runtime.entered.acquire(blocking=False):  # those of the warm-up
        pass
    runtime.held = True
    first = threading.Thread(target=client.post, args=("/classify",), kwargs=body(picture))
    first.start()
    assert runtime.entered.acquire(timeout=30)
    yield client
    runtime.held = False
    runtime.let_go()
    first.join()


def body(picture, headers=None):
    return {"content": picture(), "headers": {"Content-Type": "image/png", **(headers or {})}}


def test_a_wait_longer_than_the_deadline_is_refused_at_once(busy, picture):
    answer = busy.post("/classify", **body(picture, {HEADER: "100"}))
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:lavit:problem:predicted-wait"
    assert "longer than the deadline leaves" in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) >= 1


def test_the_same_holds_for_the_inference_protocol(busy, picture):
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 64, 64, 3]}
    call = {"inputs": [{**tensor, "data": [0] * (64 * 64 * 3)}]}
    answer = busy.post("/v2/models/colours/infer", json=call, headers={HEADER: "100"})
    assert answer.status_code == 503


def test_a_deadline_that_passes_is_answered_with_504(busy, picture):
    # Predicted are 0.4 s for two pictures; the first one is held, so the deadline must pass.
    answer = busy.post("/classify", **body(picture, {HEADER: "1000"}))
    assert answer.status_code == 504
    assert answer.json()["type"] == "urn:lavit:problem:deadline"
    assert busy.classifier._batcher.depth == 0  # it was dropped from the queue


def test_the_server_has_a_limit_for_requests_without_one(runtime, make_client, picture):
    client = make_client(slow_runtime(runtime, 0.3), request_seconds=0.1)
    answer = client.post("/classify", **body(picture))
    assert answer.status_code == 503
    assert client.post("/classify", **body(picture, HOUR)).status_code == 200


def test_a_deadline_that_holds_changes_nothing(client, picture):
    assert client.post("/classify", **body(picture, HOUR)).status_code == 200


@pytest.mark.parametrize("given", ["0", "-5", "1.5", "soon", "", "99999999", "1e3", "٣"])
def test_a_deadline_that_is_no_number_of_milliseconds_is_refused(client, picture, given):
    answer = client.post("/classify", **body(picture, {HEADER: given.encode()}))
    assert answer.status_code == 422
    assert HEADER in answer.json()["detail"]


def test_the_predicted_wait_is_among_the_metrics(busy):
    lines = busy.get("/metrics").text.splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith("lavit_predicted_wait"))
    assert 0.4 <= float(value) < 5  # one picture that runs and one more, 0.2 s each, or more
