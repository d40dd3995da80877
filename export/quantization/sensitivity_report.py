"""What each block loses in int8, as a table and a plot beside the artifacts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from lavit_deploy.common.atomic_files import atomic_path, write_text

TABLE = "int8-sensitivity.md"
PLOT = "int8-sensitivity.png"


def write_sensitivity(
    folder: Path, errors: Mapping[str, float], float_blocks: Mapping[str, Collection[str]]
) -> None:
    """Write the table and the plot, over those that are there.

    Args:
        folder: the bundle.
        errors: relative error of the logits with one block alone in int8, in order of computation.
        float_blocks: blocks that were returned to float, by artifact.
    """
    back = {
        block: [name for name, chosen in float_blocks.items() if block in chosen]
        for block in errors
    }
    lines = [
        "# What each block loses in int8",
        "",
        "Relative error of the logits with that block alone in int8.",
        "",
        "| block | error | back in float in |",
        "|---|---:|---|",
    ]
    for block, error in errors.items():
        lines.append(f"| {block} | {error:.2e} | {', '.join(back[block]) or '-'} |")
    write_text(folder / TABLE, "\n".join(lines) + "\n")
    _plot(folder / PLOT, errors, back)


def _plot(path: Path, errors: Mapping[str, float], back: Mapping[str, Collection[str]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 0.28 * len(errors) + 1.2), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:orange" if back[block] else "tab:blue" for block in errors]
    bars = axes.barh(list(errors), list(errors.values()), color=colours)
    names = [f"float in {', '.join(back[block])}" if back[block] else "" for block in errors]
    axes.bar_label(bars, names, padding=3, fontsize=8)
    axes.margins(x=0.5 if any(names) else 0.05)
    axes.set_xlim(left=0.0)
    axes.invert_yaxis()
    axes.set_xlabel("relative error of the logits, this block alone in int8")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
