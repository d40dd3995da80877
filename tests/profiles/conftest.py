import pytest
import torch

from graph_store import ask_the_exporter, graph_store  # noqa: F401 - fixtures
from lavit_deploy.bundle.bundle import Bundle
from lavit_deploy.export.cli import main as export
from lavit_deploy.profiles.session import Session
from lavit_deploy.profiles.subjects.names import resolve
from lavit_deploy.profiles.subjects.profiled_model import RunSettings
from lavit_deploy.profiles.timing.runner import Runner
from lavit_deploy.profiles.timing.turns import BatchTimings, TimingPlan, WarmUp
from tiny_models import seeded, tiny_checkpoint, tiny_checkpoint_file, tiny_model, tiny_preprocess  # noqa: F401 - fixtures


class Scripted(Runner):
    """A runner whose calls take the seconds that it was given, then the last ones for ever."""

    def __init__(self, label, seconds=(0.01,), log=None):
        self.label = label
        self.log = [] if log is None else log
        self._seconds = list(seconds)
        self.batches = []
        self.closed = False

    def prepare(self, batch):
        self.batches.append(batch)

    def call(self):
        self.log.append(self.label)
        seconds = self._seconds.pop(0) if len(self._seconds) > 1 else self._seconds[0]
        if isinstance(seconds, BaseException):
            raise seconds
        return seconds

    def close(self):
        self.closed = True


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models here are small or run once: threads that wait for each other cost more than they save.

    Session scope, so that fixtures which build and trace models have it too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def scripted():
    return Scripted


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint_file, tmp_path_factory):
    """The bundle that `lavit-export` writes for the tiny model, float32 only."""
    out = tmp_path_factory.mktemp("profiles") / "tiny.bundle"
    code = export(
        [
            "--ckpt",
            str(tiny_checkpoint_file),
            "--out",
            str(out),
            *["--target", "onnx", "--batch", "1", "2", "16"],
        ]
    )
    assert code == 0
    return Bundle.open(out)


@pytest.fixture(scope="session")
def unfinished_session():
    """Two models with made-up timings at two batch sizes, the second one unfinished."""
    names = ("lavit_micro", "pvt_v2_b1")
    settings = RunSettings()
    session = Session(
        [resolve(name, settings) for name in names],
        settings,
        TimingPlan(),
        comparisons=[("lavit_micro", "pvt_v2_b1"), ("pvt_v2_b1", "lavit_micro")],
    )
    session.count(strict=True)
    done, started = BatchTimings(1), BatchTimings(4)
    for name, seconds in zip(names, (0.1, 0.2), strict=True):
        done.warmups[name], done.peak_memory[name] = WarmUp(8, settled=True), 1000
        done.turns[name] = [[seconds] * 3 for _ in range(7)]
    started.warmups["lavit_micro"] = WarmUp(9, settled=False)
    started.peak_memory["lavit_micro"] = None
    started.turns["lavit_micro"] = [[0.5, 0.4, 0.6]]
    session.batches += [done, started]
    return session


@pytest.fixture(scope="session")
def unfinished_report(unfinished_session):
    """Two models with made-up timings at two batch sizes, the second one unfinished."""
    return unfinished_session.report(complete=False)
