import contextlib
import csv
import dataclasses
import errno
import json
import signal

import numpy as np
import pytest
import torch

from lavit_deploy.checkpoint import load_checkpoint
from lavit_deploy.common.errors import CheckpointError, TrainingError, UsageError
from lavit_deploy.training import trainer as trainer_module
from lavit_deploy.training.interruption import Interruption
from lavit_deploy.training.recipe import Recipe
from lavit_deploy.training.reporting import ProgressBar
from lavit_deploy.training.resume_point import load_state
from lavit_deploy.training.trainer import clear

TIMES = ("seconds", "images_per_second")
STEPS = 3  # of an epoch: 27 pictures in batches of 8
VALIDATION = 2  # batches of the 11 held-out pictures


def comparable(value):
    """A training state with the wall-clock times taken out, tensors as they are."""
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    return value


def assert_identical(one, other, path=""):
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_identical(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_identical(a, b, f"{path}/{index}")
    elif isinstance(one, torch.Tensor):
        assert one.equal(other), path  # bit for bit
    else:
        assert one == other, path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "precision"),
    [
        pytest.param(1, "float32", id="mid-epoch"),
        pytest.param(STEPS, "float32", id="last step"),
        pytest.param(STEPS + 1, "float32", id="mid-validation"),
        pytest.param(STEPS + VALIDATION, "float32", id="end of validation"),
        pytest.param(STEPS + VALIDATION + 2, "float32", id="second epoch"),
        pytest.param(2, "bfloat16", id="bfloat16"),
        pytest.param(2, "float16", id="float16, with its scaler"),
    ],
)
def test_an_interrupted_training_resumes_bit_for_bit(make_trainer, run, tmp_path, precision, after):
    straight = make_trainer("straight", precision=precision)
    assert run(straight) == 0

    stopped = make_trainer("stopped", precision=precision)
    assert run(stopped, signal.SIGINT, after) == signal.SIGINT
    assert not (tmp_path / "stopped" / "best.pth").exists() or after > STEPS + VALIDATION
    torch.manual_seed(999)  # nothing may depend on generators of the process
    resumed = make_trainer("stopped", precision=precision)
    resumed.restore(load_state(tmp_path / "stopped" / "last.pth"))
    assert run(resumed) == 0

    for name in ("last.pth", "best.pth"):
        one, other = (
            comparable(torch.load(tmp_path / folder / name, weights_only=True))
            for folder in ("straight", "stopped")
        )
        assert_identical(one, other)
    rows = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
        for file in (
            (tmp_path / folder / "metrics.csv").open() for folder in ("straight", "stopped")
        )
    ]
    assert rows[0] == rows[1]
    assert [row["epoch"] for row in rows[0]] == ["1", "2"]


def test_sigterm_stops_like_sigint_and_is_told_apart(make_trainer, run, tmp_path):
    trainer = make_trainer()
    assert run(trainer, signal.SIGTERM, 2) == signal.SIGTERM
    assert load_state(tmp_path / "out" / "last.pth")["position"] == [0, 2]


def test_signals_have_their_old_handlers_after_a_training(make_trainer, run):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(make_trainer(epochs=1, warmup_epochs=0.0))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_training_learns_the_colours(make_trainer, run):
    trainer = make_trainer(
        epochs=8,
        repeats=1,
        mix_probability=0.0,
        rand_augment_ops=0,
        erase_probability=0.0,
        base_lr=1.0,
    )
    assert run(trainer) == 0
    assert trainer.history[-1].loss < trainer.history[0].loss - 0.2
    assert trainer.best_accuracy == 1.0


def test_both_files_are_checkpoints_that_can_be_exported(make_trainer, run, tmp_path, data):
    trainer = make_trainer()
    run(trainer)
    best = load_checkpoint(tmp_path / "out" / "best.pth")
    last = load_checkpoint(tmp_path / "out" / "last.pth")
    last_ema = load_checkpoint(tmp_path / "out" / "last.pth", use_ema=True)
    for checkpoint in (best, last, last_ema):
        assert checkpoint.classes == data.classes
        assert checkpoint.preprocess == data.preprocess
        assert not checkpoint.inferred
        checkpoint.build()
    assert last.state_dict["head.weight"].equal(trainer.model.head.weight)
    assert last_ema.state_dict["head.weight"].equal(trainer.ema.module.head.weight)


def test_best_is_the_better_of_both_weights_and_the_row_says_which(make_trainer, run, tmp_path):
    trainer = make_trainer(epochs=4)
    run(trainer)
    best_rows = [row for row in trainer.history if row.best]
    accuracy = -1.0
    for row in trainer.history:
        assert bool(row.best) == (max(row.accuracy, row.ema_accuracy) > accuracy)
        if row.best:
            better = "ema" if row.ema_accuracy >= row.accuracy else "model"
            assert row.best == better
        accuracy = max(accuracy, row.accuracy, row.ema_accuracy)
    # The stored weights have the accuracy that the row claims.
    again = make_trainer("again")
    again.model.load_state_dict(load_checkpoint(tmp_path / "out" / "best.pth").state_dict)
    again.model.eval()
    right = 0
    for sample in (again._held_out_view[index] for index in range(11)):
        images = again.normalise(torch.tensor(sample.pixels)[None])
        right += int(again.model(images).argmax() == sample.label)
    assert right / 11 == pytest.approx(max(best_rows[-1].accuracy, best_rows[-1].ema_accuracy))


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_good_state(
    make_trainer, run, tmp_path
):
    run(make_trainer())
    before = (tmp_path / "out" / "last.pth").read_bytes()
    trainer = make_trainer()
    torch.nn.init.constant_(trainer.model.head.bias, float("nan"))
    with pytest.raises(TrainingError, match=r"not finite in epoch 1.*last.pth is from before"):
        run(trainer)
    assert (tmp_path / "out" / "last.pth").read_bytes() == before


@pytest.mark.parametrize(
    ("epochs", "left"), [(1, ".* is from before"), (0, "no .* had been written")]
)
def test_a_full_disk_is_one_line_that_says_what_is_left(
    make_trainer, run, tmp_path, monkeypatch, epochs, left
):
    def full(path, _state):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    if epochs:
        run(make_trainer())
    monkeypatch.setattr(trainer_module, "save_state", full)
    with pytest.raises(TrainingError, match=rf"cannot write .*last.pth: No space left.*; {left}"):
        run(make_trainer())


def test_other_pictures_cannot_continue_a_training(make_trainer, run, tmp_path):
    run(make_trainer())
    state = load_state(tmp_path / "out" / "last.pth")
    with pytest.raises(UsageError, match="other pictures or classes"):
        make_trainer().restore({**state, "data": "0"})


def test_a_batch_that_does_not_divide_is_refused(make_trainer):
    with pytest.raises(UsageError, match="batch_size 8 does not divide among 1 processes"):
        make_trainer(accumulate=3)


def test_parts_of_a_batch_add_up_to_its_gradient(make_trainer, run):
    """Without BatchNorm's statistics and drop path, a batch in parts is the batch.

    The first update of AdamW has one size per element whatever the gradient's, so the moments are
    compared: float32 sums in another order, hence the tolerance.
    """
    moments = []
    for accumulate in (1, 4):
        trainer = make_trainer(accumulate=accumulate, drop_path=0.0, clip_norm=0.0)
        for stage in trainer.model.stages[1:]:
            stage.residual.norm.momentum = 0.0
            stage.residual.norm.eval()
            stage.residual.norm.train = lambda mode=True, norm=stage.residual.norm: norm
        assert run(trainer, signal.SIGINT, 1) == signal.SIGINT
        moments.append(trainer.optimizer.state[trainer.model.head.weight]["exp_avg"])
    assert moments[0].allclose(moments[1], atol=1e-6)
    assert moments[0].abs().max() > 1e-4


def test_recipe_json_has_what_the_command_line_takes(make_trainer, run, tmp_path, recipe):
    run(make_trainer())
    content = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert Recipe.from_dict(content["recipe"]) == recipe


def test_clearing_removes_only_what_a_training_wrote(make_trainer, run, tmp_path):
    run(make_trainer())
    (tmp_path / "out" / "notes.txt").write_text("mine")
    clear(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"PK\x03\x04 not really", "damaged"),
        ({"model": {}}, "without a training state"),
        ({"format": 99}, "format 99; this version reads 1"),
        ({"format": 1, "model": {}}, "lacks"),
    ],
)
def test_a_file_that_is_no_training_state_is_refused(tmp_path, content, message):
    path = tmp_path / "last.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_state(path)


def test_a_save_within_an_epoch_changes_nothing(make_trainer, run, tmp_path):
    one, other = make_trainer("one"), make_trainer("other")
    other.settings = dataclasses.replace(other.settings, save_minutes=0.0)
    run(one)
    run(other)
    states = [comparable(load_state(tmp_path / name / "last.pth")) for name in ("one", "other")]
    assert_identical(*states)


class WarnedProgressBar(ProgressBar):
    """Keeps the warnings, and breaks the model after some batches as a collapse leaves it."""

    def __init__(self, trainer=None, after=None):
        super().__init__(10, quiet=True)
        self.trainer, self.after, self.batches, self.warnings = trainer, after, 0, []

    def advance(self):
        super().advance()
        self.batches += 1
        if self.batches == self.after:
            norm = self.trainer.model.norm  # what it feeds into the classifier is now constant
            norm.requires_grad_(False)
            torch.nn.init.zeros_(norm.weight)
            torch.nn.init.zeros_(norm.bias)

    def warn(self, line):
        self.warnings.append(line)

    def collapsed(self):
        """Epochs that were said to have one answer; maps of one-coloured pictures may be dead."""
        return [int(line.split(":")[0].split()[1]) for line in self.warnings if "one class" in line]


EASY = {"mix_probability": 0.0, "rand_augment_ops": 0, "erase_probability": 0.0, "drop_path": 0.0}
"""With these the tiny model is right about most colours after three epochs."""


def collapsing(make_trainer, healthy, epochs, **settings):
    """A training that is healthy for some epochs, then answers one thing for ever."""
    trainer = make_trainer(epochs=epochs, warmup_epochs=0.5, base_lr=1.0, **EASY, **settings)
    return trainer, WarnedProgressBar(trainer, after=healthy * (STEPS + VALIDATION) + 1)


def train(trainer, progress):
    with Interruption() as interruption:
        return trainer.run(interruption, progress)


def test_a_training_that_collapses_is_warned_of_and_ends_with_its_last_good_state(
    make_trainer, tmp_path
):
    trainer, progress = collapsing(make_trainer, healthy=3, epochs=20)
    with pytest.raises(TrainingError) as raised:
        train(trainer, progress)
    assert len(trainer.history) == 3 + 3  # the epochs of grace
    assert progress.collapsed() == [4, 5, 6]
    assert "since epoch 4" in str(raised.value)
    assert "good.pth is the state after epoch 3; --resume goes on from there" in str(raised.value)
    assert "try --lr 0.25 (now 1)" in str(raised.value)
    good, last = (load_state(tmp_path / "out" / name) for name in ("good.pth", "last.pth"))
    assert (good["position"], good["failed"]) == ([3, 0], False)
    assert (last["position"], last["failed"]) == ([6, 0], True)
    assert good["history"][-1]["accuracy"] > 0.7  # or it would not have been healthy
    again = make_trainer(out="again", epochs=20, warmup_epochs=0.5, base_lr=0.25, **EASY)
    again.restore(good)
    assert again.optimizer.param_groups[0]["initial_lr"] == again.recipe.peak_lr  # the lower one
    assert train(again, WarnedProgressBar()) == 0
    assert again.history[-1].accuracy > 0.7


def test_without_a_grace_a_collapse_is_only_said(make_trainer, tmp_path):
    trainer, progress = collapsing(make_trainer, healthy=3, epochs=8)
    trainer.detector = dataclasses.replace(trainer.detector, grace_epochs=0)
    with pytest.raises(TrainingError, match="accuracy has fallen by more than half"):
        train(trainer, progress)  # the end of the training is no success all the same
    assert len(trainer.history) == 8
    assert progress.collapsed() == [4, 5, 6, 7, 8]
    assert load_state(tmp_path / "out" / "good.pth")["position"] == [3, 0]


def test_a_loss_that_rises_to_that_of_a_constant_answer_is_said_within_the_epoch(
    make_trainer, monkeypatch
):
    monkeypatch.setattr(trainer_module, "_CHECK_STEPS", 1)
    trainer, progress = collapsing(make_trainer, healthy=3, epochs=4)
    with pytest.raises(TrainingError):
        train(trainer, progress)
    at_once = [line for line in progress.warnings if "step" in line]
    assert len(at_once) == 1  # once an epoch
    assert at_once[0].startswith("epoch 4, step ")
    assert "the loss is that of a constant answer" in at_once[0]


def test_scores_are_limited_in_training_and_a_resumed_one_goes_on_bit_for_bit(make_trainer, run):
    straight = make_trainer("straight", score_limit=0.05, base_lr=4.0)
    run(straight)
    stopped = make_trainer("stopped", score_limit=0.05, base_lr=4.0)
    assert run(stopped, signal.SIGINT, after=2) == signal.SIGINT
    resumed = make_trainer("stopped", score_limit=0.05, base_lr=4.0)
    resumed.restore(load_state(resumed.settings.out / "last.pth"))
    run(resumed)
    sums = torch.zeros(3)
    assert_identical(comparable(straight.state(sums)), comparable(resumed.state(sums)))
    free = make_trainer("free", base_lr=4.0)
    run(free)

    def largest(trainer):
        images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        scores = trainer.model.eval().forward_with_scores(images).scores
        return max(item.scores.abs().max().item() for item in scores)

    assert largest(straight) < 0.5 * largest(free)


class Liar(torch.nn.Module):
    """Says of every picture that it shows the first class."""

    def forward(self, images):
        assert not torch.is_grad_enabled()
        return torch.tensor([50.0, 0.0, 0.0]).expand(len(images), 3)


@pytest.mark.parametrize(("share", "answer"), [(0.0, 0.0), (1.0, 1.0)])
def test_a_model_learns_the_share_that_its_teacher_has(make_trainer, run, share, answer):
    trainer = make_trainer(
        teacher=Liar(), teacher_share=share, epochs=4, warmup_epochs=0.5, base_lr=1.0, **EASY
    )
    with contextlib.suppress(TrainingError):  # to answer one thing is a failure, elsewhere
        run(trainer)
    wrong = [index for index in range(9) if trainer.data.held_out.labels[index] != 0]
    pixels = [trainer._held_out_view[index].pixels for index in wrong]
    images = trainer.normalise(torch.tensor(np.stack(pixels)))
    answers = trainer.model.eval()(images).argmax(dim=-1)
    assert (answers == 0).float().mean() == answer
