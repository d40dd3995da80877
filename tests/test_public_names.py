"""The public names of `lavit_deploy`, and what importing them costs."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lavit_deploy

ROOT = Path(__file__).parents[1]
NAMES = [
    *("Artifact", "Bundle", "BundleError", "CheckpointError", "ImageError", "LaViT"),
    *("LaViTConfig", "LavitError", "Manifest", "ParityError", "Preprocess", "UsageError"),
    *("classify", "export_checkpoint", "load_checkpoint", "open_runtime"),
]
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "transformers", "fastapi")


def test_the_public_names_are_these():
    assert sorted(lavit_deploy.__all__) == sorted([*NAMES, "__version__"])
    assert set(lavit_deploy.__all__) <= set(dir(lavit_deploy))


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_what_it_is_called_and_documented(name):
    value = getattr(lavit_deploy, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Wish'"):
        _ = lavit_deploy.Wish


def test_what_a_type_checker_sees_is_what_there_is():
    tree = ast.parse((ROOT / "lavit_deploy" / "__init__.py").read_text())
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname: f"{node.module}".removeprefix("lavit_deploy.")
        for node in guarded.body
        for alias in node.names
    }
    assert seen == lavit_deploy._PLACES


@pytest.mark.parametrize(
    "use",
    [
        "dir(lavit_deploy)",
        "lavit_deploy.Bundle, lavit_deploy.classify, lavit_deploy.open_runtime",
        "lavit_deploy.LaViTConfig, lavit_deploy.Preprocess, lavit_deploy.UsageError",
    ],
)
def test_reading_bundles_loads_no_framework(use):
    code = f"import sys, lavit_deploy; {use}; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not set(HEAVY) & set(ran.stdout.split())


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    lavit_deploy.export_checkpoint(
        ROOT / "examples" / "lavit_fashion_mnist.pth",
        tmp_path / "clothes.bundle",
        targets=("onnx",),
    )
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102 - our own page
    assert capsys.readouterr().out.startswith("bag ")
