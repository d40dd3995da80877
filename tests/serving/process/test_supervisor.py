"""Several real processes behind one port."""

import concurrent.futures
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

import psutil
import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="--workers needs Linux"),
    pytest.mark.slow,
]

PATIENCE = 30.0
TWO = ("--workers", "2", "--threads", "2")
REQUESTS = 40  # that all of them reach the same one of two workers has a chance of 2 ** -39


def workers_of(server):
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def scrape(server):
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=PATIENCE) as answer:  # noqa: S310 - always http
        lines = answer.read().decode().splitlines()
    values = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in values}


def answered(samples):
    return sum(
        value
        for name, value in samples.items()
        if name.startswith("lavit_requests_total{") and 'route="/classify",status="200"' in name
    )


def eventually(condition):
    """Wait until it holds; fails after `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def classify(server, data):
    """One request on a connection of its own: its status and answer, or the error."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request("POST", "/classify", data, {"Content-Type": "image/png"})
        answer = connection.getresponse()
        return answer.status, json.load(answer)
    except OSError as error:
        return error, None
    finally:
        connection.close()


def test_the_workers_share_the_port_and_a_scrape_shows_what_all_of_them_did(
    serve, bundle_path, picture
):
    server = serve(bundle_path, *TWO, "--queue", "100")
    with concurrent.futures.ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda _: classify(server, picture()), range(REQUESTS)))
    assert {status for status, _ in answers} == {200}
    pending = 'lavit_pictures_pending{model="colours",version="1"}'
    eventually(lambda: scrape(server)[pending] == 0)  # the other's is some time old
    by = {server.expect("pictures")["worker"] for _ in range(REQUESTS)}
    assert by == {1, 2}
    samples = scrape(server)
    model = '{model="colours",version="1"}'
    assert answered(samples) == REQUESTS
    assert samples[f"lavit_batch_size_sum{model}"] == REQUESTS
    assert samples[f"lavit_decode_seconds_count{model}"] == REQUESTS
    assert samples["lavit_queue_capacity"] == 100
    assert samples[f"lavit_runtime_instances{model}"] == 2
    assert samples["lavit_requests_in_flight"] == 1  # this scrape
    assert samples["lavit_ready"] == samples[f"lavit_model_ready{model}"] == 1
    assert (samples["lavit_workers"], samples["lavit_workers_ready"]) == (2, 2)
    everybody = [psutil.Process(server.process.pid), *workers_of(server)]
    assert samples["process_resident_memory_bytes"] > max(
        process.memory_info().rss for process in everybody
    )
    assert server.stop() == 0


def test_a_killed_worker_costs_its_own_connections_only_and_is_replaced(
    serve, bundle_path, picture
):
    server = serve(bundle_path, *TWO)
    done, outcomes = threading.Event(), []

    def load():
        while not done.is_set():
            outcomes.append(classify(server, picture())[0])

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        eventually(lambda: len(outcomes) > REQUESTS)
        before = answered(scrape(server))
        workers_of(server)[-1].kill()
        assert "SIGKILL" in server.expect_message("worker 2 ended by itself")
        eventually(lambda: scrape(server)["lavit_workers_ready"] == 2)
        so_far = len(outcomes)
        eventually(lambda: len(outcomes) > so_far + REQUESTS)
    finally:
        done.set()
        for client in clients:
            client.join()
    lost = [outcome for outcome in outcomes if isinstance(outcome, OSError)]
    # Each had one connection; the next may reach the port just before the kernel closes it.
    assert len(lost) <= 2 * len(clients)
    assert set(outcomes[so_far:]) == {200}
    assert {outcome for outcome in outcomes if outcome not in lost} == {200}
    after = scrape(server)
    assert after["lavit_worker_restarts_total"] == 1
    assert before < answered(after) <= len(outcomes)  # what the dead one counted is not lost
    assert len(workers_of(server)) == 2
    assert server.stop() == 0


def test_the_service_stays_ready_while_a_worker_is_replaced(serve, bundle_path):
    server = serve(bundle_path, *TWO)
    workers_of(server)[0].kill()
    server.expect_message("worker 1 ended by itself")
    while len(workers_of(server)) < 2 or scrape(server)["lavit_workers_ready"] < 2:
        with urllib.request.urlopen(f"{server.url}/readyz", timeout=PATIENCE) as answer:  # noqa: S310 - always http
            assert answer.status == 200
    assert server.stop() == 0


def test_sigterm_answers_what_every_worker_has_accepted(serve, bundle_path, picture):
    server = serve(bundle_path, *TWO)
    data = picture((0, 0, 255))
    head = (
        "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        f"Content-Length: {len(data)}\r\nExpect: 100-continue\r\n\r\n"
    )
    clients = []
    for _ in range(8):
        client = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
        client.sendall(head.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 100 ")  # it is being answered
        clients.append(client)
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: not listens(server.port))
    assert server.process.poll() is None
    for client in clients:
        client.sendall(data)
    for client in clients:
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.status == 200
        assert json.load(response)["results"][0]["predictions"][0]["label"] == "blue"
        client.close()
    assert server.process.wait(PATIENCE) == 0


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return False
    except ConnectionResetError:
        pass  # it was in the backlog while the socket was closed
    return True


def test_sighup_exchanges_the_model_in_every_worker_and_refuses_no_request(
    serve, write_bundle, picture
):
    server = serve(write_bundle(), *TWO)
    done, outcomes = threading.Event(), []

    def load():
        while not done.is_set():
            outcomes.append(classify(server, picture())[0])

    client = threading.Thread(target=load)
    client.start()
    try:
        write_bundle(checkpoint="fedcba987654")
        server.process.send_signal(signal.SIGHUP)
        assert {server.expect("reloaded")["worker"] for _ in range(2)} == {1, 2}
        answers = [classify(server, picture())[1] for _ in range(REQUESTS)]
    finally:
        done.set()
        client.join()
    assert {answer["model"]["checkpoint"] for answer in answers} == {"fedcba987654"}
    assert set(outcomes) == {200}
    shown = [name for name in scrape(server) if name.startswith("lavit_model_info{")]
    assert [re.search(r'checkpoint="(\w+)"', name)[1] for name in shown] == ["fedcba987654"]
    assert server.stop() == 0


def test_a_reload_that_cannot_be_read_leaves_every_worker_as_it_is(serve, tmp_path, write_bundle):
    config = tmp_path / "serve.toml"
    config.write_text("top-k = 2\n")
    server = serve(write_bundle(), *TWO, "--config", str(config))
    config.write_text("top-k = 'two'\n")
    server.process.send_signal(signal.SIGHUP)
    assert "serve.toml line 1" in server.expect_message("not reloaded: ")
    assert scrape(server)["lavit_workers_ready"] == 2
    assert server.stop() == 0


def test_workers_need_no_folder_for_temporary_files(serve, bundle_path, picture):
    without = (
        "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nowhere']\n"
        "from lavit_deploy.serving.cli import entry; entry()"
    )
    server = serve(bundle_path, *TWO, code=without)
    assert classify(server, picture())[0] == 200
    eventually(lambda: answered(scrape(server)) == 1)
    assert server.stop() == 0


def test_workers_end_when_their_supervisor_is_killed(serve, bundle_path):
    server = serve(bundle_path, *TWO)
    workers = workers_of(server)
    server.process.kill()
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
    assert not alive


@pytest.mark.parametrize(
    ("code", "options", "message"),
    [
        (2, ("--artifact", "x"), "error: .* has no artifact 'x'; it has onnx-fp32"),
        (2, ("--max-batch", "9"), "error: --max-batch must be 1..8 for onnx-fp32, given 9"),
        (2, ("--workers", "3"), "error: --workers 3 is more than the 2 threads they share"),
        (2, ("--workers", "0"), "error: --workers must be more than 0, given 0"),
        (
            2,
            ("--queue", "40"),
            "error: --max-files 32 is more than the share of --queue 40 that each of .*",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_with_one_line(bundle_path, code, options, message):
    assert_refused(bundle_path, *options, code=code, message=message)


def test_a_failed_parity_is_refused_with_one_line(write_bundle):
    message = "error: .*onnx-fp32 failed parity .*"
    assert_refused(write_bundle(passed=False), code=1, message=message)


def test_a_port_that_other_workers_share_is_refused(serve, bundle_path):
    server = serve(bundle_path, *TWO)
    message = f"error: cannot listen on 127.0.0.1 port {server.port}: Address already in use"
    assert_refused(bundle_path, "--port", str(server.port), code=2, message=message)


def assert_refused(bundle, *options, code, message):
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-c",
                "from lavit_deploy.serving.cli import entry; entry()",
                str(bundle),
            ),
            *("--port", "0", *TWO, *options),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(message, line)
    assert done.returncode == code
    assert done.stdout == ""
