"""One file for each format: it converts a program, and runs what came of it.

They run in the interpreter that has the format's packages, which need not be this project's: only
the standard library, NumPy and those packages are imported here. Each module has `convert`,
`precision_found`, `imports`, `load` and, where its runtime tells, `undelegated_share`;
`lavit_deploy.export.mobile.conversion_process` calls them.
"""

from collections.abc import Callable

import numpy as np

Classify = Callable[[np.ndarray], np.ndarray]
"""Takes a picture, uint8 [1, H, W, C], and gives its logits [1, K]."""
