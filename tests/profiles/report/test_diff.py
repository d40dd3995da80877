import pytest

from lavit_deploy.common.environment import Environment
from lavit_deploy.common.errors import UsageError
from lavit_deploy.profiles import cli
from lavit_deploy.profiles.report.costs import Counts
from lavit_deploy.profiles.report.diff import difference
from lavit_deploy.profiles.report.schema import ModelReport, Report
from lavit_deploy.profiles.report.times import Timing

HERE = Environment.here()


def timing(median, spread=0.01, batch=1):
    return Timing(
        batch=batch, calls=18, turns=6, warmup_calls=8, settled=True, median_ms=median,
        median_low_ms=None if spread is None else median * (1 - spread),
        median_high_ms=None if spread is None else median * (1 + spread),
        p95_ms=None, p99_ms=None, images_per_second=1e3 * batch / median, peak_memory_bytes=None,
    )  # fmt: skip


def report(*timings, label="m", threads=1, total=100):
    model = ModelReport(
        label=label, kind="preset", runtime="torch", precision="fp32", attention="eager",
        image_size=(8, 8), parameters=7, parameters_by_part={},
        counts=Counts(total=total, method="traced", closed_form=total, by_part={}, by_stage={}),
        timings=timings,
    )  # fmt: skip
    return Report(
        project_version="0", created="now", command=("x",), environment=HERE, device="cpu",
        threads=threads, load=0.0, method=None, complete=True, models=(model,),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        (timing(10), "no clear change"),
        (timing(10.4), "no clear change"),  # within the tolerance
        (timing(11), "slower"),
        (timing(11, spread=0.2), "no clear change"),  # may be noise
        (timing(11, spread=None), "no clear change"),  # too few turns to tell
        (timing(9), "faster"),
    ],
)
def test_a_latency_is_judged_by_the_whole_interval_of_its_ratio(new, verdict):
    found = difference(report(timing(10)), report(new), tolerance=0.05)
    (change,) = found.changes
    assert change.verdict == verdict
    assert change.ratio == pytest.approx(new.median_ms / 10)
    assert found.regressed == (verdict == "slower")


def test_between_different_machines_nothing_is_called_slower():
    found = difference(report(timing(10)), report(timing(30), threads=2), tolerance=0.05)
    assert not found.regressed
    assert found.machines == ("threads: 1, then 2",)


def test_a_model_or_batch_that_is_missing_fails_and_a_new_one_does_not():
    old, new = report(timing(10), timing(20, batch=2)), report(timing(10))
    assert [change.verdict for change in difference(old, new, tolerance=0.05).changes] == [
        "no clear change",
        "missing",
    ]
    assert difference(old, new, tolerance=0.05).regressed
    assert not difference(new, old, tolerance=0.05).regressed
    found = difference(old, report(timing(10), label="other"), tolerance=0.05)
    assert [change.verdict for change in found.changes] == ["missing", "added"]


def test_changed_counts_are_told_and_are_no_regression():
    found = difference(report(timing(10)), report(timing(10), total=90), tolerance=0.05)
    assert [(change.what, change.verdict) for change in found.changes] == [
        ("multiply-adds", "changed"),
        ("batch 1", "no clear change"),
    ]
    assert not found.regressed


def test_the_command_ends_with_1_for_a_regression_and_0_otherwise(tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    report(timing(10)).write_json(old)
    report(timing(12)).write_json(new)
    assert cli.main(["--diff", str(old), str(new)]) == 1
    assert "slower" in capsys.readouterr().out
    assert cli.main(["--diff", str(new), str(old)]) == 0
    assert cli.main(["--diff", str(old), str(new), "--tolerance", "30"]) == 0


def test_what_is_no_report_is_refused_in_one_line(tmp_path):
    file = tmp_path / "other.json"
    file.write_text('{"a": 1}')
    with pytest.raises(UsageError, match="no report of lavit-profile"):
        cli.main(["--diff", str(file), str(file)])
    with pytest.raises(UsageError, match="cannot read"):
        cli.main(["--diff", str(tmp_path / "absent.json"), str(file)])
    with pytest.raises(UsageError, match="leave out lavit_micro"):
        cli.main(["lavit_micro", "--diff", str(file), str(file)])
