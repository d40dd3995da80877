"""Prediction on a Ray cluster of three cores: two workers, the same answers."""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

import pytest
import ray

from lavit_deploy.prediction.ray_data import predict_dataset

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    scratch = tempfile.mkdtemp(prefix="ray")  # a short name: sockets' paths have a limit
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    ray.init(
        num_cpus=3,
        include_dashboard=False,
        object_store_memory=80 << 20,
        log_to_driver=False,
        _temp_dir=scratch,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    yield
    ray.shutdown()
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.mark.usefixtures("cluster")
def test_two_workers_answer_as_one_process_does(bundle, folder):
    files = ray.data.read_binary_files(str(folder), include_paths=True)
    rows = predict_dataset(files, str(bundle.path), workers=2, batch=2).take_all()
    assert len(rows) == 10
    for row in rows:
        path = Path(row["picture"])
        if path.name == "torn.png":
            assert (row["status"], row["class"]) == ("error", "")
            assert row["error"]
        else:
            assert (row["status"], row["class"]) == ("ok", path.parent.name)
            assert row["probability"] == pytest.approx(1.0)
