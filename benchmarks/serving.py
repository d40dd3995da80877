"""Our service beside LitServe, BentoML, Ray Serve and a plain FastAPI handler.

    python benchmarks/serving.py --bundle digits.bundle --artifact openvino-bf16 --pictures small \
        --peers VENVS --rounds 3 --out docs/reports/serving

VENVS holds a virtual environment for each peer: `peer_litserve`, `peer_bentoml`, `peer_ray`, each
with the peer, onnxruntime, openvino, pillow, pydantic and python-multipart. FastAPI runs in ours.

Every server runs the same artifact through the same runtime and the same decoder
(`benchmarks/peers/model.py`), takes the same form with one JPEG, and batches up to 8 where it can.
In each round every server is started in turn and given a load that saturates it (64 requests under
way), then open-loop Poisson loads at 50 % and 80 % of that rate, and from the second round on at a
rate common to all: half of what the slowest reached in the first. Rounds are added to the report.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from serving_load import drawing
from serving_load.pictures import PHOTO, SMALL, write_pictures
from serving_load.servers import PEERS, Running, Server, ours, running

from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.environment import Environment, command_line
from lavit_deploy.runtimes.specs import distributions

CLIENTS = 64
"""Requests under way in the load that saturates: eight batches."""

NICE = "-10"
"""The generator goes before the servers, so that it sends on time whatever they do."""

LOADS = {"half": 0.5, "high": 0.8}
"""Open-loop loads, of the server's own saturation."""

Row = dict[str, object]


def main() -> None:
    """Measure, and add what was measured to the report."""
    options = parser().parse_args()
    size = {"photo": PHOTO, "small": SMALL}[options.pictures]
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        files = write_pictures(pictures, size)
        servers = [
            server
            for server in candidates(options)
            if server.name.partition(" --")[0] in options.servers
        ]
        report = load_report(options.out)
        report["environment"] = Environment.here(distributions()).model_dump(mode="json")
        report["versions"] |= {server.name: server.versions() for server in servers}
        common: float | None = options.common
        for number in range(options.rounds):
            rows: list[Row] = []
            for row in one_round(_rotated(servers, number), options, files, common):
                rows.append(row)
                print(json.dumps(row), flush=True)
            common = common or _common_rate(rows)
            report["rounds"].append(
                {
                    "model": options.bundle.stem,
                    "artifact": options.artifact,
                    "pictures": f"JPEG {size[0]} x {size[1]}",
                    "command": command_line(),
                    "rows": rows,
                }
            )
            # After every round: what was measured outlives what fails later.
            write_report(report, options.out)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--bundle", type=Path, required=True)
    made.add_argument("--artifact", required=True, help="artifact that all serve")
    made.add_argument("--pictures", choices=("photo", "small"), default="photo")
    made.add_argument("--peers", type=Path, required=True, help="folder of virtual environments")
    made.add_argument("--servers", nargs="+", default=NAMES, choices=NAMES)
    made.add_argument(
        "--ours",
        nargs="+",
        default=[],
        metavar="OPTIONS",
        help="measure lavit-serve with these options, too: --ours ' --workers 2' ' --max-batch 2'",
    )
    made.add_argument("--litserve-workers", type=int, default=1)
    made.add_argument("--ray-replicas", type=int, default=1)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--saturate", type=float, default=4.0, help="seconds at saturation")
    made.add_argument("--seconds", type=float, default=6.0, help="of each open-loop load")
    made.add_argument("--common", type=float, help="requests a second of the common rate")
    made.add_argument("--out", type=Path, required=True, help="folder of the report")
    return made


NAMES = ("lavit-serve", "FastAPI", "LitServe", "BentoML", "Ray Serve")


def candidates(options: argparse.Namespace) -> list[Server]:
    """How each server is started."""
    bundle = options.bundle.resolve()
    scratch = Path(tempfile.gettempdir())
    environment = {"LAVIT_BUNDLE": str(bundle), "LAVIT_ARTIFACT": options.artifact}
    here = Path(sys.executable)
    pythons = {
        name: options.peers.absolute() / f"peer_{name}" / "bin" / "python"
        for name in ("litserve", "bentoml", "ray")
    }
    common = ("onnxruntime", "openvino", "pillow", "starlette", "uvicorn")
    return [
        *(ours(bundle, options.artifact, *words.split()) for words in ("", *options.ours)),
        Server(
            "FastAPI",
            (
                *(str(here), "-m", "uvicorn", "plain_fastapi:app"),
                *("--port", "PORT", "--log-level", "warning"),
            ),
            here,
            ("fastapi", *common),
            environment=environment,
        ),
        Server(
            "LitServe",
            (
                *(str(pythons["litserve"]), "litserve_server.py"),
                *("PORT", str(options.litserve_workers)),
            ),
            pythons["litserve"],
            ("litserve", "fastapi", *common),
            environment=environment,
        ),
        Server(
            "BentoML",
            (
                *(str(pythons["bentoml"]), "-m", "bentoml", "serve", "bentoml_service:Classify"),
                *("--host", "127.0.0.1", "--port", "PORT"),
            ),
            pythons["bentoml"],
            ("bentoml", *common),
            environment=environment
            | {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(scratch / "bentoml")},
        ),
        Server(
            "Ray Serve",
            (str(pythons["ray"]), "ray_serve_app.py", "PORT", str(options.ray_replicas)),
            pythons["ray"],
            ("ray", "fastapi", *common),
            environment=environment | {"RAY_USAGE_STATS_ENABLED": "0"},
        ),
    ]


def one_round(
    servers: Sequence[Server],
    options: argparse.Namespace,
    files: Sequence[Path],
    common: float | None,
) -> Iterator[Row]:
    """Rows of one round: the bare runtime, then each server under each load."""
    yield {"server": "bare runtime", "load": "saturation", **bare(options, files[0].parent)}
    expected: list[int] | None = None
    for server in servers:
        with running(server, options.out / "server.log", files[0].read_bytes()) as found:
            classes = [found.best_class(file.read_bytes()) for file in files]
            expected = expected or classes
            if classes != expected:
                sys.exit(f"{server.name} says {classes}, {servers[0].name} said {expected}")
            idle = found.rss_mib()
            yield from loads(found, options, files[0].parent, common, idle)
        (options.out / "server.log").unlink()


def loads(
    found: Running, options: argparse.Namespace, pictures: Path, common: float | None, idle: float
) -> Iterator[Row]:
    """One running server under each load."""
    name = found.server.name
    seconds = options.saturate
    top = generate(found, pictures, "--clients", str(CLIENTS), "--warm", "2", seconds=seconds)
    yield {"server": name, "load": "saturation", **top, "rss_mib": [idle, found.rss_mib()]}
    rates = {load: share * float(str(top["throughput"])) for load, share in LOADS.items()}
    if common is not None:
        rates["common"] = common
    for load, rate in rates.items():
        made = generate(found, pictures, "--rate", f"{rate:.3f}", seconds=options.seconds)
        yield {"server": name, "load": load, **made}


def generate(found: Running, pictures: Path, *arguments: str, seconds: float) -> Row:
    """The generator's summary of one load, and the server's processor time meanwhile."""
    script = Path(__file__).with_name("load.py")
    before, busy, start = found.cpu_seconds(), busy_seconds(), time.monotonic()
    children = sum(os.times()[2:4])
    command = [sys.executable, str(script), found.url, "--pictures", str(pictures), *arguments]
    done = subprocess.run(  # noqa: S603 - our own program
        [*command, "--seconds", str(seconds), "--field", found.server.field, "--nice", NICE],
        check=True,
        stdout=subprocess.PIPE,
    )
    summary: Row = json.loads(done.stdout)
    spent, passed = found.cpu_seconds() - before, time.monotonic() - start
    generator = sum(os.times()[2:4]) - children
    return summary | {
        "server_cores": round(spent / passed, 3),
        "others_cores": round((busy_seconds() - busy - spent - generator) / passed, 3),
    }


def busy_seconds() -> float:
    """Processor time of everything on this machine so far."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.softirq + times.irq)


def bare(options: argparse.Namespace, pictures: Path) -> Row:
    """The artifact in one process without a server, decoding counted."""
    environment = os.environ | {
        "LAVIT_BUNDLE": str(options.bundle.resolve()),
        "LAVIT_ARTIFACT": options.artifact,
        "PYTHONPATH": str(PEERS.parents[1]),
    }
    command = [sys.executable, str(PEERS / "bare.py"), "--pictures", str(pictures)]
    busy, children, start = busy_seconds(), sum(os.times()[2:4]), time.monotonic()
    done = subprocess.run(  # noqa: S603 - our own program
        [*command, "--seconds", str(options.saturate)],
        check=True,
        stdout=subprocess.PIPE,
        env=environment,
    )
    own = sum(os.times()[2:4]) - children
    others = (busy_seconds() - busy - own) / (time.monotonic() - start)
    return json.loads(done.stdout) | {"others_cores": round(others, 3)}


def _common_rate(rows: Sequence[Row]) -> float:
    """Half of what the slowest server reached."""
    return 0.5 * min(float(str(row["throughput"])) for row in rows if row["load"] == "saturation")


def _rotated(servers: Sequence[Server], number: int) -> list[Server]:
    """Another one begins in each round."""
    start = number % len(servers)
    return [*servers[start:], *servers[:start]]


def load_report(out: Path) -> dict[str, object]:
    """What was measured before, or the beginning of a report."""
    file = out / "report.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    return {"environment": {}, "versions": {}, "rounds": []}


def write_report(report: dict[str, object], out: Path) -> None:
    """`report.json`, `table.md` and the plots."""
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")
    write_text(out / "table.md", drawing.table(report))
    drawing.plots(report, out)


if __name__ == "__main__":
    main()
