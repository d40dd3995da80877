"""Table 2 of the LaViT paper, row by row beside what is counted and measured here.

    lavit-profile MODEL... --json run.json      (one or more runs, all with the anchor lavit_s)
    python -m lavit_deploy.profiles.paper_table2 run.json... --out FOLDER

Runs may divide the rows among them, since all models at once need much memory. A model's speed
is its own, measured; its rank is by its speed relative to the anchor within its run.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lavit_deploy.common import command_line
from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.errors import UsageError
from lavit_deploy.profiles.baselines import BASELINES, TABLE_2, Published, TableRow
from lavit_deploy.profiles.report.record import Record
from lavit_deploy.profiles.report.schema import ModelReport, Report
from lavit_deploy.profiles.report.times import Timing

ANCHOR = "lavit_s"
"""The model that is part of every run."""

TOLERANCE = 0.02
"""How far a count may be from a printed one that it reproduces, beyond the rounding in print."""


class Row(Record):
    """One row.

    Attributes:
        label: as the paper prints it.
        model: name here.
        pixels: side of the image here.
        paper_parameters_m: parameters, millions.
        authors_parameters_m: what the model's own authors print; None where none was found.
        parameters_m: counted here.
        paper_gflops: multiply-adds, 10^9.
        authors_gflops: what the model's own authors print; None where none was found.
        gflops: counted here.
        paper_images_per_second: on the paper's GPU.
        images_per_second: here.
        relative: that over the speed of the anchor in the same run.
        slowest: lower end of its 95 % interval; None for too few turns.
        fastest: upper end.
        paper_rank: 1 for the fastest of the paper's measurements.
        rank: 1 for the fastest here.
        source: where the authors print their counts.
        remark: what is known about the difference.
    """

    label: str
    model: str
    pixels: int
    paper_parameters_m: float
    authors_parameters_m: float | None
    parameters_m: float
    paper_gflops: float
    authors_gflops: float | None
    gflops: float
    paper_images_per_second: int
    images_per_second: float
    relative: float
    slowest: float | None
    fastest: float | None
    paper_rank: int
    rank: int
    source: str
    remark: str

    @property
    def reproduced(self) -> bool:
        """Whether both of the paper's counts are ours."""
        return reproduces(self.parameters_m, self.paper_parameters_m) and reproduces(
            self.gflops, self.paper_gflops
        )


class Measured(NamedTuple):
    """One model of a run.

    Attributes:
        report: what was found.
        timing: of the first batch size.
        relative: its images per second over the anchor's in the same run.
    """

    report: ModelReport
    timing: Timing
    relative: float


def reproduces(found: float, printed: float) -> bool:
    """Whether a count agrees with a printed one: within 2 %, or to the one digit in print."""
    return abs(found / printed - 1.0) <= TOLERANCE or round(found, 1) == printed


def measured(reports: Iterable[Report]) -> dict[str, Measured]:
    """Every model of the runs by its name.

    Raises:
        UsageError: a run without the anchor, or a model that was not timed.
    """
    found: dict[str, Measured] = {}
    for report in reports:
        timings = {model.label: _timing(model) for model in report.models}
        if ANCHOR not in timings:
            raise UsageError(f"a run of {', '.join(timings)} lacks {ANCHOR}, which all must have")
        anchor = timings[ANCHOR].images_per_second
        for model in report.models:
            timing = timings[model.label]
            found[model.label] = Measured(model, timing, timing.images_per_second / anchor)
    return found


def rows(found: Mapping[str, Measured]) -> list[Row]:
    """The table, in the paper's order.

    Raises:
        UsageError: a row's model was not measured.
    """
    missing = [row.model for row in TABLE_2 if row.model not in found]
    if missing:
        raise UsageError(f"not measured: {', '.join(missing)}")
    paper = _ranks({row.model: float(row.images_per_second) for row in TABLE_2})
    here = _ranks({row.model: found[row.model].relative for row in TABLE_2})
    return [_row(row, found[row.model], paper[row.model], here[row.model]) for row in TABLE_2]


def rank_correlation(table: Sequence[Row]) -> float:
    """Spearman's: 1 where both orders are the same, 0 where they have nothing in common."""
    count = len(table)
    squares = sum((row.rank - row.paper_rank) ** 2 for row in table)
    return 1.0 - 6.0 * squares / (count * (count**2 - 1))


def page(table: Sequence[Row], reports: Sequence[Report]) -> str:
    """The table as Markdown."""
    return "\n".join((*_head(table, reports), *_table(table), "", *_differences(table))) + "\n"


def _timing(model: ModelReport) -> Timing:
    if not model.timings:
        raise UsageError(f"{model.label} was not timed")
    return model.timings[0]


def _speed(timing: Timing, milliseconds: float | None) -> float | None:
    """Images per second at a latency of a call, None for an unknown one."""
    return None if milliseconds is None else 1000 * timing.batch / milliseconds


def _ranks(speeds: Mapping[str, float]) -> dict[str, int]:
    order = sorted(speeds, key=lambda model: -speeds[model])
    return {model: place for place, model in enumerate(order, start=1)}


def _row(row: TableRow, one: Measured, paper_rank: int, rank: int) -> Row:
    baseline = BASELINES.get(row.model)
    authors: Published | None = baseline.published if baseline else None
    return Row(
        label=row.label,
        model=row.model,
        pixels=one.report.image_size[0],
        paper_parameters_m=row.parameters_m,
        authors_parameters_m=authors.parameters_m if authors else None,
        parameters_m=one.report.parameters / 1e6,
        paper_gflops=row.gflops,
        authors_gflops=authors.gflops if authors else None,
        gflops=one.report.counts.total / 1e9,
        paper_images_per_second=row.images_per_second,
        images_per_second=one.timing.images_per_second,
        relative=one.relative,
        slowest=_speed(one.timing, one.timing.median_high_ms),
        fastest=_speed(one.timing, one.timing.median_low_ms),
        paper_rank=paper_rank,
        rank=rank,
        source=authors.source if authors else "",
        remark=row.remark,
    )


def _head(table: Sequence[Row], reports: Sequence[Report]) -> Iterator[str]:
    first = reports[0]
    here, model = first.environment, first.models[0]
    yield "# Table 2 of the paper, row by row"
    yield ""
    yield (
        "Zhang et al., arXiv:2406.00427, Table 2, beside the counts of the models' own authors "
        "and those of this project."
    )
    yield ""
    yield f"- {first.convention}"
    yield (
        f"- Speed here: {here.cpu}, {first.threads} threads, {model.runtime}, "
        f"{model.precision}, batch {model.timings[0].batch}, {model.attention} attention where "
        "a model has a choice; random weights. The paper's is that of a GPU that it does not name "
        "beside the table, at a batch that it does not give."
    )
    for report in reports:
        names = ", ".join(one.label for one in report.models)
        anchor = next(one for one in report.models if one.label == ANCHOR).timings[0]
        yield (
            f"- Run of {report.created}, load {report.load:.2f}, alternating between {names}; "
            f"{ANCHOR} made {anchor.images_per_second:.1f} images/s in it."
            + ("" if report.complete else " **Interrupted.**")
        )
    yield (
        f"- Ranks are by speed over that of {ANCHOR} in the same run: the machine changes between "
        "runs, so that images/s of different runs do not compare. Neighbours whose intervals "
        "overlap are not told apart. Spearman's correlation of both orders: "
        f"{rank_correlation(table):.2f}."
    )
    yield (
        "- `*`: this project's count is neither within 2 % of the printed one nor equal to it "
        "to the digits in print."
    )
    yield ""


def _table(table: Sequence[Row]) -> Iterator[str]:
    yield (
        "| paper's row | model | M paper | M authors | M here | G paper | G authors | G here "
        "| images/s paper | rank | images/s here | 95 % interval "
        f"| over {ANCHOR} | rank |"
    )
    yield "|---|---|" + "---:|" * 12
    for row in table:
        cells = (
            row.label,
            f"`{row.model}`" + ("" if row.pixels == 224 else f" ({row.pixels} px)"),
            _printed(row.paper_parameters_m, row.parameters_m),
            _printed(row.authors_parameters_m, row.parameters_m),
            f"{row.parameters_m:.2f}",
            _printed(row.paper_gflops, row.gflops),
            _printed(row.authors_gflops, row.gflops),
            f"{row.gflops:.3f}",
            str(row.paper_images_per_second),
            str(row.paper_rank),
            f"{row.images_per_second:.1f}",
            "-" if row.slowest is None else f"{row.slowest:.1f} - {row.fastest:.1f}",
            f"{row.relative:.2f}",
            str(row.rank),
        )
        yield "| " + " | ".join(cells) + " |"


def _printed(number: float | None, found: float) -> str:
    if number is None:
        return "-"
    return f"{number:g}" + ("" if reproduces(found, number) else " \\*")


def _differences(table: Sequence[Row]) -> Iterator[str]:
    yield "## Rows of the paper that cannot be reproduced"
    yield ""
    for row in table:
        if row.reproduced and not row.remark:
            continue
        parts = (
            ("parameters", row.parameters_m, row.paper_parameters_m),
            ("multiply-adds", row.gflops, row.paper_gflops),
        )
        off = [
            f"{what} {100 * (found / printed - 1):+.1f} % here"
            for what, found, printed in parts
            if not reproduces(found, printed)
        ]
        told = "; ".join((*off, *([row.remark] if row.remark else [])))
        yield f"- **{row.label}**: {told}."
    yield ""
    yield "## Sources of the authors' counts"
    yield ""
    for source in dict.fromkeys(row.source for row in table if row.source):
        yield f"- {', '.join(row.label for row in table if row.source == source)}: {source}."


def as_csv(table: Sequence[Row]) -> str:
    """The table with every field as comma-separated values."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(Row.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in table)
    return text.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table from reports of `lavit-profile`.

    Raises:
        UsageError: a file that is no report, or reports that lack something.
    """
    made = argparse.ArgumentParser(
        "python -m lavit_deploy.profiles.paper_table2", description=__doc__
    )
    made.add_argument("reports", nargs="+", type=Path, metavar="REPORT.json")
    made.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    options = made.parse_args(arguments)
    reports = [Report.read(path) for path in options.reports]
    table = rows(measured(reports))
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "README.md", page(table, reports))
    write_text(options.out / "table2.csv", as_csv(table))
    print(f"written: {options.out}/README.md, {options.out}/table2.csv")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
