"""Goodput under more load than the service can take, by clients that wait only so long.

    python benchmarks/overload.py --bundle lavit_s.bundle --artifact openvino-bf16 \
        --deadline-ms 1000 --out docs/reports/serving

The service's capacity is measured first: 64 requests under way. Then open-loop Poisson loads of
several times that rate, every request with `X-Request-Timeout-Ms`. Goodput counts an answer only if
it is 200 and was there within the deadline, from when the request was due. The capacity is measured
before and after each load, and the mean is what goodput is compared with.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from serving_load.pictures import PHOTO, SMALL, write_pictures
from serving_load.servers import Running, ours, running
from serving_load.summary import quantiles

from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.environment import Environment, command_line
from lavit_deploy.runtimes.specs import distributions

CLIENTS = 64
NICE = "-10"
"""The generator goes before the service, so that it sends on time."""

Row = dict[str, object]


def main() -> None:
    """Measure, print, and add to the report."""
    options = parser().parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_pictures(
            folder / "pictures", {"photo": PHOTO, "small": SMALL}[options.pictures]
        )
        server = ours(options.bundle.resolve(), options.artifact, "--workers", str(options.workers))
        with running(server, folder / "log", files[0].read_bytes()) as found:
            result = measure(found, options, folder)
    file = options.out / "overload.json"
    report = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    report[f"{options.bundle.stem}, {options.artifact}, workers {options.workers}"] = {
        "command": command_line(),
        "environment": Environment.here(distributions()).model_dump(mode="json"),
        **result,
    }
    write_text(file, json.dumps(report, indent=1) + "\n")


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--bundle", type=Path, required=True)
    made.add_argument("--artifact", required=True)
    made.add_argument("--workers", type=int, default=1, help="of lavit-serve")
    made.add_argument("--pictures", choices=("photo", "small"), default="photo")
    made.add_argument("--deadline-ms", type=int, required=True)
    made.add_argument("--factors", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    made.add_argument("--seconds", type=float, default=15.0, help="of each load")
    made.add_argument("--out", type=Path, required=True, help="folder of the report")
    return made


def measure(found: Running, options: argparse.Namespace, folder: Path) -> Row:
    """Capacity, each load, capacity again."""
    pictures = folder / "pictures"
    capacities = [capacity(found, pictures)]
    rows: list[Row] = []
    for factor in options.factors:
        samples = folder / "samples.json"
        summary = generate(
            found,
            pictures,
            *("--rate", f"{factor * capacities[0]:.3f}", "--seconds", str(options.seconds)),
            *("--timeout-ms", str(options.deadline_ms), "--samples", str(samples)),
        )
        taken = json.loads(samples.read_text(encoding="utf-8"))
        accepted = [item["latency"] for item in taken if item["status"] == 200]
        good = sum(latency * 1e3 <= options.deadline_ms for latency in accepted)
        rows.append(
            {
                "factor": factor,
                "goodput": round(good / options.seconds, 2),
                "accepted_ms": quantiles(accepted),
                "refused_ms": quantiles([i["latency"] for i in taken if i["status"] == 503]),
                **summary,
            }
        )
        capacities.append(capacity(found, pictures))
    mean = statistics.mean(capacities)
    for row in rows:
        row["goodput_of_capacity"] = round(float(str(row["goodput"])) / mean, 4)
        print(json.dumps(row), flush=True)
    return {"deadline_ms": options.deadline_ms, "capacities": capacities, "rows": rows}


def capacity(found: Running, pictures: Path) -> float:
    """Requests answered a second with 64 under way."""
    made = generate(found, pictures, "--clients", str(CLIENTS), "--warm", "2", "--seconds", "6")
    return float(str(made["throughput"]))


def generate(found: Running, pictures: Path, *arguments: str) -> Row:
    """The generator's summary of one load."""
    script = Path(__file__).with_name("load.py")
    command = [sys.executable, str(script), found.url, "--pictures", str(pictures), "--nice", NICE]
    done = subprocess.run([*command, *arguments], check=True, stdout=subprocess.PIPE)  # noqa: S603 - our own program
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
