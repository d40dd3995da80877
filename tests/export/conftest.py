import pytest

from graph_store import ask_the_exporter, graph_store  # noqa: F401 - fixtures
from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.export.cli import main
from tiny_models import (  # noqa: F401 - fixtures
    seeded,
    shallow_checkpoint_file,
    tiny_checkpoint,
    tiny_checkpoint_file,
    tiny_model,
    tiny_preprocess,
)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint_file, tmp_path_factory):
    """The bundle that `lavit-export --fp16` writes for the tiny model."""
    out = tmp_path_factory.mktemp("export") / "tiny.bundle"
    code = main(
        [
            "--ckpt",
            str(tiny_checkpoint_file),
            "--fp16",
            "--out",
            str(out),
            "--batch",
            "1",
            "4",
            "16",
        ]
    )
    assert code == 0
    return Bundle.open(out)


@pytest.fixture
def unmeasured(monkeypatch):
    """Leave out the measurement of latency and memory, for tests that look at neither."""
    monkeypatch.setattr("lavit_deploy.export.pipeline.measure", lambda bundle, **_options: bundle)
