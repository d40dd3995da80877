"""A stalling server, and the generator as its users start it."""

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("uvloop", reason="the generator needs uvloop")
pytest.importorskip("httptools", reason="the generator needs httptools")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "load.py"
_REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Stalling:
    """Answers at once, but for one stall: requests that come in it are answered at its end.

    Attributes:
        port: where it listens.
        stall: when it begins after the first request, and when it ends, seconds.
        hang_up: close each connection in place of an answer.
        received: requests so far.
    """

    def __init__(self) -> None:
        self.stall = (0.0, 0.0)
        self.hang_up = False
        self.received = 0
        self._first: float | None = None
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    async def _serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                self.received += 1
                await self._delay()
                if self.hang_up:
                    break
                writer.write(_REPLY)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the generator is done
        finally:
            writer.close()

    async def _delay(self):
        now = self._loop.time()
        self._first = now if self._first is None else self._first
        begin, end = self.stall
        if begin <= now - self._first < end:
            await asyncio.sleep(end - (now - self._first))

    def close(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()


@pytest.fixture
def server():
    stalling = Stalling()
    yield stalling
    stalling.close()


@pytest.fixture
def load(server, tmp_path):
    """Runs the generator against the server: its summary, and its samples."""
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8 not looked at")

    def run(*arguments):
        samples = tmp_path / "samples.json"
        done = subprocess.run(
            [
                *(sys.executable, str(SCRIPT), f"http://127.0.0.1:{server.port}/classify"),
                *("--pictures", str(tmp_path), "--warm", "0", "--samples", str(samples)),
                *arguments,
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
        return json.loads(done.stdout), json.loads(samples.read_text())

    return run
