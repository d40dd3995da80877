"""Draws ways.svg: the way of a checkpoint to a bundle, and of a request to its answer.

    python docs/images/ways.py > docs/images/ways.svg

A test holds that every module named here exists, and that the picture is what this file draws.
"""

from __future__ import annotations

from html import escape

CHECKPOINT = (
    ("lavit_deploy.checkpoint", "read, fitted to its model, never executed"),
    ("lavit_deploy.export.api", "what is asked for, and a plan of what can be built here"),
    ("lavit_deploy.folding.fold", "the same function in fewer operators, proven in float64"),
    ("lavit_deploy.export.graphs", "one ONNX graph for each precision; normalisation inside"),
    ("lavit_deploy.export.targets", "what each runtime wants, built from that graph"),
    ("lavit_deploy.export.judging", "compared with float32 PyTorch on real pictures"),
    ("lavit_deploy.bundle.measurement", "latency and memory of each artifact, in turn"),
    ("lavit_deploy.bundle.bundle", "a folder that appears whole, with manifest.json"),
)
REQUEST = (
    ("lavit_deploy.serving.http.connection", "bytes become a request; what is hostile ends here"),
    ("lavit_deploy.serving.http.admission", "let in, or 503 before the body is read"),
    ("lavit_deploy.serving.http.routes", "the endpoint: API key, limits, deadline"),
    ("lavit_deploy.serving.wire", "the body becomes pictures"),
    ("lavit_deploy.serving.decoding", "a picture becomes uint8 pixels of the model's size"),
    ("lavit_deploy.serving.batching", "pictures wait, become a batch, run on a thread"),
    ("lavit_deploy.runtimes", "logits, by the artifact that the bundle's times chose"),
    ("lavit_deploy.serving.models", "ranked classes, or the error of one picture"),
    ("lavit_deploy.serving.http.routes", "JSON, headers, a line in the log, metrics"),
)
WIDTH, COLUMN, STEP, LEFT = 1080, 510, 62, 24
"""Pixels."""


def column(title: str, steps: tuple[tuple[str, str], ...], left: float, colour: str) -> list[str]:
    """One way, from top to bottom."""
    drawn = [f'<text x="{left}" y="34" class="title">{escape(title)}</text>']
    for place, (module, what) in enumerate(steps):
        top = 50 + place * STEP
        name = module.removeprefix("lavit_deploy.").replace(".", " / ")
        drawn += [
            (
                f'<rect x="{left}" y="{top}" width="{COLUMN}" height="46" rx="6" fill="{colour}" '
                'stroke="#64748b"/>'
            ),
            f'<text x="{left + 10}" y="{top + 19}" class="name">{escape(name)}</text>',
            f'<text x="{left + 10}" y="{top + 37}">{escape(what)}</text>',
        ]
        if place:
            middle = left + COLUMN / 2
            drawn.append(
                f'<path d="M{middle:g} {top - 15}v10m-4 -5l4 5l4 -5" fill="none" stroke="#334155"/>'
            )
    return drawn


def draw() -> str:
    """The whole picture."""
    height = 50 + max(len(CHECKPOINT), len(REQUEST)) * STEP
    style = (
        "text{font:12.5px system-ui,sans-serif;fill:#334155}"
        ".name{font-weight:600;font-size:14px;fill:#0f172a}"
        ".title{font-weight:600;font-size:17px;fill:#0f172a}"
    )
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img">'
        ),
        "<title>The way of a checkpoint to a bundle, and of a request to its answer</title>",
        f"<style>{style}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    lines += column("A checkpoint becomes a bundle", CHECKPOINT, LEFT, "#dcfce7")
    lines += column("A request becomes an answer", REQUEST, LEFT + COLUMN + 12, "#dbeafe")
    return "\n".join([*lines, "</svg>"])


if __name__ == "__main__":
    print(draw())
