"""Rows of the report, the tables and the plot made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lavit_deploy.common.atomic_files import atomic_path, write_text
from lavit_deploy.common.environment import Environment
from lavit_deploy.runtimes.specs import distributions

BATCHES = (1, 8)
PLAIN = "plain"

_COLUMNS = (
    *("model", "artifact", "MiB", "of plain", "agreement", "cosine", "accuracy"),
    *(name for batch in BATCHES for name in (f"ms @{batch}", "x")),
    *("others", "note"),
)


@dataclass(frozen=True)
class Row:
    """One artifact of one model. What a run did not measure is None or empty.

    Attributes:
        model: the model's name.
        artifact: the artifact's name; "plain" is what the others are compared with.
        mib: size of its files, MiB.
        agreement: share of held-out pictures with exactly the class of float32, 0 to 1.
        cosine: smallest cosine of a picture's logits with those of float32.
        accuracy: share of right classes, 0 to 1; None without labels.
        ms: median milliseconds per picture, by batch size.
        speed: pictures per second over those of "plain", by batch size.
        others: share of the machine that other processes took during the timing, 0 to 1.
        float_blocks: blocks that `lavit-export` returned to float.
        note: what else there is to say, such as why it failed.
    """

    model: str
    artifact: str
    mib: float
    agreement: float | None = None
    cosine: float | None = None
    accuracy: float | None = None
    ms: dict[str, float] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)
    others: float | None = None
    float_blocks: tuple[str, ...] = ()
    note: str = ""

    def over(self, old: Row) -> Row:
        """This row, with what it did not measure taken from an older one."""
        kept = {
            name: getattr(old, name)
            for name in ("agreement", "cosine", "accuracy", "ms", "speed", "others")
            if getattr(self, name) in (None, {})
        }
        return replace(self, **kept)


def read_rows(out: Path) -> list[Row]:
    """Rows of the report in a folder; none where there is no report."""
    file = out / "report.json"
    if not file.exists():
        return []
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return [Row(**row | {"float_blocks": tuple(row["float_blocks"])}) for row in rows]


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The old rows with those of the models in `new` replaced, in place, or added at the end.

    Artifacts that a model no longer has are dropped; of those that it has, what the new rows did
    not measure stays.
    """
    before = {(row.model, row.artifact): row for row in old}
    rows: dict[str, list[Row]] = {}
    for row in old:
        rows.setdefault(row.model, []).append(row)
    for model in dict.fromkeys(row.model for row in new):
        rows[model] = [
            row.over(before.get((row.model, row.artifact), row))
            for row in new
            if row.model == model
        ]
    return [row for part in rows.values() for row in part]


def write_report(rows: Sequence[Row], out: Path) -> None:
    """Write `report.json`, `table.md` and `speed.png` into the folder `out`."""
    environment = Environment.here(distributions())
    report = {
        "environment": environment.model_dump(mode="json"),
        "rows": [asdict(row) for row in rows],
    }
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")
    write_text(out / "table.md", markdown(rows, environment))
    plot([row for row in rows if row.speed], out / "speed.png")


def markdown(rows: Sequence[Row], environment: Environment) -> str:
    """One row for each artifact."""
    lines = [
        f"{environment.cpu}, {environment.cores} cores ({', '.join(environment.cpu_features)}).",
        "Agreement: exactly the class of float32, on held-out pictures; cosine: the smallest of a",
        "picture's logits. ms: per picture, medians; x: pictures per second over `plain`, which is",
        "`torch.onnx.export` in ONNX Runtime float32. Others: share of the machine that other",
        "processes took meanwhile. -: not measured.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"|---|---|{'---:|' * (len(_COLUMNS) - 3)}---|",
    ]
    plain = {row.model: row.mib for row in rows if row.artifact == PLAIN}
    for row in rows:
        times = [
            _number(values.get(str(batch)), ".2f")
            for batch in BATCHES
            for values in (row.ms, row.speed)
        ]
        notes = [f"float: {', '.join(row.float_blocks)}"] if row.float_blocks else []
        cells = [
            row.model,
            row.artifact,
            f"{row.mib:.1f}",
            _number(row.mib / plain[row.model] if row.model in plain else None, ".1%"),
            _number(row.agreement, ".2%"),
            _number(row.cosine, ".4f"),
            _number(row.accuracy, ".2%"),
            *times,
            _number(row.others, ".0%"),
            "; ".join([*notes, *([row.note] if row.note else [])]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Speed over `plain` at the larger batch, one colour for each model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.24 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots()
    models = list(dict.fromkeys(row.model for row in rows))
    labels = [f"{row.model} {row.artifact}" for row in rows]
    colours = [f"C{models.index(row.model)}" for row in rows]
    bars = axes.barh(labels, [row.speed[str(BATCHES[-1])] for row in rows], color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.01)
    axes.set_xlabel(f"pictures per second over plain, batch {BATCHES[-1]}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
