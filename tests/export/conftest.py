import pytest

from export.cli import main
from lavit_deploy.bundle import Bundle


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint_file, tmp_path_factory):
    """The bundle that `lavit-export --fp16` writes for the tiny model."""
    out = tmp_path_factory.mktemp("export") / "tiny.bundle"
    code = main(
        ["--ckpt", str(tiny_checkpoint_file), "--fp16", "--out", str(out), "--batch", "1", "4", "8"]
    )
    assert code == 0
    return Bundle.open(out)
