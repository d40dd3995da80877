"""The real `lavit-serve` process: start, refuse to start, drain."""

import hashlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from lavit_deploy.bundle.bundle import Bundle

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PATIENCE = 30.0

BLOCKED = """\
import importlib.abc
import sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxscript", "rich", "safetensors"}:
            raise ImportError(f"{name} is not part of the serve extra")

sys.meta_path.insert(0, Blocked())
from lavit_deploy.serving.cli import entry
entry()
"""

SLOW = """\
import sys
import time
from lavit_deploy.runtimes.onnxruntime import OnnxRuntime

infer = OnnxRuntime._infer

def slow(self, images):
    if images.any():  # the warm-up is black
        print('{"message": "entered"}', file=sys.stderr, flush=True)
        sys.stdin.readline()
    return infer(self, images)

OnnxRuntime._infer = slow
from lavit_deploy.serving.cli import entry
entry()
"""


def refused(bundle, *options):
    """Run `lavit-serve` where it must refuse: (exit code, its one line)."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from lavit_deploy.serving.cli import entry; entry()",
            str(bundle),
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        check=False,
    )
    (line,) = done.stderr.splitlines()
    return done.returncode, line


def test_a_picture_is_classified_with_only_the_serve_extra(serve, bundle_path, picture, post):
    server = serve(bundle_path, code=BLOCKED)
    status, answer = post(f"{server.url}/classify?top_k=1", picture((0, 255, 0)))
    assert status == 200
    assert answer["results"][0]["predictions"][0]["label"] == "green"
    assert post(f"{server.url}/classify", b"rubbish")[0] == 415
    for path in ("/", "/docs", "/metrics", "/healthz", "/readyz", "/openapi.json"):
        with urllib.request.urlopen(server.url + path, timeout=PATIENCE) as response:  # noqa: S310 - always http
            assert response.status == 200
    assert server.stop() == 0


def test_the_start_says_what_is_served_and_why(serve, bundle_path):
    server = serve(bundle_path, "--max-batch", "2")
    server.stop()
    told = server.start
    assert told["serving"] == server.url
    assert told["model"] == "colours (custom, 3 classes), checkpoint 0123456789ab"
    assert told["artifact"].startswith("onnx-fp32 on cpu: the only one that can run here")
    assert told["batches"].startswith("at most 2,")
    assert told["limits"].startswith("32 MiB and 32 pictures")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_was_asked_for_ends_with_0(serve, bundle_path, number):
    assert serve(bundle_path).stop(number) == 0


def send(server, data):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request("POST", "/classify", data, {"Content-Type": "image/png"})
    return connection


def test_sigterm_answers_what_was_accepted_and_takes_no_more(serve, bundle_path, picture):
    server = serve(bundle_path, code=SLOW)
    connection = send(server, picture((0, 0, 255)))
    server.expect("entered")
    server.process.send_signal(signal.SIGTERM)
    wait_until_closed(server.port)
    assert server.process.poll() is None  # it waits for the picture
    server.tell()
    answer = json.load(connection.getresponse())
    assert answer["results"][0]["predictions"][0]["label"] == "blue"
    assert server.process.wait(PATIENCE) == 0


def test_a_runtime_that_hangs_is_abandoned_after_the_limit_with_an_answer(
    serve, bundle_path, picture
):
    server = serve(bundle_path, "--drain-seconds", "1", code=SLOW)
    connection = send(server, picture())
    server.expect("entered")
    server.process.send_signal(signal.SIGTERM)
    response = connection.getresponse()
    assert response.status == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert server.process.wait(PATIENCE) == 1
    assert "Traceback" not in server.rest()


def begin_upload(port):
    """A client whose body does not come."""
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    client.sendall(
        b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        b"Content-Length: 3000000\r\n\r\nabc"
    )
    return client


@pytest.mark.parametrize("options", [(), ("--workers", "2", "--threads", "2")])
def test_uploads_that_do_not_end_are_abandoned_with_an_answer_and_exit_code_1(
    serve, bundle_path, options
):
    server = serve(bundle_path, "--drain-seconds", "1", *options)
    clients = [begin_upload(server.port) for _ in range(6)]
    resting = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    server.process.send_signal(signal.SIGTERM)
    assert resting.recv(1) == b""
    for client in clients:
        assert client.recv(12) == b"HTTP/1.1 503"
        client.sendall(b"x" * 1_000_000)  # nobody was reset
        client.close()
    assert server.process.wait(PATIENCE) == 1
    said = server.rest()
    assert "Traceback" not in said
    assert "Exception" not in said
    resting.close()


def test_an_upload_that_ends_in_time_is_answered_and_the_exit_code_is_0(
    serve, bundle_path, picture
):
    server = serve(bundle_path)
    body = picture()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(
            b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        while b"lavit_requests_in_flight 2.0" not in metrics_of(server):
            pass
        server.process.send_signal(signal.SIGTERM)
        wait_until_closed(server.port)
        client.sendall(body)
        assert client.recv(12) == b"HTTP/1.1 200"
    assert server.process.wait(PATIENCE) == 0


def metrics_of(server):
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=PATIENCE) as response:  # noqa: S310 - always http
        return response.read()


def test_a_second_ctrl_c_abandons_at_once(serve, bundle_path, picture):
    server = serve(bundle_path, code=SLOW)
    connection = send(server, picture())
    server.expect("entered")
    server.process.send_signal(signal.SIGINT)
    wait_until_closed(server.port)
    server.process.send_signal(signal.SIGINT)
    assert connection.getresponse().status == 503
    assert server.process.wait(PATIENCE) == 1
    assert "Traceback" not in server.rest()


def wait_until_closed(port):
    """Return once nobody listens on the port; gives up after `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue  # it was in the backlog while the socket was closed
    raise AssertionError("it still listens")


def test_several_bundles_are_served_under_names_and_versions(serve, write_bundle, picture, post):
    first, second = write_bundle(folder="a"), write_bundle(folder="b", checkpoint="fedcba987654")
    server = serve(first, "--model", f"paints:3={second}")
    assert server.start["model 2"] == (
        "paints version 3: colours (custom, 3 classes), checkpoint fedcba987654"
    )
    status, answer = post(f"{server.url}/classify?model=paints&version=3", picture())
    assert (status, answer["model"]["checkpoint"]) == (200, "fedcba987654")
    assert post(f"{server.url}/classify", picture())[1]["model"]["name"] == "colours"
    assert server.stop() == 0


def test_a_model_is_opened_as_often_as_asked(serve, bundle_path, picture, post):
    server = serve(bundle_path, "--instances", "2", "--threads", "2")
    assert server.start["artifact"].startswith("onnx-fp32 on cpu, opened 2 times: ")
    assert post(f"{server.url}/classify", picture())[0] == 200
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=PATIENCE) as response:  # noqa: S310 - always http
        assert (
            'lavit_runtime_instances{model="colours",version="1"} 2.0' in response.read().decode()
        )
    assert server.stop() == 0


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_sighup_exchanges_a_changed_bundle_under_load_and_keeps_the_old_one_if_refused(
    serve, write_bundle, picture, post
):
    server = serve(write_bundle())
    done, answers = threading.Event(), []

    def load():
        while not done.is_set():
            answers.append(post(f"{server.url}/classify", picture()))

    clients = [threading.Thread(target=load) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        write_bundle(checkpoint="fedcba987654")
        server.process.send_signal(signal.SIGHUP)
        assert server.expect("reloaded")["reloaded"] == "colours 1"
        exchanged = post(f"{server.url}/classify", picture())[1]["model"]["checkpoint"]
        write_bundle(checkpoint="aaaaaaaaaaaa", passed=False)
        server.process.send_signal(signal.SIGHUP)
        assert "failed parity" in server.expect_message("not reloaded: ")
        kept = post(f"{server.url}/classify", picture())[1]["model"]["checkpoint"]
    finally:
        done.set()
        for client in clients:
            client.join()
    assert exchanged == kept == "fedcba987654"
    assert {status for status, _ in answers} == {200}
    assert server.stop() == 0


def test_the_same_name_and_version_twice_is_refused(write_bundle):
    first, second = write_bundle(folder="a"), write_bundle(folder="b")
    code, line = refused(first, "--model", f"colours:1={second}", "--model", f"colours:1={first}")
    assert code == 2
    assert line == f"error: {second} and {first} are both colours version 1"


def test_nothing_to_serve_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", "from lavit_deploy.serving.cli import entry; entry()"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: nothing to serve: give a BUNDLE, or --model NAME=PATH\n"


def test_a_missing_bundle_is_refused(tmp_path):
    code, line = refused(tmp_path / "none")
    assert code == 2
    assert line.startswith("error: no bundle at ")


def test_an_altered_artifact_is_refused(bundle_path):
    with (bundle_path / "model.onnx").open("ab") as file:
        file.write(b"x")
    code, line = refused(bundle_path)
    assert code == 2
    assert "is not the file that was exported" in line


def test_a_damaged_manifest_is_refused(bundle_path):
    (bundle_path / "manifest.json").write_text("{")
    code, line = refused(bundle_path)
    assert code == 2
    assert "cannot be read as JSON" in line


def test_an_artifact_that_is_no_model_is_refused(bundle_path):
    manifest = Bundle.open(bundle_path).manifest
    (bundle_path / "model.onnx").write_bytes(b"no graph")
    digest = hashlib.sha256(b"no graph").hexdigest()
    artifact = manifest.artifacts[0].model_copy(update={"sha256": digest})
    Bundle.write_manifest(bundle_path, manifest.model_copy(update={"artifacts": (artifact,)}))
    code, line = refused(bundle_path)
    assert code == 2
    assert "onnxruntime cannot open" in line


def test_a_failed_parity_is_refused(write_bundle):
    code, line = refused(write_bundle(passed=False))
    assert code == 1
    assert "onnx-fp32 failed parity (max difference 3.0 is over 0.001)" in line


def test_a_taken_port_is_refused(bundle_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = refused(bundle_path, "--port", str(port))
    assert code == 2
    assert line == f"error: cannot listen on 127.0.0.1 port {port}: Address already in use"


def test_an_unknown_host_is_refused(bundle_path):
    code, line = refused(bundle_path, "--host", "no.such.host.invalid")
    assert code == 2
    assert line.startswith("error: cannot listen on no.such.host.invalid port 8000: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--artifact", "x"], r"has no artifact 'x'; it has onnx-fp32"),
        (["--device", "cuda"], r"onnx-fp32 cannot run on cuda, only on cpu"),
        (["--max-batch", "9"], r"--max-batch must be 1\.\.8 for onnx-fp32, given 9"),
        (["--instances", "3", "--threads", "2"], r"--instances 3 is more than the 2 threads"),
        (["--queue", "0"], r"--queue must be more than 0, given 0"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_one_line(bundle_path, options, message):
    code, line = refused(bundle_path, "--port", "0", *options)
    assert code == 2
    assert re.search(message, line)


def test_a_model_that_fails_its_warm_up_is_refused(bundle_path):
    code = SLOW.replace(
        "if images.any():",
        "from lavit_deploy.common.errors import InferenceError\n"
        "    raise InferenceError('no memory')\n"
        "    if True:",
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle_path), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: no memory"
