"""The main job on real input: export the shipped checkpoint, serve it, classify pictures over HTTP.

Run by `make demo`. Uses nothing of the project but its two commands, as a user would.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
CHECKPOINT = Path("examples/lavit_fashion_mnist.pth")
PICTURES = Path("examples/fashion_mnist/pictures")
OUT = Path("demo-out")
START_SECONDS = 60


def main() -> int:
    """Export, serve, classify; 0 if every picture was answered and most were right."""
    os.chdir(ROOT)
    bundle = OUT / "clothes.bundle"
    subprocess.run(
        shown("lavit-export", "--ckpt", CHECKPOINT, "--fp16", "--out", bundle, "--force"),
        check=True,
    )
    port = free_port()
    command = shown("lavit-serve", bundle, "--port", port)
    with (OUT / "serve.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(server, port)
            right, total = classify_all(port)
        finally:
            server.terminate()
            server.wait(timeout=30)
    print(f"\n{right} of {total} right; the server stopped with exit code {server.returncode}")
    print("now try:  make serve   and open  http://127.0.0.1:8000/  in a browser")
    return 0 if right >= 0.9 * total and server.returncode == 0 else 1


def shown(program: str, *arguments: object) -> list[str]:
    """Print a command of the environment that this runs in, and return it for `subprocess`."""
    words = [str(argument) for argument in arguments]
    print("\n$", program, *words, flush=True)
    return [str(BIN / program), *words]


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    """Ask /readyz until it says yes.

    Raises:
        SystemExit: the server ended or did not become ready; shows what it printed.
    """
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            if request(port, "GET", "/readyz")[0] == http.client.OK:
                return
        except ConnectionError:
            pass  # not listening yet
        time.sleep(0.1)
    raise SystemExit("the server did not become ready:\n" + (OUT / "serve.log").read_text())


def request(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """One HTTP request to the service: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"Content-Type": "application/octet-stream"} if body else {}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def classify_all(port: int) -> tuple[int, int]:
    """POST every picture to /classify; its name is its class."""
    right = total = 0
    print(f"\n  {'picture':<16} {'answer':<12} {'probability':<30} {'time':>7}")
    for picture in sorted(PICTURES.glob("*.png")):
        status, body = request(port, "POST", "/classify?top_k=3", picture.read_bytes())
        answer = json.loads(body)
        if status != http.client.OK:
            raise SystemExit(f"{picture.name}: {status} {answer.get('detail')}")
        (result,) = answer["results"]
        best = result["predictions"][0]
        correct = best["label"].lower().replace("/", "-").replace(" ", "-") == picture.stem
        bar = "#" * round(20 * best["probability"])
        took = result["timing"]["decode_ms"] + result["timing"]["infer_ms"]
        print(
            f"  {picture.stem:<16} {best['label']:<12} {best['probability']:8.2%} {bar:<20} "
            f"{took:5.1f} ms  {'right' if correct else 'WRONG'}"
        )
        right, total = right + correct, total + 1
    return right, total


if __name__ == "__main__":
    sys.exit(main())
