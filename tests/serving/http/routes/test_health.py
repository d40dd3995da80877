"""Alive, ready, and what is counted."""

import asyncio
import threading
import time

import httpx

from lavit_deploy.serving.http.app import create_app
from served_metrics import samples, value

MODEL = {"model": "colours", "version": "1"}


def classify(client, data, **headers):
    return client.post("/classify", content=data, headers={"Content-Type": "image/png", **headers})


def test_live_and_ready_when_warm(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}


def test_live_but_not_ready_before_the_warm_up_has_ended(make_registry, runtime, picture):
    runtime.held = True

    async def main():
        registry, settings, metrics = make_registry(runtime)
        app = create_app(registry, settings, metrics)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        ):
            assert (await client.get("/healthz")).status_code == 200
            unready = await client.get("/readyz")
            early = await client.post(
                "/classify", content=picture(), headers={"Content-Type": "image/png"}
            )
            for response in (unready, early):
                assert response.status_code == 503
                assert "warming up" in response.json()["detail"]
                assert int(response.headers["retry-after"]) >= 1
            runtime.let_go(4)  # the smallest and the largest batch, twice each
            await registry.until_ready()
            assert (await client.get("/readyz")).status_code == 200
        assert runtime.closed

    asyncio.run(main())


def test_not_ready_while_stopping_although_pictures_are_still_taken(client, picture):
    client.registry.stop_soon()
    response = client.get("/readyz")
    assert response.status_code == 503
    assert "stopping" in response.json()["detail"]
    assert client.get("/healthz").status_code == 200
    assert classify(client, picture()).status_code == 200


def test_not_ready_when_the_runtime_keeps_failing_and_ready_when_it_is_open_again(
    make_client, runtime, picture
):
    allowed = threading.Event()

    def reopen():
        assert allowed.wait(30)
        runtime.failure = None
        return runtime

    client = make_client(runtime, reopen=reopen)
    runtime.failure = RuntimeError("device lost")
    for _ in range(3):
        assert classify(client, picture()).status_code == 500
    unready = client.get("/readyz")
    assert unready.status_code == 503
    assert "the model is opened again" in unready.json()["detail"]
    assert classify(client, picture()).status_code == 503
    assert value(client, "lavit_ready") == 0
    assert value(client, "lavit_runtime_instances", **MODEL) == 0
    allowed.set()
    while client.get("/readyz").status_code != 200:
        time.sleep(0.01)
    assert classify(client, picture()).status_code == 200
    assert value(client, "lavit_runtime_restarts_total", **MODEL, outcome="ok") == 1
    assert value(client, "lavit_runtime_instances", **MODEL) == 1


def test_metrics_count_requests_batches_times_and_errors(client, picture):
    classify(client, picture())
    client.post("/classify", files=[("f", ("a", picture())), ("f", ("b", b"bad"))])
    classify(client, b"bad")
    client.get("/nowhere")
    client.request("BREW", "/classify")
    route = {"route": "/classify", "method": "POST"}
    assert value(client, "lavit_requests_total", **route, status="200", reason="") == 2
    unsupported = {**route, "status": "415", "reason": "unsupported-image"}
    assert value(client, "lavit_requests_total", **unsupported) == 1
    assert value(client, "lavit_errors_total", reason="unsupported-image") == 2
    assert value(client, "lavit_errors_total", reason="not-found") == 1
    assert value(client, "lavit_batch_size_sum", **MODEL) == 2
    assert value(client, "lavit_infer_seconds_count", **MODEL) == value(
        client, "lavit_batch_size_count", **MODEL
    )
    assert value(client, "lavit_decode_seconds_count", **MODEL) == 2
    assert value(client, "lavit_queue_seconds_count", **MODEL) == 2
    assert value(client, "lavit_queue_depth", **MODEL) == 0
    assert value(client, "lavit_pictures_pending", **MODEL) == 0
    assert value(client, "lavit_requests_in_flight") == 1  # the scrape itself
    assert value(client, "lavit_ready") == 1
    assert (
        value(
            client,
            "lavit_model_info",
            **MODEL,
            artifact="onnx-fp32",
            checkpoint="0123456789ab",
            runtime="onnxruntime",
        )
        == 1
    )


def test_what_alerts_ask_for_is_there_before_it_happens(make_client, runtime):
    there = samples(make_client(runtime, queue=77))
    for reason in ("deadline", "inference", "not-ready", "overloaded", "predicted-wait"):
        assert there["lavit_errors_total", (("reason", reason),)] == 0
    for outcome in ("ok", "failed"):
        labels = tuple(sorted({**MODEL, "outcome": outcome}.items()))
        assert there["lavit_runtime_restarts_total", labels] == 0
    assert there["lavit_queue_capacity", ()] == 77
    assert there["process_start_time_seconds", ()] > 0
