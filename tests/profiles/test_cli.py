import dataclasses
import errno
import json
import re
import sys

import pytest

from lavit_deploy.common.errors import InferenceError, ProfileError, UsageError
from lavit_deploy.profiles import cli
from lavit_deploy.profiles.report.costs import UncountedOperator
from lavit_deploy.profiles.report.schema import Report
from lavit_deploy.profiles.subjects.names import resolve
from lavit_deploy.profiles.subjects.profiled_model import RunSettings
from lavit_deploy.profiles.subjects.torch_model import TorchModel
from lavit_deploy.profiles.timing import machine_peaks
from lavit_deploy.profiles.timing.torch_runner import TorchRunner

pytestmark = pytest.mark.slow

QUICK = ["--runs", "3", "--threads", "1"]


def test_the_command_line_has_these_options():
    found = set(re.findall(r"--[a-z-]+", cli.make_parser().format_usage()))
    assert found == {
        "--attention", "--batch", "--ckpt", "--compare", "--csv", "--data", "--details", "--device",
        "--diff", "--growth", "--html", "--image-size", "--json", "--markdown", "--max-batch",
        "--memory-limit", "--no-timing", "--pictures", "--plot", "--precision", "--roofline",
        "--runs", "--runtime", "--seconds", "--similarity", "--split", "--stages", "--strict",
        "--threads", "--tolerance", "--version", "--warmup", "--warmup-seconds",
    }  # fmt: skip


def test_a_run_prints_its_tables_and_writes_its_files(tmp_path, capsys):
    json_file, csv_file, plot, page = (
        tmp_path / f"report.{e}" for e in ("json", "csv", "png", "md")
    )
    files = ["--json", str(json_file), "--csv", str(csv_file), "--plot", str(plot)]
    files += ["--markdown", str(page)]
    code = cli.main(["lavit_micro", "--batch", "1", "2", *QUICK, "--strict", "--stages", *files])
    assert code == 0
    report = Report.model_validate_json(json_file.read_text())
    assert report.complete
    assert report.threads == 1
    assert [timing.batch for timing in report.models[0].timings] == [1, 2]
    assert len(csv_file.read_text().splitlines()) == 3
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "## Batch 2" in page.read_text()
    printed = capsys.readouterr().out
    for expected in ("FLOPs are multiply-adds", "stage 4", "images/s", "equal", str(json_file)):
        assert expected in printed


def test_two_models_are_compared(tmp_path, tiny_checkpoint_file):
    file, tiny = tmp_path / "r.json", str(tiny_checkpoint_file)
    comparison = ["--compare", tiny, "lavit_micro"]
    code = cli.main([tiny, "lavit_micro", *comparison, "--batch", "1", *QUICK, "--json", str(file)])
    (comparison,) = Report.model_validate_json(file.read_text()).comparisons
    assert code == 0
    assert comparison.low <= comparison.speedup <= comparison.high


def test_a_checkpoint_its_bundle_and_a_preset_are_timed_together(
    tmp_path, tiny_checkpoint_file, tiny_bundle
):
    file = tmp_path / "r.json"
    models = [str(tiny_checkpoint_file), str(tiny_bundle.path), "lavit_micro"]
    assert cli.main([*models, "--batch", "2", *QUICK, "--json", str(file)]) == 0
    report = Report.model_validate_json(file.read_text())
    assert [model.kind for model in report.models] == ["checkpoint", "artifact", "preset"]
    assert all(model.timings[0].turns == 6 for model in report.models)
    assert report.models[0].counts.total == report.models[1].counts.total


def test_a_batch_beyond_the_artifacts_range_is_refused(tiny_bundle):
    with pytest.raises(UsageError, match="at most 16 images"):
        cli.main([str(tiny_bundle.path), "--batch", "1", "32", *QUICK])


def test_counting_alone_times_nothing(capsys):
    assert cli.main(["lavit_micro", "--no-timing"]) == 0
    assert "images/s" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lavit_micro", "lavit_micro"], "twice"),
        (["lavit_micro", "--compare", "lavit_micro", "lavit_t"], "lavit_t"),
        (["lavit_micro", "--no-timing", "--plot", "x.png"], "--no-timing"),
        (["lavit_micro", "--no-timing", "--split"], "--no-timing"),
        (["lavit_micro", "--no-timing", "--growth", "64"], "at least two"),
        (["lavit_micro", "--plot", "x.jpeg"], "must end in"),
        (["lavit_micro", "--json", "/"], "is a folder"),
        ([], "no MODEL"),
        (["lavit_micro", "--roofline"], "add --split"),
        (["lavit_micro@cuda-graph"], "--device cuda"),
    ],
)
def test_contradictions_are_found_before_anything_is_built(arguments, message, monkeypatch):
    monkeypatch.setattr(cli, "resolve", pytest.fail)
    with pytest.raises(UsageError, match=message):
        cli.main(arguments)


@pytest.mark.parametrize("option", ["--batch", "--runs", "--threads", "--image-size", "--seconds"])
@pytest.mark.parametrize("value", ["0", "-1", "many", "inf"])
def test_numbers_that_make_no_sense_end_with_code_2(option, value):
    with pytest.raises(SystemExit) as caught:
        cli.main(["lavit_micro", option, value])
    assert caught.value.code == 2


def interrupt_after(monkeypatch, calls, error):
    """Let the runner raise `error` on its call number `calls` + 1."""
    original, seen = TorchRunner.call, []

    def call(self):
        seen.append(self)
        if len(seen) > calls:
            raise error
        return original(self)

    monkeypatch.setattr(TorchRunner, "call", call)


def test_ctrl_c_writes_what_was_measured_and_ends_with_130(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(TorchRunner, "peak_memory", lambda self: None)
    monkeypatch.setattr("lavit_deploy.profiles.session.time_batch", _settled_at_once)
    interrupt_after(monkeypatch, 8 + 2 * 4 + 1, KeyboardInterrupt())
    file = tmp_path / "r.json"
    code = cli.main(["lavit_micro", "--batch", "1", "--runs", "60", "--json", str(file)])
    assert code == 130
    report = Report.model_validate_json(file.read_text())
    assert not report.complete
    assert report.models[0].timings[0].turns == 2
    captured = capsys.readouterr()
    assert "interrupted" in captured.err
    assert "images/s" in captured.out


def _settled_at_once(runners, plan, result, notify):
    """`time_batch` with a warm-up of exactly eight calls, so that calls can be counted."""
    from lavit_deploy.profiles.timing import turns

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "_SETTLED", float("inf"))
        turns.time_batch(runners, plan, result, notify)


def test_ctrl_c_while_counting_writes_the_models_that_were_counted(monkeypatch, tmp_path):
    measure, seen = TorchModel.measure, []

    def stop_at_the_second(self):
        seen.append(self.label)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return measure(self)

    monkeypatch.setattr(TorchModel, "measure", stop_at_the_second)
    file = tmp_path / "r.json"
    assert cli.main(["lavit_micro", "lavit_t", "--json", str(file)]) == 130
    assert [model.label for model in Report.model_validate_json(file.read_text()).models] == [
        "lavit_micro"
    ]


def test_a_model_that_fails_keeps_what_was_measured_before(monkeypatch, tmp_path):
    interrupt_after(monkeypatch, 0, InferenceError("out of memory"))
    file = tmp_path / "r.json"
    with pytest.raises(InferenceError):
        cli.main(["lavit_micro", *QUICK, "--json", str(file)])
    assert json.loads(file.read_text())["complete"] is False


@pytest.fixture
def measured(monkeypatch):
    """Change what the models' counts come out as."""
    measure = TorchModel.measure

    def change(**values):
        def changed(self):
            report = measure(self)
            return report.model_copy(update={"counts": report.counts.model_copy(update=values)})

        monkeypatch.setattr(TorchModel, "measure", changed)

    return change


def test_strict_fails_on_an_operator_that_may_hide_a_product(measured, capsys):
    unknown = UncountedOperator(operator="aten::cdist", calls=1, elements=1, reason=None)
    measured(uncounted=(unknown,))
    with pytest.raises(ProfileError, match="cdist"):
        cli.main(["lavit_micro", "--no-timing", "--strict"])
    assert cli.main(["lavit_micro", "--no-timing"]) == 0
    assert "aten::cdist" in capsys.readouterr().out


def test_strict_fails_where_the_closed_form_says_otherwise(measured, capsys):
    measured(closed_form=17)
    with pytest.raises(ProfileError, match="closed form"):
        cli.main(["lavit_micro", "--no-timing", "--strict"])
    assert cli.main(["lavit_micro", "--no-timing"]) == 0
    assert "equal" not in capsys.readouterr().out


def test_a_file_that_cannot_be_written_costs_no_tables_and_no_other_file(
    tmp_path, monkeypatch, capsys
):
    def full(_report, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Report, "write_json", full)
    files = ["--json", str(tmp_path / "r.json"), "--csv", str(tmp_path / "r.csv")]
    with pytest.raises(ProfileError, match=r"cannot write .*r\.json: No space left on device$"):
        cli.main(["lavit_micro", "--no-timing", *files])
    shown = capsys.readouterr().out
    assert "lavit_micro" in shown
    assert f"written: {tmp_path / 'r.csv'}" in shown
    assert (tmp_path / "r.csv").exists()


def test_files_that_cannot_be_written_are_found_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "resolve", pytest.fail)
    blocker, file = tmp_path / "file", str(tmp_path / "r")
    blocker.write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot write .*/file is no folder"):
        cli.main(["lavit_micro", "--json", str(blocker / "sub" / "r.json")])
    with pytest.raises(UsageError, match="for two outputs"):
        cli.main(["lavit_micro", "--json", file, "--csv", file])


def test_entry_turns_errors_into_exit_codes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lavit-profile", "lavit_xxl"])
    with pytest.raises(SystemExit) as caught:
        cli.entry()
    assert caught.value.code == UsageError.exit_code
    assert "Traceback" not in capsys.readouterr().err


def test_settings_reach_the_models(monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "resolve", lambda name, settings: seen.append(settings))
    arguments = ["lavit_t", "--attention", "eager", "--image-size", "256", "--precision", "bf16"]
    options = cli.make_parser().parse_args(
        [*arguments, "--runtime", "torch-compile", "--threads", "3"]
    )
    cli._session(options)
    assert dataclasses.asdict(seen[0]) == {
        "device": "cpu",
        "threads": 3,
        "precision": "bf16",
        "runtime": "torch-compile",
        "attention": "eager",
        "image_size": 256,
    }


def test_time_is_split_and_growth_counted_when_asked_for(tiny_bundle, tmp_path, capsys):
    file = tmp_path / "report.json"
    models = ["lavit_micro", str(tiny_bundle.path)]
    options = ["--batch", "1", *QUICK, "--split", "--growth", "64", "96", "--details"]
    assert cli.main([*models, *options, "--json", str(file)]) == 0
    report = Report.model_validate_json(file.read_text())
    assert [split.batch for model in report.models for split in model.time_splits] == [1, 1]
    assert [model.growth.sizes for model in report.models] == [(64, 96)] * 2
    shown = capsys.readouterr().out
    for words in ("not attributed", "grows with", "aten::linear", "stages.0.patch_embed"):
        assert words in shown


@pytest.fixture
def quick_peaks(monkeypatch):
    """Peaks of tiny matrices: the real ones take seconds."""
    monkeypatch.setattr(machine_peaks, "_SIZES", {"cpu": (32,)})
    monkeypatch.setattr(machine_peaks, "_COPIED", {"cpu": 1 << 16})


def test_a_roofline_a_curve_and_the_page_come_from_one_run(quick_peaks, tmp_path, capsys):
    file, page, text = (tmp_path / f"report.{end}" for end in ("json", "html", "md"))
    options = ["--batch", "1", "--max-batch", "4", "--split", "--roofline"]
    files = ["--json", str(file), "--html", str(page), "--markdown", str(text)]
    assert cli.main(["lavit_micro", *options, *QUICK, *files]) == 0
    report = Report.model_validate_json(file.read_text())
    (model,) = report.models
    assert [timing.batch for timing in model.timings] == [1, 2, 4]
    assert [split.batch for split in model.time_splits] == [1]  # the curve's are not split
    assert [point.stage for point in model.roofline] == [
        *(f"stage {n}" for n in range(1, 5)),
        "head",
    ]
    assert "Roofline" in page.read_text()
    assert "## Roofline" in text.read_text()
    assert "Roofline" in capsys.readouterr().out


def test_a_runtime_behind_a_name_applies_to_that_model_alone():
    settings = RunSettings(threads=1)
    compiled = resolve("lavit_micro@torch-compile", settings)
    assert (compiled.label, compiled.measure().runtime) == (
        "lavit_micro@torch-compile",
        "torch-compile",
    )
    assert resolve("lavit_micro", settings).measure().runtime == "torch"


def test_a_bundles_artifact_takes_no_other_runtime(tiny_bundle):
    with pytest.raises(UsageError, match="runtime of its own"):
        resolve(f"{tiny_bundle.path}@torch-compile", RunSettings())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ckpt", "{file}", "--data", "digits"], "for --similarity"),
        (["--similarity", "--data", "digits"], "needs a checkpoint"),
        (["--similarity", "--ckpt", "{file}"], "--data digits"),
        (["--similarity", "lavit_s", "--data", "digits"], "no file at lavit_s"),
        (["--similarity", "--ckpt", "{file}", "--data", "digits", "--html", "x.html"], "--json"),
    ],
)
def test_what_similarity_cannot_do_is_said_before_any_work(arguments, said, tiny_checkpoint_file):
    with pytest.raises(UsageError, match=said):
        cli.main([word.format(file=tiny_checkpoint_file) for word in arguments])


def test_similarity_prints_its_table_and_writes_its_files(tmp_path, tiny_checkpoint_file, capsys):
    files = [tmp_path / f"maps.{ending}" for ending in ("json", "csv", "png")]
    options = ["--json", str(files[0]), "--csv", str(files[1]), "--plot", str(files[2])]
    command = ["--similarity", "--ckpt", str(tiny_checkpoint_file), "--data", "digits"]
    assert cli.main([*command, "--pictures", "3", *options]) == 0
    printed = capsys.readouterr().out
    assert "4.3 LA" in printed
    assert all(file.stat().st_size and str(file) in printed for file in files)
