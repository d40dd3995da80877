"""Stages of requests, whatever becomes of them."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lavit_deploy.serving.telemetry.timeline import Timeline

ROOT = Path(__file__).parents[3]

TIMING = re.compile(r"(?:(?:read|decode|queue|infer);dur=[\d.e-]+, )*total;dur=[\d.e-]+")


def test_a_stage_that_fails_is_kept():
    stages = Timeline().picture()
    with pytest.raises(ZeroDivisionError), stages.stage("decode"):
        raise ZeroDivisionError
    assert [span.name for span in stages.spans] == ["decode"]
    assert stages.spans[0].seconds > 0


def test_a_stage_says_what_it_was_made_of_one_after_the_other():
    stages = Timeline().picture()
    with stages.stage("queue") as stage:
        stage.was("queue", 2.0)
        stage.was("infer", 3.0, batch=4)
    queue, infer = stages.spans
    assert infer.started == queue.started + 2.0
    assert (queue.batch, infer.batch) == (None, 4)
    assert stages.total == 5.0


def test_of_several_pictures_the_slowest_is_shown_with_what_all_share():
    timeline = Timeline()
    for name, seconds in (("decode", 0.001), ("queue", 0.5), ("queue", 0.25)):
        with timeline.picture().stage(name) as stage:
            stage.was(name, seconds)
    with timeline.shared.stage("read") as stage:
        stage.was("read", 0.125)
    shown = timeline.milliseconds()
    assert list(shown) == ["read", "queue", "total"]
    assert (shown["read"], shown["queue"]) == (125.0, 500.0)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/healthz", None),
        ("GET", "/metrics", None),
        ("GET", "/", None),
        ("GET", "/nowhere", None),
        ("DELETE", "/classify", None),
        ("POST", "/classify", b""),
        ("POST", "/classify", b"rubbish"),
        ("POST", "/classify?top_k=0", b"x"),
    ],
)
def test_every_answer_has_server_timing(client, method, path, body):
    response = client.request(
        method, path, content=body, headers={"Content-Type": "image/png"} if body else {}
    )
    assert TIMING.fullmatch(response.headers["server-timing"])


def test_a_refused_key_has_server_timing_too(make_client, runtime, monkeypatch):
    monkeypatch.setenv("LAVIT_API_KEYS", "k" * 20)
    response = make_client(runtime).get("/models")
    assert response.status_code == 401
    assert TIMING.fullmatch(response.headers["server-timing"])


def test_the_log_has_the_same_stages_as_the_header(client, picture, caplog):
    caplog.set_level(logging.INFO, logger="serving")
    response = client.post("/classify", content=picture(), headers={"Content-Type": "image/png"})
    (record,) = [item for item in caplog.records if item.name == "serving.requests"]
    told = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert list(told) == ["read", "decode", "queue", "infer", "total"]
    for name in ("read", "decode", "queue", "infer"):
        assert getattr(record, f"{name}_ms") == pytest.approx(float(told[name]), rel=1e-4)
    assert (record.method, record.route, record.status) == ("POST", "/classify", 200)
    assert record.total_ms >= float(told["total"]) * (1 - 1e-4)  # the header has six digits


PROCESS = """
import logging, threading, warnings
from lavit_deploy.serving.telemetry import logs
from lavit_deploy.serving.telemetry.timeline import Timeline

logs.configure("json")
warnings.warn("odd\\nfile")
logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
thread = threading.Thread(target=lambda: 1 / 0, name="runtime")
thread.start()
thread.join()
_, token = Timeline.begin("r1")
logging.getLogger("serving.anything").info("inside")
Timeline.end(token)
logging.getLogger("serving.anything").info("outside")
"""


def test_all_that_a_process_says_is_json_with_the_request_it_came_of():
    done = subprocess.run(
        [sys.executable, "-c", PROCESS], cwd=ROOT, check=True, capture_output=True, text=True
    )
    odd, invalid, thread, inside, outside = map(json.loads, done.stderr.splitlines())
    assert (odd["level"], odd["logger"]) == ("warning", "py.warnings")
    assert "odd\nfile" in odd["message"]
    assert (invalid["level"], invalid["logger"]) == ("warning", "uvicorn.error")
    assert thread["level"] == "critical"
    assert "runtime" in thread["message"]
    assert "ZeroDivisionError" in thread["traceback"]
    assert inside["request_id"] == "r1"
    assert "request_id" not in outside
