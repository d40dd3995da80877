"""Every mobile format, one line each; what it is and how it is converted stands in its own file."""

from __future__ import annotations

from lavit_deploy.export.mobile.formats import coreml, executorch, litert, ncnn, ort
from lavit_deploy.export.mobile.formats.format import Format

FORMATS: tuple[Format, ...] = (
    ort.FORMAT,
    executorch.FORMAT,
    litert.FORMAT,
    coreml.FORMAT,
    ncnn.FORMAT,
)
