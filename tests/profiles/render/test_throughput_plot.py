"""The plot of throughput: every model is named, where one can read it."""

from itertools import combinations
from pathlib import Path

import pytest

from lavit_deploy.profiles.render import throughput_plot
from lavit_deploy.profiles.report.schema import Report

REPORTS = Path(__file__).parents[3] / "docs" / "reports"


@pytest.mark.parametrize("name", ["cpu", "cpu-stages"])
def test_labels_of_the_committed_reports_do_not_overlap(name):
    report = Report.read(REPORTS / name / "report.json")
    figure = throughput_plot.throughput(report.models)
    batches = sorted({one.batch for model in report.models for one in model.timings})
    assert [axes.get_title() for axes in figure.axes] == [
        f"batch {batch}" for batch in (batches[0], batches[-1])
    ]
    for axes in figure.axes:
        assert sorted(note.get_text() for note in axes.texts) == sorted(
            model.label for model in report.models
        )
        boxes = [note.get_window_extent() for note in axes.texts]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_a_report_without_timings_still_makes_a_picture(tmp_path):
    report = Report.read(REPORTS / "cpu" / "report.json")
    models = tuple(model.model_copy(update={"timings": ()}) for model in report.models)
    throughput_plot.draw(report.model_copy(update={"models": models}), tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 0
