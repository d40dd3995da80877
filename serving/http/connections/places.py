"""How many connections there may be, so that a descriptor is left for everything else.

Where none is left, Python cannot open a file or import a module, and uvloop may close the socket
that it listens on.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

_OPEN = Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")


@dataclass(frozen=True)
class Places:
    """Numbers of connections.

    Attributes:
        served: most that are served at the same time.
        refused: most beyond these that are told so; further ones are reset.
    """

    served: int
    refused: int

    @classmethod
    def available(cls) -> Places | None:
        """By the limit of this process and what it has open; None where there is no such limit."""
        if sys.platform == "win32":
            return None
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            None
            if limit == resource.RLIM_INFINITY
            else cls.of(limit - sum(1 for _ in _OPEN.iterdir()))
        )

    @classmethod
    def of(cls, free: int) -> Places:
        """Of the free descriptors a quarter, 64 at most, is kept for files and for refusals."""
        kept = min(64, max(4, free // 4))
        return cls(served=max(1, free - kept), refused=kept // 2)
