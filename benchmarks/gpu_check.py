"""Run everything that needs an NVIDIA GPU on this one, and write what happened to a report.

    python benchmarks/gpu_check.py --ckpt examples/lavit_digits.pth --out gpu-check
    python benchmarks/gpu_check.py --device cpu --smoke

Exports float32, TF32, float16 and bfloat16 engines and packages with whatever is installed
(TensorRT, TensorRT-RTX, ONNX Runtime's CUDA and TensorRT providers, AOTInductor), compares every
artifact with the float32 PyTorch model, runs it through the runtime of the service, measures it,
runs the tests marked `gpu`, and times the kernels against other ways. What is not installed is
reported as not installed, not as passed.

`--device cpu --smoke` goes the same way on a machine without a GPU, with little work in each step:
whether the program works.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.environment import Environment
from lavit_deploy.common.errors import UsageError
from lavit_deploy.common.gpu import Gpu, find_gpu
from lavit_deploy.manifest import Artifact
from lavit_deploy.runtimes.specs import distributions

_ROOT = Path(__file__).resolve().parents[1]
_EXPORTS = {
    "fp16": ["--fp16"],
    "bf16": ["--bf16"],
    "tf32": ["--tf32", "--mlp", "native"],  # one form of the packages is enough here
    "strip": ["--fp16", "--strip", "--mlp", "native"],
}
_SMOKE_EXPORTS = {"fp16": ["--fp16", "--target", "onnx", "--batch", "1", "2", "4"]}
_SECONDS = 3600


@dataclass(frozen=True)
class Check:
    """One command of the check.

    Attributes:
        name: what it does.
        passed: whether it ended well.
        detail: its last lines, where it did not.
        exported: whether an export came as far as writing its bundle.
    """

    name: str
    passed: bool
    detail: str = ""
    exported: bool = False


def main(arguments: list[str] | None = None) -> int:
    """Run the check.

    Returns:
        0 if everything that could run passed.

    Raises:
        UsageError: there is no GPU, and no trial was asked for.
    """
    parser = argparse.ArgumentParser(description="Check this machine's GPU and write a report.")
    parser.add_argument("--ckpt", type=Path, default=_ROOT / "examples" / "lavit_digits.pth")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--plugin", type=Path, help="library with the plugin (make plugin)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="little work in every step")
    options = parser.parse_args(arguments)
    gpu = find_gpu() if options.device == "cuda" else None
    if gpu is None and options.device == "cuda":
        raise UsageError("no NVIDIA GPU here (nvidia-smi finds none)")
    if gpu is None and not options.smoke:
        raise UsageError("--device cpu checks no GPU: it is for --smoke, a trial of this program")
    if options.plugin is not None and not options.plugin.is_file():
        raise UsageError(f"--plugin {options.plugin}: no such file; make plugin builds it")
    out = options.out.resolve()  # commands run in other folders
    out.mkdir(parents=True, exist_ok=True)
    checks, artifacts = _exports(options, out)
    checks += _programs(options, out)
    write_text(out / "report.md", _report(gpu, checks, artifacts))
    content = {
        "gpu": None if gpu is None else asdict(gpu),
        "environment": Environment.here(distributions()).model_dump(),
        "checks": [asdict(check) for check in checks],
        "artifacts": [{"export": name, **item.model_dump(mode="json")} for name, item in artifacts],
    }
    write_text(out / "report.json", json.dumps(content, indent=2) + "\n")
    print((out / "report.md").read_text())
    return 0 if all(check.passed for check in checks) else 1


def _exports(
    options: argparse.Namespace, out: Path
) -> tuple[list[Check], list[tuple[str, Artifact]]]:
    """Export in every precision; what was done, and what came of it."""
    plugin = ["--plugin", str(options.plugin.resolve())] if options.plugin else []
    checks, artifacts = [], []
    for name, arguments in (_SMOKE_EXPORTS if options.smoke else _EXPORTS).items():
        bundle = out / f"{name}.bundle"
        program = (
            "import sys; sys.argv[0] = 'lavit-export'\n"
            "from lavit_deploy.export.cli import entry; entry()"
        )
        command = [sys.executable, "-c", program, "--ckpt", str(options.ckpt.resolve())]
        command += ["--out", str(bundle), "--force", "--device", options.device]
        check = _run(f"export {' '.join(arguments)}", [*command, *arguments, *plugin], out)
        checks.append(check)
        # An older bundle of that name would tell of an older export.
        if check.exported and (bundle / "manifest.json").is_file():
            artifacts += [(name, item) for item in Bundle.open(bundle).manifest.artifacts]
    return checks, artifacts


def _programs(options: argparse.Namespace, out: Path) -> list[Check]:
    """The tests marked `gpu`, and the benchmarks of the kernels and of whole models."""
    python = sys.executable
    tests = str(_ROOT / "tests" / "kernels")
    kernel = [python, str(_ROOT / "benchmarks" / "la_kernel.py"), "--device", options.device]
    models = [python, str(_ROOT / "benchmarks" / "gpu_inference.py"), "--device", options.device]
    models += ["--out", str(out / "gpu-inference")]
    if options.smoke:
        kernel.append("--smoke")
        models += ["--models", "lavit_micro", "--batch", "1", "--ways", "eager", "onnxruntime"]
        models.append("--smoke")
    else:
        kernel += ["--batch", "8", "64"]
        models += ["--models", "lavit_s", "--batch", "64", "--ways", "eager", "compile", "ours"]
        models += ["ours-fused-mlp"]
    checks = [
        _run("tests marked gpu", [python, "-m", "pytest", "-q", "-m", "gpu", tests], _ROOT),
        _run("the kernel, timed", [*kernel, "--out", str(out / "la_kernel.json")], out),
    ]
    if importlib.util.find_spec("transformers") is None:
        print('... no whole models: pip install "lavit-deploy[profile]"', flush=True)
        return checks
    return [*checks, _run("whole models, timed", models, out)]


def _run(name: str, command: list[str], folder: Path) -> Check:
    print(f"... {name}", flush=True)
    on_cpu = "cpu" in command
    try:
        ran = subprocess.run(  # noqa: S603 - our own programs
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env={**os.environ, "TRITON_INTERPRET": "1"} if on_cpu else None,
        )
    except subprocess.TimeoutExpired:
        return Check(name, passed=False, detail=f"not done after {_SECONDS} s")
    nothing = 5  # pytest: no test was collected
    passed = ran.returncode == 0 or ("pytest" in command and ran.returncode == nothing)
    # pytest says what failed on its standard output, others on their standard error.
    said = ran.stdout if "pytest" in command else ran.stderr or ran.stdout
    lines = said.strip().splitlines()
    detail = "" if passed else " / ".join(lines[-3:])
    return Check(name, passed, detail, exported=ran.returncode in {0, 1})


def _report(gpu: Gpu | None, checks: list[Check], artifacts: list[tuple[str, Artifact]]) -> str:
    """The report in Markdown."""
    here = Environment.here()
    card = (
        "**No GPU: a trial of the program on a CPU**"
        if gpu is None
        else f"{gpu.name}, compute capability {gpu.capability}, {gpu.memory_mib} MiB, driver "
        f"{gpu.driver}"
    )
    lines = [
        "# GPU check",
        "",
        f"{card}; {here.cpu}, {here.cores} cores; Python {here.python}.",
        "",
        ", ".join(f"{name} {version}" for name, version in here.libraries.items()) + ".",
        "",
        "| check | result | |",
        "|---|---|---|",
        *(
            f"| {c.name} | {'passed' if c.passed else 'FAILED'} | {_cell(c.detail)} |"
            for c in checks
        ),
        "",
        "| export | artifact | computes in | read from | parity | how | max difference | ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, item in artifacts:
        times = ", ".join(f"@{t.batch} {t.median_ms:.3f}" for t in item.timings) or "-"
        source = item.engine.precision_source if item.engine else "graph"
        verdict = "passed" if item.failure is None else f"FAILED: {_cell(item.failure.reason)}"
        lines.append(
            f"| {name} | {item.name} | {item.precision_found} | {source} | {verdict} | "
            f"{item.parity.method} | {item.parity.max_difference:.2g} | {times} |"
        )
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    from lavit_deploy.common.command_line import run

    sys.exit(run(main))
