"""What a reader must know about a report: batches that did not fit, and what was not counted."""

from __future__ import annotations

from lavit_deploy.profiles.report.schema import Report


def limits(report: Report) -> list[str]:
    """A sentence for every batch that did not fit into memory."""
    return [
        f"{limit.reason}: " + (f"halved to {limit.halved_to}." if limit.halved_to else "left out.")
        for model in report.models
        for limit in model.limits
    ]


def uncounted(report: Report) -> list[str]:
    """A sentence for operators known to be harmless, and a warning for each other."""
    lines = []
    known: dict[str, int] = {}
    for model in report.models:
        for operator in model.counts.uncounted:
            if operator.reason is None:
                lines.append(
                    f"WARNING: {model.label}: {operator.operator} ran {operator.calls} times, is "
                    "not counted, and may hold multiply-adds."
                )
            else:
                name = operator.operator.removeprefix("aten::")
                known[name] = max(known.get(name, 0), operator.elements)
    if known:
        names = ", ".join(
            f"{name} {count / 1e6:.1f}"
            for name, count in sorted(known.items(), key=lambda item: -item[1])
            if count
        )
        lines.append(f"Not counted, at most M elements written per image in any model: {names}.")
    return lines
