"""`lavit-export` where the tools of a mobile format fail."""

import pytest

from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.export.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture
def broken_ncnn(tmp_path, monkeypatch):
    """A Python that has ncnn's packages by its own account, and fails at everything else."""
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ncase "$*" in *conversion_process*) echo "the disk is full" >&2; exit 1;; '
        "*) exit 0;; esac\n"
    )
    python.chmod(0o755)
    monkeypatch.setenv("LAVIT_NCNN_PYTHON", str(python))


def test_what_could_not_be_built_is_said_and_fails_the_command(
    broken_ncnn, tiny_checkpoint_file, tmp_path, capsys, unmeasured
):
    out = tmp_path / "tiny.bundle"
    arguments = ["--ckpt", str(tiny_checkpoint_file), "--out", str(out), "--batch", "1", "4", "16"]
    code = main([*arguments, "--target", "ncnn"])
    assert code == 1
    manifest = Bundle.open(out).manifest
    reason = "ncnn: convert failed: the disk is full"
    assert manifest.not_built == {"ncnn-fp32": reason, "ncnn-fp16": reason}
    assert [item.name for item in manifest.artifacts] == ["onnx-fp32"]
    assert f"ncnn-fp32 was not built: {reason}" in capsys.readouterr().out
