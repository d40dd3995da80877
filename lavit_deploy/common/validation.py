"""What pydantic found wrong, in one line."""

from __future__ import annotations

from pydantic import ValidationError

_OURS = "Value error, "
"""What pydantic puts before the messages of this project's own checks."""


def problems(error: ValidationError) -> str:
    """Every problem: where, and what is wrong."""
    return "; ".join(
        ": ".join(
            part
            for part in (
                ".".join(str(step) for step in problem["loc"]),
                problem["msg"].removeprefix(_OURS),
            )
            if part
        )
        for problem in error.errors(include_url=False)
    )
