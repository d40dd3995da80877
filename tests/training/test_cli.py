import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from idx_sets import idx_set
from lavit_deploy.checkpoint import load_checkpoint
from lavit_deploy.common.errors import CheckpointError, DatasetError, TrainingError, UsageError
from lavit_deploy.training.cli import main, make_parser
from lavit_deploy.training.plan import read_recipe, usual_recipe
from lavit_deploy.training.recipe import digits
from lavit_deploy.training.stability.failure import FailureDetector, Sign

pytestmark = pytest.mark.slow

START_SECONDS = 300  # a bound for a hanging process, not a measurement


@pytest.fixture
def short(folder, tmp_path):
    """Options of a training of seconds; 12 pictures in steps of 4."""
    return [
        *("--data", str(folder), "--arch", "lavit_micro", "--out", str(tmp_path / "out")),
        *("--recipe", "digits", "--epochs", "2", "--batch-size", "4"),
        *("--workers", "0", "--threads", "1", "--device", "cpu"),
    ]


def test_a_preset_s_fields_can_be_set(short, tmp_path):
    arguments = [*short, "--epochs", "1", "--model-set", "la_start=0,0,0,2"]
    assert main([*arguments, "--model-set", "attention_residual=false"]) == 0
    loaded = load_checkpoint(tmp_path / "out" / "best.pth")
    assert loaded.config.la_start == (0, 0, 0, 2)
    assert not loaded.config.attention_residual
    with pytest.raises(UsageError, match=r"--model-set la_start is \[0, 0, 2, 2\], the training"):
        main([*short[4:6], "--resume", "--model-set", "la_start=0,0,2,2"])
    assert main([*short[4:6], "--resume", "--model-set", "la_start=0,0,0,2"]) == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("depths=3", "depths is 3; it must be 4 whole numbers"),
        ("attention_residual=no", "attention_residual is 'no'; it must be true or false"),
        ("residual_scale_init=much", "residual_scale_init is 'much'; it must be a number"),
        ("deep=3", "unknown keys"),
        ("num_classes=3", "it comes from the data's classes"),
        ("la_start", "--model-set is 'la_start'; it must be FIELD=VALUE"),
    ],
)
def test_a_field_that_makes_no_model_is_refused(short, setting, message):
    with pytest.raises(UsageError, match=message):
        main([*short, "--model-set", setting])


def test_data_brings_its_recipe(tmp_path):
    idx_set(tmp_path)
    assert usual_recipe(str(tmp_path)) == "fashion-mnist"
    assert usual_recipe(f"fashion-mnist:{tmp_path}") == "fashion-mnist"
    assert usual_recipe("digits") == "digits"
    assert usual_recipe(str(tmp_path / "pictures")) == "imagenet"


def test_the_command_line_is_this():
    options = {
        option
        for action in make_parser()._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    assert options == {
        "--help",
        "--version",
        "--data",
        "--arch",
        "--model-set",
        "--out",
        "--init-from",
        "--init-from-pvt",
        "--teacher",
        "--recipe",
        "--epochs",
        "--batch-size",
        "--lr",
        "--dp-weight",
        "--precision",
        "--seed",
        "--set",
        "--resume",
        "--force",
        "--check-data",
        "--device",
        "--threads",
        "--workers",
        "--grace-epochs",
        "--save-minutes",
    }


def test_a_training_writes_everything_and_its_recipe_can_be_used_again(short, tmp_path, capsys):
    assert main([*short, "--set", "drop_path=0.2", "--set", "precision=bfloat16"]) == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "best.pth",
        "good.pth",
        "last.pth",
        "metrics.csv",
        "recipe.json",
        "tensorboard",
    }
    assert list((out / "tensorboard").glob("events.out.tfevents.*"))
    checkpoint = load_checkpoint(out / "best.pth")
    assert checkpoint.classes == ("blue", "green", "red")
    assert checkpoint.architecture == "lavit_micro"
    recipe = read_recipe(str(out / "recipe.json"))
    assert (recipe.epochs, recipe.drop_path, recipe.precision) == (2, 0.2, "bfloat16")
    assert json.loads((out / "recipe.json").read_text())["arch"] == "lavit_micro"
    printed = capsys.readouterr().out
    assert printed.count("held-out") >= 2  # one line per epoch when there is no terminal
    assert "\r" not in printed
    assert "lavit-export --ckpt" in printed


def test_sigterm_saves_and_exits_143_and_resume_finishes_bit_for_bit(short, tmp_path):
    straight = [value if value != str(tmp_path / "out") else str(tmp_path / "a") for value in short]
    assert main(straight) == 0

    process = subprocess.Popen(
        [sys.executable, "-m", "lavit_deploy.training", *short],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + START_SECONDS
    while not (tmp_path / "out" / "recipe.json").exists():  # written when the training begins
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 143, printed
    assert "everything is saved" in printed
    stopped = torch.load(tmp_path / "out" / "last.pth", weights_only=True)
    assert stopped["position"] != [2, 0]  # or there would be nothing to resume

    assert main(["--out", str(tmp_path / "out"), "--resume", "--workers", "0"]) == 0
    ends = [torch.load(tmp_path / name / "last.pth", weights_only=True) for name in ("a", "out")]
    for part in ("model", "model_ema"):
        for name, tensor in ends[0][part].items():
            assert tensor.equal(ends[1][part][name]), name


def test_a_folder_that_holds_a_training_is_not_overwritten_unasked(short, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "last.pth").write_bytes(b"of an earlier training")
    with pytest.raises(UsageError, match="--resume continues it, --force replaces it"):
        main(short)
    assert main([*short, "--force", "--epochs", "1"]) == 0
    assert load_checkpoint(tmp_path / "out" / "last.pth").classes == ("blue", "green", "red")


def test_resuming_cannot_change_the_recipe(short, tmp_path):
    assert main([*short, "--epochs", "1"]) == 0
    resume = ["--out", str(tmp_path / "out"), "--resume"]
    with pytest.raises(UsageError, match=r"cannot change the recipe: base_lr 0\.004 -> 0\.5"):
        main([*resume, "--lr", "0.5"])
    with pytest.raises(UsageError, match="is of lavit_micro, --arch is lavit_s"):
        main([*resume, "--arch", "lavit_s"])
    assert main([*resume, "--epochs", "1", "--seed", "0"]) == 0  # repeating it is fine


def test_broken_pictures_are_listed_without_training(short, folder, tmp_path, capsys):
    (folder / "val" / "red" / "1.png").write_bytes(b"")
    assert main([*short, "--check-data"]) == 2
    printed = capsys.readouterr()
    assert "val/red/1.png cannot be read: the file is empty" in printed.err
    assert "12 training and 6 held-out pictures, 1 broken" in printed.out
    assert not (tmp_path / "out").exists()
    with pytest.raises(DatasetError, match=r"val/red/1\.png cannot be read"):
        main(short)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--out", "o"], UsageError, "--data and --arch needed"),
        (["--out", "o", "--resume"], CheckpointError, "no training to resume: there is no"),
        (
            ["--out", "o", "--data", "digits", "--arch", "lavit_micro", "--set", "drop_path"],
            UsageError,
            "--set is 'drop_path'; it must be FIELD=VALUE",
        ),
        (
            ["--out", "o", "--data", "digits", "--arch", "lavit_micro", "--recipe", "best"],
            UsageError,
            "no recipe 'best': there are digits, fashion-mnist, imagenet, or a recipe.json",
        ),
        (
            ["--out", "o", "--data", "nowhere", "--arch", "lavit_micro"],
            DatasetError,
            "no data at nowhere",
        ),
        (
            ["--out", "o", "--data", "digits", "--arch", "lavit_micro", "--device", "tpu"],
            UsageError,
            "--device is 'tpu'",
        ),
        (["--out", "o", "--workers", "-1"], UsageError, "--workers is -1; it must be at least 0"),
        (
            ["--out", "o", "--data", "digits", "--arch", "lavit_micro", "--batch-size", "5000"],
            UsageError,
            "batch_size is 5000, there are 1437 training pictures",
        ),
    ],
)
def test_wrong_input_is_explained(arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as raised:
        main(arguments)
    assert message in str(raised.value)
    assert not (tmp_path / "o").exists()


def test_digits_have_their_recipe_without_asking():
    options = make_parser().parse_args(["--data", "digits", "--arch", "lavit_micro", "--out", "o"])
    from lavit_deploy.training.plan import new_plan

    assert new_plan(options).recipe == digits()


def test_a_finished_training_says_that_there_is_nothing_to_resume(short, tmp_path, capsys):
    assert main([*short, "--epochs", "1"]) == 0
    assert main(["--out", str(tmp_path / "out"), "--resume", "--workers", "0"]) == 0
    assert "all 1 epochs are done, there is nothing to resume" in capsys.readouterr().out


def test_a_failed_training_goes_on_from_its_good_state_only_with_a_change(
    short, tmp_path, monkeypatch, capsys
):
    def fallen_after_the_first(_detector, seen):
        return [Sign.FALL] if seen.epoch > 1 else []

    with monkeypatch.context() as patched:
        patched.setattr(FailureDetector, "signs", fallen_after_the_first)
        with pytest.raises(TrainingError, match=r"failed: accuracy has fallen.*since epoch 2"):
            main([*short, "--epochs", "3", "--grace-epochs", "1"])
    resume = ["--out", str(tmp_path / "out"), "--resume", "--workers", "0"]
    with pytest.raises(
        UsageError, match=r"would fail again: --resume needs a change, such as --lr"
    ):
        main(resume)
    with pytest.raises(UsageError, match=r"cannot change the recipe: drop_path 0\.1 -> 0\.3"):
        main([*resume, "--set", "drop_path=0.3"])
    assert main([*resume, "--lr", "0.001"]) == 0
    assert "resuming in epoch 2" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert written["recipe"]["base_lr"] == 0.001
    assert torch.load(tmp_path / "out" / "last.pth", weights_only=True)["position"] == [3, 0]


def test_a_training_that_never_learnt_has_nothing_good_to_resume(short, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(FailureDetector, "signs", lambda *_: [Sign.ONE_CLASS])
        with pytest.raises(TrainingError, match="since epoch 1; try --lr"):
            main([*short, "--grace-epochs", "2"])
    assert not (tmp_path / "out" / "good.pth").exists()
    with pytest.raises(UsageError, match="failed from its first epoch; there is nothing good"):
        main(["--out", str(tmp_path / "out"), "--resume"])


def test_a_training_begins_from_the_weights_of_another(short, tmp_path):
    assert main([*short, "--epochs", "1"]) == 0
    first = load_checkpoint(tmp_path / "out" / "best.pth")
    second = [value if value != str(tmp_path / "out") else str(tmp_path / "b") for value in short]
    begin = [*second, "--init-from", str(tmp_path / "out" / "best.pth")]
    assert main([*begin, "--epochs", "1", "--lr", "1e-9"]) == 0  # as good as no step
    for name, value in load_checkpoint(tmp_path / "b" / "best.pth").state_dict.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(value, first.state_dict[name], rtol=0, atol=1e-6)
    written = json.loads((tmp_path / "b" / "recipe.json").read_text())
    assert written["init_from"] == str(tmp_path / "out" / "best.pth")
    with pytest.raises(
        UsageError, match=r"is of another architecture: depths .* -> \[1, 1, 2, 2\]"
    ):
        main([*begin, "--force", "--model-set", "depths=1,1,2,2"])


def test_a_checkpoint_teaches_and_a_resumed_training_keeps_its_teacher(short, tmp_path):
    assert main([*short, "--epochs", "1"]) == 0
    teacher = tmp_path / "out" / "best.pth"
    second = [value if value != str(tmp_path / "out") else str(tmp_path / "b") for value in short]
    assert main([*second, "--epochs", "1", "--teacher", str(teacher)]) == 0
    written = json.loads((tmp_path / "b" / "recipe.json").read_text())
    assert written["teacher"] == {"file": str(teacher), "sha256": load_checkpoint(teacher).sha256}
    resume = ["--out", str(tmp_path / "b"), "--resume", "--workers", "0"]
    assert main([*resume, "--teacher", str(teacher)]) == 0  # repeating it is fine
    with pytest.raises(UsageError, match="cannot change the teacher"):
        main([*resume, "--teacher", str(tmp_path / "b" / "best.pth")])
    teacher.write_bytes((tmp_path / "b" / "best.pth").read_bytes())
    with pytest.raises(UsageError, match=r"best\.pth is another teacher than the training had"):
        main(resume)


def test_a_size_at_which_attention_is_none_is_said(short, tmp_path, capsys):
    assert main([*short, "--epochs", "1", "--set", "image_size=32"]) == 0
    printed = capsys.readouterr().out
    assert "at 32 pixels stage 1, 2, 3, 4 of lavit_micro attends to one key" in printed
    arguments = [value if value != "lavit_micro" else "lavit_nano" for value in short]
    assert main([*arguments, "--epochs", "1", "--set", "image_size=32", "--force"]) == 0
    assert "one key" not in capsys.readouterr().out
