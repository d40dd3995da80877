"""Servers as processes: how each is started, and what its whole family of processes uses."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urljoin
from urllib.request import Request, urlopen

import psutil

from serving_load.requests import form

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks" / "peers"
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Server:
    """How to start one server.

    Attributes:
        name: for reports.
        command: its program and arguments; PORT stands for the port.
        python: interpreter of its environment, whose packages' versions are recorded.
        packages: distributions that matter.
        path: of its classifying route.
        field: name of its form's field.
        ready: of a route that is 200 once all its processes take requests: connections that are
            opened earlier would stay with some of them. None: an answer says as much.
        environment: variables.
    """

    name: str
    command: tuple[str, ...]
    python: Path
    packages: tuple[str, ...] = ()
    path: str = "/classify"
    field: str = "file"
    ready: str | None = None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    def versions(self) -> dict[str, str]:
        """Versions of `packages` in its environment."""
        code = (
            "import json, sys; from importlib.metadata import version; "
            "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
        )
        command = [str(self.python), "-c", code, *self.packages]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)  # noqa: S603 - our own command


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        server: what was started.
        url: of its classifying route.
        process: the first of its processes.
    """

    server: Server
    url: str
    process: psutil.Process

    def family(self) -> list[psutil.Process]:
        """All its processes."""
        return [self.process, *self.process.children(recursive=True)]

    def rss_mib(self) -> float:
        """Memory of all its processes, MiB; shared pages count once for each."""
        total = 0
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return round(total / 2**20, 1)

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        total = 0.0
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def check_ready(self) -> None:
        """Ask whether all its processes take requests.

        Raises:
            URLError: not yet.
        """
        if self.server.ready is not None:
            with urlopen(urljoin(self.url, self.server.ready), timeout=30):  # noqa: S310 - our own server
                pass

    def best_class(self, picture: bytes) -> int:
        """What it says a picture shows."""
        with urlopen(_as_urllib(self.url, self.server.field, picture), timeout=30) as answer:  # noqa: S310 - our own server
            found = json.load(answer)
        found = found[0] if isinstance(found, list) else found
        if "results" in found:
            found = found["results"][0]
        return int(found["predictions"][0]["index"])


@contextmanager
def running(server: Server, log: Path, picture: bytes) -> Iterator[Running]:
    """Start a server, wait until it classifies, and end it with all its processes.

    Args:
        server: what to start.
        log: file for its output.
        picture: a JPEG to ask it with.
    """
    port = free_port()
    command = [part.replace("PORT", str(port)) for part in server.command]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | server.environment
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            command,
            cwd=PEERS,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        found = Running(
            server, f"http://127.0.0.1:{port}{server.path}", psutil.Process(process.pid)
        )
        try:
            _wait(found, process, picture, log)
            yield found
        finally:
            _end(found, process)


def _wait(found: Running, process: subprocess.Popen[bytes], picture: bytes, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            found.check_ready()
            found.best_class(picture)
        except (URLError, OSError, ValueError, KeyError):
            time.sleep(0.2)
        else:
            return
    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    sys.exit(f"{found.server.name} did not start:\n{tail}")


def _end(found: Running, process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL to whatever of the family is left."""
    family: Sequence[psutil.Process] = found.family() if process.poll() is None else []
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _as_urllib(url: str, name: str, picture: bytes) -> Request:
    """The generator's own request, for the standard library's client."""
    head, _, body = form(url, name, picture).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")[1:]
    headers = dict(line.split(": ", 1) for line in lines)
    return Request(url, body, headers, method="POST")  # noqa: S310 - our own server


def ours(bundle: Path, artifact: str, *options: str) -> Server:
    """`lavit-serve` from this interpreter's environment, as it comes but for these options."""
    code = "from lavit_deploy.serving.cli import entry; entry()"
    return Server(
        name=" ".join(("lavit-serve", *options)),
        command=(
            *(sys.executable, "-c", code, str(bundle), "--artifact", artifact, "--port", "PORT"),
            *("--log-format", "json", *options),
        ),
        python=Path(sys.executable),
        ready="/readyz",
        packages=("fastapi", "uvicorn", "starlette", "onnxruntime", "openvino", "pillow"),
    )
