"""Run everything that needs an NVIDIA GPU on this one, and write what happened to a report.

    python benchmarks/gpu_check.py --ckpt examples/lavit_digits.pth --out gpu-check

Exports float32, TF32, float16 and bfloat16 engines with whatever is installed (TensorRT,
TensorRT-RTX, ONNX Runtime's CUDA and TensorRT providers), compares every artifact with the float32
PyTorch model, runs it through the runtime of the service, measures it, and runs the tests marked
`gpu`. What is not installed is reported as not installed, not as passed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from lavit_deploy.bundle import Bundle
from lavit_deploy.environment import Environment
from lavit_deploy.errors import UsageError
from lavit_deploy.files import write_text
from lavit_deploy.gpu import Gpu, find_gpu
from lavit_deploy.manifest import Artifact

_EXPORTS = {
    "fp16": ["--fp16"],
    "bf16": ["--bf16"],
    "tf32": ["--tf32"],
    "strip": ["--fp16", "--strip"],
}
_SECONDS = 3600


@dataclass(frozen=True)
class Check:
    """One command of the check.

    Attributes:
        name: what it does.
        passed: whether it ended well.
        detail: its last lines, where it did not.
    """

    name: str
    passed: bool
    detail: str = ""


def main() -> int:
    """Run the check.

    Returns:
        0 if everything that could run passed.
    """
    parser = argparse.ArgumentParser(description="Check this machine's GPU and write a report.")
    parser.add_argument("--ckpt", type=Path, default=Path("examples/lavit_digits.pth"))
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--plugin", type=Path, help="library with the plugin (make plugin)")
    options = parser.parse_args()
    gpu = find_gpu()
    if gpu is None:
        raise UsageError("no NVIDIA GPU here (nvidia-smi finds none)")
    options.out.mkdir(parents=True, exist_ok=True)
    plugin = ["--plugin", str(options.plugin)] if options.plugin else []
    checks, artifacts = [], []
    for name, arguments in _EXPORTS.items():
        bundle = options.out / f"{name}.bundle"
        command = [sys.executable, "-c", "from export.cli import entry; entry()", "--ckpt"]
        command += [str(options.ckpt), "--out", str(bundle), "--force", "--device", "auto"]
        check = _run(f"export {' '.join(arguments)}", [*command, *arguments, *plugin])
        checks.append(check)
        if (bundle / "manifest.json").is_file():
            artifacts += [(name, item) for item in Bundle.open(bundle).manifest.artifacts]
    checks.append(
        _run("tests marked gpu", [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"])
    )
    write_text(options.out / "report.md", _report(gpu, checks, artifacts))
    content = {
        "gpu": asdict(gpu),
        "environment": Environment.here().model_dump(),
        "checks": [asdict(check) for check in checks],
        "artifacts": [{"export": name, **item.model_dump(mode="json")} for name, item in artifacts],
    }
    write_text(options.out / "report.json", json.dumps(content, indent=2) + "\n")
    print((options.out / "report.md").read_text())
    return 0 if all(check.passed for check in checks) else 1


def _run(name: str, command: list[str]) -> Check:
    print(f"... {name}", flush=True)
    ran = subprocess.run(  # noqa: S603 - our own programs
        command, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    nothing = 5  # pytest: no test was collected
    passed = ran.returncode == 0 or ("pytest" in command and ran.returncode == nothing)
    lines = (ran.stderr or ran.stdout).strip().splitlines()
    return Check(name, passed, "" if passed else " / ".join(lines[-3:]))


def _report(gpu: Gpu, checks: list[Check], artifacts: list[tuple[str, Artifact]]) -> str:
    """The report in Markdown."""
    here = Environment.here()
    lines = [
        "# GPU check",
        "",
        (
            f"{gpu.name}, compute capability {gpu.capability}, {gpu.memory_mib} MiB, driver "
            f"{gpu.driver}; {here.cpu}, {here.cores} cores; Python {here.python}."
        ),
        "",
        ", ".join(f"{name} {version}" for name, version in here.libraries.items()) + ".",
        "",
        "| check | result | |",
        "|---|---|---|",
        *(f"| {c.name} | {'passed' if c.passed else 'FAILED'} | {c.detail} |" for c in checks),
        "",
        "| export | artifact | computes in | read from | parity | how | max difference | ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, item in artifacts:
        times = ", ".join(f"@{t.batch} {t.median_ms:.3f}" for t in item.timings) or "-"
        source = item.engine.precision_source if item.engine else "graph"
        verdict = "passed" if item.passed else f"FAILED: {item.parity.reason}"
        lines.append(
            f"| {name} | {item.name} | {item.precision_found} | {source} | {verdict} | "
            f"{item.parity.method} | {item.parity.max_difference:.2g} | {times} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from lavit_deploy.cli import run

    sys.exit(run(lambda _arguments: main()))
