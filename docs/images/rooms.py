"""Draws rooms.svg: every room of the project with its sentence, in the order of the contracts.

    python docs/images/rooms.py > docs/images/rooms.svg

Rooms and their order are read from the import contracts of pyproject.toml, sentences from the
docstrings, so the picture cannot say anything else than what the linter holds.
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WIDTH, MARGIN, GAP, LINE = 1080, 16, 10, 17
"""Pixels; LINE is the height of a line of text."""
WIDE = 6.8
"""Mean width of a character of the sentences, pixels."""
COLOURS = {
    "serving": "#dbeafe",
    "profiles": "#fae8ff",
    "export": "#dcfce7",
    "training": "#fef3c7",
    "kernels": "#fef3c7",
}


def layers(container: str) -> list[list[str]]:
    """Rows of the layers contract of a package, the uppermost first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    for contract in contracts["contracts"]:
        if contract["type"] == "layers" and contract.get("containers") == [container]:
            return [
                [name.strip(" ()") for name in layer.replace(":", "|").split("|")]
                for layer in contract["layers"]
            ]
    raise LookupError(f"no layers contract for {container}")


def sentence(module: str) -> str:
    """First line of a room's docstring."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    said = ast.get_docstring(ast.parse(file.read_text())) or ""
    return said.partition("\n")[0].replace("`", "")


class Box:
    """A room: its name, its sentence, and the rooms inside it."""

    def __init__(self, module: str, width: float) -> None:
        self.name = module.rpartition(".")[2]
        self.module = module
        self.width = width
        self.lines = textwrap.wrap(sentence(module), int((width - 16) / WIDE))
        self.rows = self._rows() if self.name in {"serving", "profiles", "export"} else []
        self.height = (
            14
            + LINE * (1 + len(self.lines))
            + sum(max(box.height for box in row) + GAP for row in self.rows)
        )

    def _rows(self) -> list[list[Box]]:
        rows = []
        for names in layers(self.module):
            width = (self.width - 2 * GAP - (len(names) - 1) * GAP) / len(names)
            rows.append([Box(f"{self.module}.{name}", width) for name in names])
        return rows

    def svg(self, left: float, top: float, height: float) -> list[str]:
        """Shapes of this room, and of those inside it."""
        colour = COLOURS.get(self.name, "#ffffff" if self.module.count(".") > 1 else "#f1f5f9")
        drawn = [
            (
                f'<rect x="{left:g}" y="{top:g}" width="{self.width:.5g}" height="{height:g}" '
                f'rx="6" fill="{colour}" stroke="#64748b"/>'
            ),
            f'<text x="{left + 8:g}" y="{top + 18:g}" class="name">{escape(self.name)}</text>',
        ]
        below = top + 18
        for line in self.lines:
            below += LINE
            drawn.append(f'<text x="{left + 8:g}" y="{below:g}">{escape(line)}</text>')
        below += GAP
        for row in self.rows:
            tallest = max(box.height for box in row)
            across = left + GAP
            for box in row:
                drawn += box.svg(across, below, tallest)
                across += box.width + GAP
            below += tallest + GAP
        return drawn


def draw() -> str:
    """The whole picture."""
    drawn: list[str] = []
    top = float(MARGIN)
    for names in layers("lavit_deploy"):
        width = (WIDTH - 2 * MARGIN - (len(names) - 1) * GAP) / len(names)
        row = [Box(f"lavit_deploy.{name}", width) for name in names]
        tallest = max(box.height for box in row)
        for place, box in enumerate(row):
            drawn += box.svg(MARGIN + place * (width + GAP), top, tallest)
        top += tallest + GAP
    height = top + MARGIN - GAP
    style = (
        "text{font:12.5px system-ui,sans-serif;fill:#334155}"
        ".name{font-weight:600;font-size:14px;fill:#0f172a}"
    )
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
                f'width="{WIDTH}" height="{height:g}" role="img">'
            ),
            "<title>The rooms of lavit_deploy; each may import only those below it</title>",
            f"<style>{style}</style>",
            f'<rect width="{WIDTH}" height="{height:g}" fill="#ffffff"/>',
            *drawn,
            "</svg>",
        ]
    )


if __name__ == "__main__":
    print(draw())
