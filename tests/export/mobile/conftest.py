import dataclasses
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lavit_deploy.checkpoint import load_checkpoint, save_checkpoint
from lavit_deploy.export.judging.context import BuildContext
from lavit_deploy.export.judging.parity_pictures import ParityPictures
from lavit_deploy.export.judging.reference import reference_logits
from lavit_deploy.export.mobile.formats.format import Format
from lavit_deploy.export.mobile.target import MobileTarget
from lavit_deploy.export.mobile.tool_environment import (
    ToolEnvironment,
    find_tool_environment,
    interpreter_variable,
)
from lavit_deploy.manifest import Artifact, BatchRange
from lavit_deploy.model.lavit import LaViT


@dataclass(frozen=True)
class Files:
    """Every file of a format, and the folder that they were written to."""

    artifacts: tuple[Artifact, ...]
    folder: Path
    tools: ToolEnvironment

    @property
    def first(self) -> Path:
        return self.folder / self.artifacts[0].file


@pytest.fixture(scope="session")
def small_checkpoint(tiny_model, tiny_preprocess, tmp_path_factory):
    """The tiny model, widened: coremltools leaves constants of fewer than 2048 values alone."""
    config = dataclasses.replace(tiny_model.config, dims=(8, 16, 64, 64))
    with torch.random.fork_rng():
        torch.manual_seed(23)
        model = LaViT(config).eval()
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn(value.shape), alpha=0.05)
    path = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    classes = ["ant", "bee", "cat", "dog", "eel"]
    save_checkpoint(path, model, preprocess=tiny_preprocess, classes=classes)
    return load_checkpoint(path)


@pytest.fixture(scope="session")
def context(small_checkpoint, tiny_preprocess, pictures):
    """A workbench of that model on the shared pictures."""
    model = small_checkpoint.build()
    return BuildContext(
        small_checkpoint,
        model,
        ParityPictures(pictures, "test"),
        reference_logits(model, pictures, tiny_preprocess),
        BatchRange(minimum=1, optimum=2, maximum=4),
        "cpu",
    )


@pytest.fixture(scope="session")
def tools_of():
    """The interpreter of a format; the test is skipped where nothing has its packages."""

    def found(form: Format) -> ToolEnvironment:
        tools = find_tool_environment(form.name, form.modules)
        if tools is None:
            missing = ", ".join(form.modules)
            pytest.skip(f"no Python with {missing} ({interpreter_variable(form.name)} names one)")
        return tools

    return found


@pytest.fixture(scope="session")
def files_of(context, tools_of, tmp_path_factory):
    """Every file of a format for the small model, built when first asked for."""
    made: dict[str, Files] = {}

    def built(form: Format) -> Files:
        tools = tools_of(form)
        if form.name not in made:
            folder = tmp_path_factory.mktemp(form.name)
            target = MobileTarget(form, form.variants, tools)
            artifacts = tuple(target.build(context, folder, lambda _step: None))
            made[form.name] = Files(artifacts, folder, tools)
        return made[form.name]

    return built


@pytest.fixture
def run_example(tmp_path):
    """Run an example script on a file in a given Python; gives what it printed."""

    def ran(python: Path, name: str, file: Path, picture: Path) -> str:
        script = Path(__file__).parents[3] / "examples" / "mobile" / f"classify_{name}.py"
        done = subprocess.run(
            [python, script, file, picture],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": ""},
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return ran
