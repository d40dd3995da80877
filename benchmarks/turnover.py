"""Good requests while the model is exchanged again and again, and then while the service stops.

    python benchmarks/turnover.py --bundle digits.bundle --artifact openvino-bf16 \
        --requests 20000 --out docs/reports/serving

Clients keep a number of requests under way; meanwhile the bundle is exchanged for a copy with
another manifest and the service gets SIGHUP. After that it gets SIGTERM in the middle of the same
load. Exit code 1 where a request was lost or answered otherwise than with 200, one that was sent
before SIGTERM included, where a model was not exchanged, or where the service did not end with 0.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from serving_load.connections import Pool
from serving_load.pictures import SMALL, write_pictures
from serving_load.requests import form
from serving_load.servers import Running, ours, running
from soak import growth, watch

from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.environment import Environment, command_line
from lavit_deploy.runtimes.specs import distributions

CLIENTS = 32
"""Fewer than the service has places, so that a refusal is a fault."""

END_SECONDS = 40.0

Row = dict[str, object]


@dataclass
class Tally:
    """What became of requests.

    Attributes:
        left: requests that are still to be sent; None: until `ending`.
        ending: when the service was told to stop, on `time.monotonic`'s clock.
        before: statuses of those sent until then.
        after: statuses of those sent later, the last one of each client.
    """

    left: int | None
    ending: float = float("inf")
    before: Counter[int] = field(default_factory=Counter)
    after: Counter[int] = field(default_factory=Counter)

    @property
    def faultless(self) -> bool:
        """Whether every request that the service owed an answer got it."""
        return set(self.before) == {200}


def main() -> None:
    """Measure, write the report, and judge."""
    options = parser().parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture = write_pictures(folder / "pictures", SMALL)[0].read_bytes()
        bundle = Exchanged(options.bundle.resolve(), folder)
        server = ours(bundle.link, options.artifact)
        with running(server, folder / "log", picture) as found:
            result = asyncio.run(turn_over(found, bundle, picture, options))
        result["exchanges"] = (folder / "log").read_text().count('"reloaded":')
    faultless = result["faultless"] and result["exit_code"] == 0
    result["passed"] = bool(faultless and result["exchanges"])
    report = {
        "command": command_line(),
        "environment": Environment.here(distributions()).model_dump(mode="json"),
        "versions": server.versions(),
        **result,
    }
    write_text(options.out / "turnover.json", json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "memory"}, indent=1))
    sys.exit(0 if result["passed"] else 1)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--bundle", type=Path, required=True)
    made.add_argument("--artifact", required=True)
    made.add_argument("--requests", type=int, default=20_000, help="while models are exchanged")
    made.add_argument("--exchange-seconds", type=float, default=3.0, help="between exchanges")
    made.add_argument("--out", type=Path, required=True, help="folder of the report")
    return made


class Exchanged:
    """A link to one of two bundles that differ in their manifests.

    Args:
        bundle: what is copied.
        folder: where the copies and the link go.
    """

    def __init__(self, bundle: Path, folder: Path) -> None:
        self._folder = folder
        self._turn = itertools.cycle([self._copy(bundle, index) for index in range(2)])
        self.link = folder / "served.bundle"
        self.exchange()

    def _copy(self, bundle: Path, index: int) -> Path:
        copy = self._folder / f"copy{index}.bundle"
        shutil.copytree(bundle, copy)
        manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
        manifest["created"] = f"2026-01-01T00:00:0{index}Z"
        write_text(copy / "manifest.json", json.dumps(manifest))
        return copy

    def exchange(self) -> None:
        """Let the link lead to the other one."""
        new = self._folder / "new"
        new.symlink_to(next(self._turn))
        new.replace(self.link)


async def turn_over(
    found: Running, bundle: Exchanged, picture: bytes, options: argparse.Namespace
) -> Row:
    """Exchanges under load, then the end under load."""
    memory: list[tuple[float, float]] = []
    tally, start = Tally(options.requests), time.monotonic()
    with task(watch(found, memory)), task(exchange(found, bundle, options.exchange_seconds)):
        await load(found, picture, tally)
    seconds = time.monotonic() - start
    last = Tally(None)
    ending = asyncio.create_task(load(found, picture, last))
    await asyncio.sleep(1)
    last.ending = time.monotonic()
    found.process.send_signal(signal.SIGTERM)
    await ending
    return {
        "seconds": round(seconds, 1),
        "during_exchanges": dict(tally.before),
        "before_sigterm": dict(last.before),
        "after_sigterm": dict(last.after),
        "drain_seconds": round(time.monotonic() - last.ending, 2),
        "exit_code": await asyncio.to_thread(found.process.wait, END_SECONDS),
        "memory": memory,
        "memory_growth": growth(memory),
        "faultless": tally.faultless and last.faultless,
    }


async def exchange(found: Running, bundle: Exchanged, seconds: float) -> None:
    """Another bundle every few seconds, and SIGHUP."""
    while True:
        await asyncio.sleep(seconds)
        bundle.exchange()
        os.kill(found.process.pid, signal.SIGHUP)


async def load(found: Running, picture: bytes, tally: Tally) -> None:
    """Requests, each client's next one after the answer to its last."""
    pool, request = Pool(found.url, CLIENTS), form(found.url, "file", picture)

    async def client() -> None:
        while tally.left is None or tally.left > 0:
            if tally.left is not None:
                tally.left -= 1
            sent = time.monotonic()
            status = (await pool.request(request)).status
            if sent > tally.ending:
                tally.after[status] += 1
                return
            tally.before[status] += 1

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    pool.close()


@contextmanager
def task(coroutine: object) -> Iterator[None]:
    """A coroutine that runs meanwhile."""
    running_task = asyncio.ensure_future(coroutine)
    try:
        yield
    finally:
        running_task.cancel()


if __name__ == "__main__":
    main()
