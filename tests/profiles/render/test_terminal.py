import io

from rich.console import Console

from lavit_deploy.profiles.render import terminal
from lavit_deploy.profiles.report.diff import Change, Difference


def shown(show, *arguments, **options):
    text = io.StringIO()
    show(Console(file=text, width=200), *arguments, **options)
    return text.getvalue()


def test_counts_timings_comparisons_and_remarks_are_printed(unfinished_report):
    text = shown(terminal.show, unfinished_report)
    for expected in (
        "Parameters, and multiply-adds of one image", "Multiply-adds by part", "equal",
        "lavit_micro against pvt_v2_b1", "lavit_micro is faster", "100.0 - 100.0",
        "500.00 *", "had not settled", "FLOPs are multiply-adds",
    ):  # fmt: skip
        assert expected in text
    assert "by stage" not in text


def test_stages_are_printed_on_request(unfinished_report):
    text = shown(terminal.show, unfinished_report, stages=True)
    assert text.count("multiply-adds by stage, M") == 2


def test_a_label_is_no_markup(unfinished_report):
    model = unfinished_report.models[0].model_copy(update={"label": "[red]x[/red]"})
    text = shown(terminal.show, unfinished_report.model_copy(update={"models": (model,)}))
    assert "[red]x[/red]" in text


def test_a_difference_says_what_became_slower_and_why_nothing_may_be_judged():
    slower = Change(
        label="m", what="batch 1", old="10 ms", new="20 ms", ratio=2.0, low=1.9, high=2.1,
        verdict="slower",
    )  # fmt: skip
    text = shown(terminal.show_difference, Difference((slower,), (), 0.05))
    assert "1.900 - 2.100" in text
    assert "Beyond 5% and the noise: became slower, or is missing." in text
    text = shown(terminal.show_difference, Difference((), ("threads: 1, then 2",), 0.05))
    assert "Latencies are not judged. Different threads: 1, then 2." in text
    assert "nothing became slower" in text


def test_output_that_is_no_terminal_is_wide_enough_for_the_tables(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert terminal.console().width >= 130
