"""The service for some minutes at 80 % load, with hostile clients among the good ones.

    python benchmarks/soak.py --bundle lavit_s.bundle --artifact openvino-bf16 --minutes 10 \
        --out docs/reports/serving

Its capacity is measured first, then good clients send 80 % of it (open-loop, Poisson) while others
send garbage, truncated and damaged pictures, decompression bombs, bodies over the limit, slow
uploads, and leave early (`serving_load/hostile.py`). Every good request must be answered 200, and
the service's memory must stay flat; it is sampled every second. Exit code 1 where a good request
failed, or a hostile one was answered with 500.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving_load.hostile import Hostile, trouble
from serving_load.pictures import PHOTO, SMALL, write_pictures
from serving_load.servers import Running, ours, running
from serving_load.summary import quantiles

from lavit_deploy.common.atomic_files import atomic_path, write_text
from lavit_deploy.common.environment import Environment, command_line
from lavit_deploy.runtimes.specs import distributions

CLIENTS = 64
LOAD = 0.8
NICE = "-10"
"""The generator goes before the service, so that it sends on time."""

UPLOAD_SECONDS = "5"
"""The service's limit, short enough for slow uploads to meet it."""

Row = dict[str, object]


def main() -> None:
    """Measure, write the report, and judge."""
    options = parser().parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_pictures(
            folder / "pictures", {"photo": PHOTO, "small": SMALL}[options.pictures]
        )
        server = ours(
            options.bundle.resolve(),
            options.artifact,
            *("--upload-seconds", UPLOAD_SECONDS, "--workers", str(options.workers)),
        )
        with running(server, folder / "log", files[0].read_bytes()) as found:
            result = asyncio.run(soak(found, options, folder))
    report = {
        "command": command_line(),
        "environment": Environment.here(distributions()).model_dump(mode="json"),
        "versions": server.versions(),
        **result,
    }
    write_text(options.out / "soak.json", json.dumps(report, indent=1) + "\n")
    plot(result, options.out / "soak.png")
    shown = {key: value for key, value in result.items() if key != "memory"}
    print(json.dumps(shown, indent=1))
    sys.exit(0 if result["passed"] else 1)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--bundle", type=Path, required=True)
    made.add_argument("--artifact", required=True)
    made.add_argument("--workers", type=int, default=1, help="of lavit-serve")
    made.add_argument("--pictures", choices=("photo", "small"), default="photo")
    made.add_argument("--minutes", type=float, default=10.0)
    made.add_argument("--hostile-rate", type=float, default=4.0, help="hostile requests a second")
    made.add_argument("--out", type=Path, required=True, help="folder of the report")
    return made


async def soak(found: Running, options: argparse.Namespace, folder: Path) -> Row:
    """Good clients, hostile ones, and an eye on the memory."""
    pictures, samples = folder / "pictures", folder / "samples.json"
    top = await generate(found, pictures, "--clients", str(CLIENTS), "--seconds", "6")
    capacity = float(str(top["throughput"]))
    seconds = options.minutes * 60
    hostile = Hostile(found.url, next(pictures.glob("*.jpg")).read_bytes())
    memory: list[tuple[float, float]] = []
    watching = asyncio.create_task(watch(found, memory))
    good, bad = await asyncio.gather(
        generate(
            found,
            pictures,
            *("--rate", f"{LOAD * capacity:.3f}", "--seconds", str(seconds)),
            *("--samples", str(samples)),
        ),
        trouble(hostile, seconds, options.hostile_rate),
    )
    watching.cancel()
    taken = json.loads(samples.read_text(encoding="utf-8"))
    faults = sum(
        count for statuses in bad.values() for key, count in statuses.items() if key == 500
    )
    return {
        "capacity": capacity,
        "minutes": options.minutes,
        "good": good,
        "p99_ms_by_minute": by_minute(taken),
        "hostile": {kind: dict(sorted(statuses.items())) for kind, statuses in bad.items()},
        "memory": memory,
        "memory_growth": growth(memory),
        "passed": good["ok"] == good["sent"] and not faults,
    }


async def watch(found: Running, memory: list[tuple[float, float]]) -> None:
    """Seconds and MiB, once a second."""
    start = time.monotonic()
    while True:
        memory.append((round(time.monotonic() - start, 1), found.rss_mib()))
        await asyncio.sleep(1)


def growth(memory: Sequence[tuple[float, float]]) -> Row:
    """How the memory's curve goes on once caches are filled: from a fifth of the time on."""
    late = memory[len(memory) // 5 :]
    slope = statistics.linear_regression(*zip(*late, strict=True)).slope
    tenth = max(1, len(late) // 10)
    return {
        "first_mib": memory[0][1],
        "peak_mib": max(value for _, value in memory),
        "median_mib_after_a_fifth": statistics.median(value for _, value in late[:tenth]),
        "median_mib_at_the_end": statistics.median(value for _, value in late[-tenth:]),
        "mib_per_minute": round(slope * 60, 3),
    }


def by_minute(samples: Sequence[Mapping[str, float]]) -> list[float]:
    """p99 of the good answers of each minute, milliseconds."""
    minutes: dict[int, list[float]] = {}
    for sample in samples:
        if sample["status"] == 200:
            minutes.setdefault(int(sample["due"] // 60), []).append(sample["latency"])
    return [quantiles(minutes[minute])["p99"] for minute in sorted(minutes)]


async def generate(found: Running, pictures: Path, *arguments: str) -> Row:
    """The generator's summary of one load, from a process of its own."""
    script = Path(__file__).with_name("load.py")
    command = [sys.executable, str(script), found.url, "--pictures", str(pictures), "--nice", NICE]
    process = await asyncio.create_subprocess_exec(*command, *arguments, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode:
        sys.exit("the generator failed")
    return json.loads(output)


def plot(result: Row, path: Path) -> None:
    """Memory over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3))
    memory = result["memory"]
    axes.plot([second / 60 for second, _ in memory], [mib for _, mib in memory], linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident memory, MiB")
    figure.tight_layout()
    with atomic_path(path) as file:
        figure.savefig(file, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
