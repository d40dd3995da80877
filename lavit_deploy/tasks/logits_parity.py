"""Does an artifact predict what the float32 PyTorch model predicts?

Thresholds follow from u, the unit roundoff of the precision (2^-24, 2^-11, 2^-8 for float32,
float16, bfloat16). About 50 matrix products in sequence, with independent errors, multiply one
product's error by sqrt(50) = 7.

- float32: both sides round, in different orders, sums of up to 2048 terms: sqrt(2048) u = 45 u
  each, 7 * 45 u = 2e-5 of the logits' scale; allowed are 1e-4.
- TF32 rounds the factors of products to float16's 11 bits and nothing else: float16's limits.
- float16 and bfloat16 accumulate in float32 and round each result once: 7 u = 3e-3 and 3e-2.
  Allowed are 2e-2 and 1e-1: depth, GELU and softmax sharpen some errors.
- Weights in 8 bits, scaled per channel, round like bfloat16's 8 bits of significand, and are
  allowed what it is. A palette of 64 values has one bit or two less: 2e-1.
- int8: a step is 1/127 of an activation's largest value, which is some ten times its rms: each
  product rounds by 10 / (127 sqrt(12)) = 2.3 % rms, sqrt(50) of them by 16 % if nothing averaged.
  Allowed are 3e-1 of a logit's scale and cosines of that 16 %; what a user loses is bounded apart,
  by `--max-drop` on held-out pictures. The class may then change in 3 % of them.
- Cosine: a relative error e turns a vector by at most e, and 1 - cos = e^2 / 2. The allowed
  values are those of e = 1e-3 (float32), 3e-2, 1e-1.
- The most likely class may change only where the reference itself is undecided, its two best
  logits within 16 u of the scale ("near ties"); beyond those, in at most 1 % (float16) or
  2 % (bfloat16) of the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lavit_deploy.manifest import Parity, Precision
from lavit_deploy.runtimes.base import Logits

_NEAR_TIE_ROUNDINGS = 16


@dataclass(frozen=True)
class Tolerance:
    """What a precision is allowed.

    Attributes:
        roundoff: unit roundoff u.
        relative: largest difference of a logit over the largest reference logit.
        cosine: smallest cosine similarity of a picture's logits.
        top1: smallest share of pictures with the same most likely class.
    """

    roundoff: float
    relative: float
    cosine: float
    top1: float


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(2.0**-24, 1e-4, 1 - 5e-7, 1.0),
    "tf32": Tolerance(2.0**-11, 2e-2, 1 - 5e-4, 0.99),
    "fp16": Tolerance(2.0**-11, 2e-2, 1 - 5e-4, 0.99),
    "bf16": Tolerance(2.0**-8, 1e-1, 1 - 5e-3, 0.98),
    "int8": Tolerance(2.0**-8, 3e-1, 1 - 1.3e-2, 0.97),
    "int8-weights": Tolerance(2.0**-8, 1e-1, 1 - 5e-3, 0.98),
    "palette6": Tolerance(2.0**-7, 2e-1, 1 - 2e-2, 0.95),
}
"""Tolerance of each precision; the module's docstring gives the reasons."""


def compare(
    found: Logits, reference: Logits, precision: Precision, *, source: str, method: str = "run"
) -> Parity:
    """Measure and judge the difference of two sets of logits [B, K].

    Args:
        found: the artifact's logits.
        reference: the float32 PyTorch model's.
        precision: decides the tolerance.
        source: where the pictures came from.
        method: how the artifact was run.
    """
    tolerance = TOLERANCES[precision]
    finite = bool(np.isfinite(found).all())
    # Infinities become the largest float32, so the statistics stay numbers; `finite` remembers.
    found64 = np.nan_to_num(found).astype(np.float64)
    reference64 = reference.astype(np.float64)
    difference = np.abs(found64 - reference64)
    scale = float(np.abs(reference64).max())
    cosine = _cosines(found64, reference64).min()
    changed = found64.argmax(axis=1) != reference64.argmax(axis=1)
    best = np.sort(reference64, axis=1)
    # A model of one class has no second best: nothing can change.
    margin = best[:, -1] - best[:, -2] if best.shape[1] > 1 else np.full(len(best), np.inf)
    ties = changed & (margin <= _NEAR_TIE_ROUNDINGS * tolerance.roundoff * scale)
    agreement = 1.0 - float((changed & ~ties).mean())
    reasons = []
    if not finite:
        reasons.append("logits that are not finite")
    if difference.max() > tolerance.relative * scale:
        reasons.append(
            f"max difference {difference.max():.3g}, allowed {tolerance.relative * scale:.3g}"
        )
    if cosine < tolerance.cosine:
        reasons.append(f"cosine {cosine:.6f}, required {tolerance.cosine:.6f}")
    if agreement < tolerance.top1:
        reasons.append(f"top-1 agreement {agreement:.2%}, required {tolerance.top1:.0%}")
    return Parity(
        method=method,
        images=len(reference),
        source=source,
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        cosine=float(cosine),
        top1_agreement=agreement,
        near_ties=int(ties.sum()),
        passed=not reasons,
        reason="; ".join(reasons),
    )


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine similarity of each row [B, K] -> [B]; 0 for a row of zeros."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(axis=1)
    return np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
