import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from lavit_deploy.profiles.render.charts import charts
from lavit_deploy.profiles.report.schema import Report

REPORTS = Path(__file__).parents[3] / "docs" / "reports"


@pytest.fixture(scope="module")
def drawn():
    return list(charts(Report.read(REPORTS / "cpu-stages" / "report.json")))


def test_a_chart_is_an_element_that_scales_and_needs_nothing_beside_it(drawn):
    for chart in drawn:
        element = ET.fromstring(chart.svg)  # noqa: S314 - drawn here
        assert element.get("viewBox")
        assert element.get("width") is None
        assert element.get("aria-label") == chart.title
        assert not re.findall(r'(?:src|href)="(?!#)', chart.svg)


def test_names_in_two_charts_never_meet(drawn):
    found = [set(re.findall(r'\bid="([^"]+)"', chart.svg)) for chart in drawn]
    assert all(found)
    assert len(set.union(*found)) == sum(map(len, found))


def test_only_what_was_measured_is_drawn(unfinished_report):
    titles = [chart.title for chart in charts(unfinished_report)]
    assert titles == ["Throughput against multiply-adds", "Multiply-adds by part"]
