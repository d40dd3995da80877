"""Open-loop load on a service that classifies pictures: latencies without coordinated omission.

    python benchmarks/load.py http://127.0.0.1:8000/classify --pictures photos/ --rate 50
    python benchmarks/load.py http://127.0.0.1:8000/classify --pictures photos/ --clients 64

`--rate` sends on a schedule fixed in advance and counts each latency from the scheduled time;
`--clients` keeps that many requests under way, which shows where a server saturates. Prints one
JSON object. Linux, uvloop and httptools.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import uvloop
from serving_load.connections import Pool
from serving_load.generator import Load, Schedule, closed_loop, open_loop
from serving_load.requests import form
from serving_load.summary import summarise


def main() -> None:
    """Run one load and print what came of it."""
    options = parser().parse_args()
    if options.samples and not options.samples.parent.is_dir():
        sys.exit(f"no folder {options.samples.parent} for --samples")
    pictures = sorted(options.pictures.glob("*.jpg"))
    if not pictures:
        sys.exit(f"no *.jpg in {options.pictures}")
    if options.nice:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, options.nice)
        except PermissionError:
            sys.exit(f"--nice {options.nice} is not allowed to this user")
    headers = {}
    if options.timeout_ms:
        headers["X-Request-Timeout-Ms"] = str(options.timeout_ms)
    requests = [
        form(options.url, options.field, picture.read_bytes(), headers) for picture in pictures
    ]
    load = uvloop.run(run(options, requests))
    if options.samples:
        options.samples.write_text(json.dumps([asdict(sample) for sample in load.samples]))
    print(json.dumps(summarise(load, warm=options.warm)))


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("url")
    made.add_argument("--pictures", type=Path, required=True, help="folder of *.jpg")
    made.add_argument("--field", default="file", help="name of the form's field")
    how = made.add_mutually_exclusive_group(required=True)
    how.add_argument("--rate", type=float, help="requests a second, on a schedule")
    how.add_argument("--clients", type=int, help="requests kept under way")
    made.add_argument("--schedule", choices=get_args(Schedule), default="poisson")
    made.add_argument("--seed", type=int, default=0, help="of the schedule")
    made.add_argument("--seconds", type=float, default=10.0)
    made.add_argument("--warm", type=float, default=1.0, help="seconds before that, not counted")
    made.add_argument("--connections", type=int, default=512, help="most of them")
    made.add_argument("--timeout-ms", type=int, help="X-Request-Timeout-Ms of every request")
    made.add_argument("--nice", type=int, default=0, help="priority of this process")
    made.add_argument("--samples", type=Path, help="file for every request, as JSON")
    return made


async def run(options: argparse.Namespace, requests: Sequence[bytes]) -> Load:
    """The load that was asked for."""
    pool = Pool(options.url, options.connections)
    try:
        if options.clients:
            return await closed_loop(
                pool,
                requests,
                clients=options.clients,
                seconds=options.seconds,
                warm=options.warm,
            )
        return await open_loop(
            pool,
            requests,
            rate=options.rate,
            seconds=options.seconds,
            warm=options.warm,
            kind=options.schedule,
            seed=options.seed,
        )
    finally:
        pool.close()


if __name__ == "__main__":
    main()
