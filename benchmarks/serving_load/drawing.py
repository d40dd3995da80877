"""Tables and plots of rounds that were measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lavit_deploy.common.atomic_files import atomic_path

Report = Mapping[str, Any]
Rows = list[Mapping[str, Any]]

LOAD_NAMES = {"half": "50 %", "high": "80 %", "common": "common rate"}
_BARE = "bare runtime"


OTHERS_CORES = 0.2
"""Most that other processes may take of the cores for a row to count."""

RULE = f"loads during which other processes took more than {OTHERS_CORES:g} cores are left out."


def by_model(report: Report) -> dict[str, Rows]:
    """All rounds' rows, by model and artifact, but those that other processes disturbed."""
    found: dict[str, Rows] = {}
    for measured in report["rounds"]:
        name = f"{measured['model']}, {measured['artifact']}, {measured['pictures']}"
        # The machine's speed drifts: a share is taken within a round.
        rows = [row for row in measured["rows"] if row.get("others_cores", 0.0) <= OTHERS_CORES]
        bare = next((row["throughput"] for row in rows if row["server"] == _BARE), None)
        found.setdefault(name, []).extend(
            row | {"of_bare": row["throughput"] / bare}
            if bare is not None and row["load"] == "saturation"
            else row
            for row in rows
        )
    return found


def middle(rows: Rows, server: str, load: str, *keys: str) -> float | None:
    """Median over rounds of one number; None where it was never measured."""
    values = []
    for row in rows:
        if row["server"] == server and row["load"] == load:
            value: Any = row
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is not None:
                values.append(float(value))
    return statistics.median(values) if values else None


def servers_of(rows: Rows) -> list[str]:
    """Servers by throughput, best first, the bare runtime aside."""
    names = {row["server"] for row in rows} - {_BARE}
    return sorted(names, key=lambda name: -(middle(rows, name, "saturation", "throughput") or 0))


def table(report: Report) -> str:
    """Markdown: throughput at saturation, and latencies at each load."""
    lines = []
    for model, rows in by_model(report).items():
        bare = middle(rows, _BARE, "saturation", "throughput") or 0.0
        medians = "Medians over rounds, shares within each"
        lines += [f"## {model}", "", f"Bare runtime: {bare:.0f}/s. {medians}; {RULE}", ""]
        lines += _throughput(rows)
        lines += _latencies(rows)
    return "\n".join(lines)


def _throughput(rows: Rows) -> Iterator[str]:
    yield "| server | requests/s | of the bare runtime | of the rounds | cores | others | MiB |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name in servers_of(rows):
        rate = middle(rows, name, "saturation", "throughput") or 0.0
        share = middle(rows, name, "saturation", "of_bare")
        every = [
            row["throughput"]
            for row in rows
            if row["server"] == name and row["load"] == "saturation"
        ]
        if not every:
            continue
        memory = statistics.median(
            row["rss_mib"][1] for row in rows if row["server"] == name and "rss_mib" in row
        )
        cores = middle(rows, name, "saturation", "server_cores") or 0.0
        others = middle(rows, name, "saturation", "others_cores") or 0.0
        part = "-" if share is None else f"{share:.0%}"
        yield (
            f"| {name} | {rate:.0f} | {part} | {min(every):.0f} to {max(every):.0f} "
            f"| {cores:.2f} | {others:.2f} | {memory:.0f} |"
        )
    yield ""


def _latencies(rows: Rows) -> Iterator[str]:
    yield "| server | load | requests/s | p50 ms | p95 ms | p99 ms | not answered with 200 |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for load, shown in LOAD_NAMES.items():
        for name in servers_of(rows):
            offered = middle(rows, name, load, "offered")
            if offered is None:
                continue
            cells = [
                middle(rows, name, load, "latency_ms", quantile)
                for quantile in ("p50", "p95", "p99")
            ]
            failed = sum(
                row["sent"] - row["ok"]
                for row in rows
                if row["server"] == name and row["load"] == load
            )
            times = " | ".join("-" if cell is None else f"{cell:.1f}" for cell in cells)
            yield f"| {name} | {shown} | {offered:.0f} | {times} | {failed} |"
    yield ""


def plots(report: Report, out: Path) -> None:
    """`throughput.png` and `latency.png` into the folder `out`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    models = by_model(report)
    for draw, name in ((_draw_throughput, "throughput.png"), (_draw_latency, "latency.png")):
        figure, axes = plt.subplots(1, len(models), figsize=(6.2 * len(models), 3.8), squeeze=False)
        for place, (model, rows) in zip(axes[0], models.items(), strict=True):
            draw(place, rows)
            place.set_title(model, fontsize=9)
        figure.tight_layout()
        with atomic_path(out / name) as file:
            figure.savefig(file, dpi=120)
        plt.close(figure)


def _draw_throughput(axes: Any, rows: Rows) -> None:  # noqa: ANN401 - matplotlib's Axes are untyped here
    names: Sequence[str] = servers_of(rows)
    rates = [middle(rows, name, "saturation", "throughput") or 0.0 for name in names]
    bars = axes.bar(
        _lines(names),
        rates,
        color=["C0" if name.startswith("lavit-serve") else "C7" for name in names],
    )
    axes.bar_label(bars, fmt="%.0f", fontsize=8)
    bare = middle(rows, _BARE, "saturation", "throughput") or 0.0
    axes.axhline(bare, color="C3", linestyle="--", linewidth=1, label="bare runtime")
    axes.set_ylim(0, 1.12 * max(bare, *rates, 1.0))
    axes.set_ylabel("requests per second at saturation")
    axes.tick_params(axis="x", labelsize=8)
    axes.legend(fontsize=8)


def _draw_latency(axes: Any, rows: Rows) -> None:  # noqa: ANN401 - matplotlib's Axes are untyped here
    names = servers_of(rows)
    quantiles = ("p50", "p95", "p99")
    for index, quantile in enumerate(quantiles):
        heights = [middle(rows, name, "high", "latency_ms", quantile) or 0.0 for name in names]
        places = [place + index * 0.27 for place in range(len(names))]
        bars = axes.bar(places, heights, 0.25, label=quantile)
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    axes.set_xticks([place + 0.27 for place in range(len(names))], _lines(names), fontsize=8)
    if any(bar.get_height() for bar in axes.patches):  # every load may have been disturbed
        axes.set_yscale("log")
    axes.set_ylabel("ms, at 80 % of its own saturation")
    axes.legend(fontsize=8)


def _lines(names: Sequence[str]) -> list[str]:
    """Options below the server that they are of: side by side there is no room."""
    return [name.replace(" --", "\n--") for name in names]
