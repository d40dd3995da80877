"""What `--int8` asks for, and what its targets share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lavit_deploy.export.quantization.calibration import Split
from lavit_deploy.runtimes.base import Logits

if TYPE_CHECKING:
    from lavit_deploy.export.judging.context import BuildContext
    from lavit_deploy.export.quantization.scheme import Scheme


@dataclass(frozen=True)
class Quantize:
    """Int8, once for all targets of one export.

    Attributes:
        split: pictures to calibrate and to judge on.
        max_drop: allowed loss on the held-out pictures, points.
        returned: blocks that went back to float, by artifact; targets note theirs.
    """

    split: Split
    max_drop: float
    returned: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _schemes: list[Scheme] = field(default_factory=list, repr=False)
    _references: list[Logits] = field(default_factory=list, repr=False)

    def scheme(self, context: BuildContext, folder: Path) -> Scheme:
        """The scheme of this export's float32 graph; ranges are measured when first needed."""
        from lavit_deploy.export.quantization.scheme import Scheme

        if not self._schemes:
            source = context.graph("fp32", folder)
            self._schemes.append(Scheme(source.file, source.graph, self.split.calibration))
        return self._schemes[0]

    def reference(self, compute: Callable[[], Logits]) -> Logits:
        """Float32 logits of the held-out pictures [N, K], computed when first asked for."""
        if not self._references:
            self._references.append(compute())
        return self._references[0]
