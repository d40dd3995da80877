"""The report as one HTML file that needs nothing beside it: tables, and plots as inline SVG."""

from __future__ import annotations

import shlex
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.profiles.render.charts import Chart, charts
from lavit_deploy.profiles.render.markdown import verdict
from lavit_deploy.profiles.report.caveats import limits, uncounted
from lavit_deploy.profiles.report.machine import describe
from lavit_deploy.profiles.report.schema import Report


def write_html(report: Report, path: Path) -> None:
    """Write the page, atomically."""
    write_text(path, html(report))


def html(report: Report) -> str:
    """The page; the same text for the same report."""
    templates = Environment(
        loader=PackageLoader("lavit_deploy.profiles", "render"),
        autoescape=True,  # labels are paths that a user gave
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(number=_number, interval=_interval, millions=_millions)
    return templates.get_template("report.html").render(
        report=report,
        machine=report.gpu or report.environment.cpu,
        state=describe(report.before, report.after),
        command=shlex.join(report.command),
        charts=[(chart, _markup(chart)) for chart in charts(report)],
        unsettled=any(not one.settled for model in report.models for one in model.timings),
        batches=sorted({one.batch for model in report.models for one in model.timings}),
        verdict=verdict,
        remarks=(*limits(report), *uncounted(report)),
    )


def _markup(chart: Chart) -> Markup:
    return Markup(chart.svg)  # noqa: S704 - drawn by matplotlib, which escapes the labels


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _millions(value: float, digits: int = 1) -> str:
    return f"{value / 1e6:,.{digits}f}"


def _interval(low: float | None, high: float | None, digits: int = 1) -> str:
    return "-" if low is None or high is None else f"{low:,.{digits}f} - {high:,.{digits}f}"
