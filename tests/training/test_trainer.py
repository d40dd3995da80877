import csv
import dataclasses
import errno
import json
import signal

import pytest
import torch

from lavit_deploy.checkpoint import load_checkpoint
from lavit_deploy.common.errors import CheckpointError, TrainingError, UsageError
from lavit_deploy.training import trainer as trainer_module
from lavit_deploy.training.recipe import Recipe
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
