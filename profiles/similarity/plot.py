"""A report about attention maps as tables and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lavit_deploy.common.atomic_files import atomic_path
from lavit_deploy.profiles.similarity.report import (
    MEASURES,
    LayerSimilarity,
    ModelSimilarity,
    SimilarityReport,
    Statistic,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#4e79d9", "#e0702c", "#2f9e6e", "#c9487f", "#9a6fd0", "#b08a1e")
_COLUMNS = 4


def show(console: Console, report: SimilarityReport) -> None:
    """A table for each model: a row for each layer, the untrained model's value in brackets."""
    for model in report.models:
        table = Table(title=f"{escape(model.label)}: attention maps on {escape(report.data)}")
        table.add_column("layer")
        for title in MEASURES.values():
            table.add_column(title, justify="right")
        for one, control in zip(model.trained, model.untrained, strict=True):
            marked = f"{one.name} LA" if one.less_attention else one.name
            table.add_row(marked, *(_cell(one, control, name) for name in MEASURES))
        table.caption = "in brackets: the same model untrained"
        console.print(table)


def _cell(one: LayerSimilarity, control: LayerSimilarity, name: str) -> str:
    value: Statistic | None = getattr(one, name)
    other: Statistic | None = getattr(control, name)
    if value is None or other is None:
        return "-"
    return f"{value.mean:.2f} ({other.mean:.2f})"


def draw(report: SimilarityReport, path: Path) -> None:
    """A panel for each measure, a line for each model; dashed: the same untrained.

    Args:
        report: what to draw.
        path: a file that ends in .png, .svg or .pdf.
    """
    from matplotlib.figure import Figure

    rows = -(-len(MEASURES) // _COLUMNS)
    figure = Figure(figsize=(4.2 * _COLUMNS, 3.6 * rows), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axes, (name, title) in zip(panels, MEASURES.items(), strict=False):
        for model, colour in zip(report.models, _COLOURS * len(report.models), strict=False):
            _lines(axes, model, name, colour)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("stage.layer")
        axes.grid(visible=True, alpha=0.3)
    legend = panels[-1]
    legend.axis("off")
    for model, colour in zip(report.models, _COLOURS * len(report.models), strict=False):
        legend.plot([], [], color=colour, label=model.label)
    legend.plot([], [], color="grey", linestyle="--", label="untrained")
    legend.plot([], [], color="grey", marker="o", linestyle="", label="less-attention layer")
    legend.legend(loc="center")
    figure.suptitle(f"Attention maps on {report.data}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=120)


def _lines(axes: Axes, model: ModelSimilarity, name: str, colour: str) -> None:
    """A model and its control; the line breaks between stages."""
    for layers, style in ((model.trained, "-"), (model.untrained, "--")):
        points = [
            (place, one, value)
            for place, one in enumerate(layers)
            if (value := getattr(one, name)) is not None
        ]
        for stage in dict.fromkeys(one.stage for _, one, _ in points):
            own = [(place, value.mean) for place, one, value in points if one.stage == stage]
            axes.plot(*zip(*own, strict=True), color=colour, linestyle=style, marker=".")
        if style == "-":
            marks = [(place, value.mean) for place, one, value in points if one.less_attention]
            if marks:
                axes.plot(*zip(*marks, strict=True), color=colour, marker="o", linestyle="")
    axes.set_xticks(
        range(len(model.trained)), [one.name for one in model.trained], rotation=90, fontsize=7
    )
