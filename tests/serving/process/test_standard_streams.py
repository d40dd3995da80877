"""Disks that are full, readers that have gone, streams that are closed: the service goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

PATIENCE = 30.0
ROOT = Path(__file__).parents[3]
CODE = "from lavit_deploy.serving.cli import entry; entry()"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is of Linux")


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirection",
    [">/dev/full", "2>/dev/full", ">/dev/full 2>&1", ">&-", "2>&-", "<&- >&- 2>&-", "| true"],
)
def test_the_service_answers_and_stops_whatever_its_streams_are(bundle_path, picture, redirection):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = (bundle_path, "--port", port, "--threads", "1", "--decoders", "1")
    code = f"import os; print(os.getpid(), file=open({str(bundle_path / 'pid')!r}, 'w')); {CODE}"
    line = " ".join(map(str, (f'exec "$0" -c "$1" {" ".join(map(str, arguments))}', redirection)))
    process = subprocess.Popen(["/bin/sh", "-c", line, sys.executable, code], cwd=ROOT)
    try:
        wait_until_ready(port, process)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/classify", picture(), {"Content-Type": "image/png"}
        )
        for _ in range(3):  # each closes its connection
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:  # noqa: S310 - as above
                assert json.load(response)["results"][0]["status"] == "ok"
        os.kill(int((bundle_path / "pid").read_text()), signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()


def wait_until_ready(port, process):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, "it ended"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE).close()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
        else:
            return
    raise AssertionError("it is never ready")
