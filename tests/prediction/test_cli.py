"""`lavit-predict` from the command line."""

import csv
import json
import signal
import subprocess
import sys
import time

import pytest

from lavit_deploy.common.errors import UsageError
from lavit_deploy.prediction import run as run_module
from lavit_deploy.prediction.cli import main

PATIENCE = 60.0


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_becomes_a_table_and_failures_are_exit_code_1(bundle, folder, tmp_path, capsys):
    out = tmp_path / "results.csv"
    assert main([str(bundle.path), str(folder), "--out", str(out)]) == 1
    found = rows(out)
    assert len(found) == 10
    assert {row["class_1"] for row in found if row["picture"].startswith("green")} == {"green"}
    assert (
        "1 of 10 pictures could not be classified, such as red/torn.png" in capsys.readouterr().err
    )
    assert [path.name for path in tmp_path.glob("results*")] == ["results.csv"]  # no journal stays


def test_with_labels_it_says_how_right_the_answers_are(bundle, folder, tmp_path, capsys):
    (folder / "red" / "torn.png").unlink()
    (folder / "green" / "0.png").write_bytes((folder / "red" / "0.png").read_bytes())
    out = tmp_path / "r.jsonl"
    assert main([str(bundle.path), str(folder), "--labels", "--out", str(out)]) == 0
    assert "accuracy 88.89%" in capsys.readouterr().out
    report = json.loads((tmp_path / "r.evaluation.json").read_text())
    assert report["accuracy"] == pytest.approx(8 / 9)
    assert report["confusion"] == [[3, 0, 0], [1, 2, 0], [0, 0, 3]]
    assert (tmp_path / "r.evaluation.png").is_file()


def test_without_out_there_is_a_line_for_each_picture(bundle, folder, capsys):
    assert main([str(bundle.path), str(folder / "blue" / "0.png")]) == 0
    assert capsys.readouterr().out == "0.png\tblue\t1.0000\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "x.txt"], "ends in .txt"),
        (["--out", "x.csv", "--logits"], "CSV has no cells for vectors"),
        (["--artifact", "nothing"], "has no artifact 'nothing'"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(
    bundle, folder, tmp_path, monkeypatch, options, words
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=words) as caught:
        main([str(bundle.path), str(folder), *options])
    assert caught.value.exit_code == 2
    assert not list(tmp_path.glob("x*"))


def test_an_old_table_is_kept_unless_forced(bundle, folder, tmp_path):
    out = tmp_path / "r.csv"
    out.write_text("mine")
    with pytest.raises(UsageError, match="--force replaces it"):
        main([str(bundle.path), str(folder), "--out", str(out)])
    assert out.read_text() == "mine"
    main([str(bundle.path), str(folder), "--out", str(out), "--force"])
    assert len(rows(out)) == 10


def test_labels_that_the_model_does_not_know_are_an_error_that_lists_its_classes(
    bundle, folder, tmp_path
):
    (folder / "list.csv").write_text("path,label\nred/0.png,rouge\n")
    with pytest.raises(UsageError, match="its classes are red, green, blue"):
        main([str(bundle.path), str(folder / "list.csv"), "--labels"])


def test_an_interrupted_run_goes_on_and_gives_the_same_table(
    bundle, folder, tmp_path, monkeypatch, capsys
):
    whole, out = tmp_path / "whole.csv", tmp_path / "r.csv"
    main([str(bundle.path), str(folder), "--out", str(whole), "--batch", "2"])
    classified = run_module.Predictor._classified
    seen = []

    def until_interrupted(self, batch):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(batch)
        return classified(self, batch)

    monkeypatch.setattr(run_module.Predictor, "_classified", until_interrupted)
    command = [str(bundle.path), str(folder), "--out", str(out), "--batch", "2"]
    with pytest.raises(KeyboardInterrupt):
        main(command)
    assert "interrupted after 6 of 10 pictures" in capsys.readouterr().err
    assert not out.exists()
    monkeypatch.setattr(run_module.Predictor, "_classified", classified)
    main(command)
    assert "going on after 6 pictures" in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_was_done(bundle, folder, tmp_path):
    out = tmp_path / "r.jsonl"
    files = []
    for number in range(3000):
        link = folder / "many" / f"{number:05}.png"
        link.parent.mkdir(exist_ok=True)
        link.hardlink_to(folder / "red" / "0.png")
        files.append(link)
    command = [
        *(sys.executable, "-c", "from lavit_deploy.prediction.cli import entry; entry()"),
        *(str(bundle.path), str(folder / "many"), "--out", str(out)),
        *("--batch", "1", "--decoders", "0"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "r.jsonl.partial"
    end = time.monotonic() + PATIENCE
    while not (journal.exists() and journal.stat().st_size > 5000):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert not out.exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert "going on after" in done.stderr
    names = [json.loads(line)["picture"] for line in out.read_text().splitlines()]
    assert names == [file.name for file in files]
