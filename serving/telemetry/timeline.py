"""Where a request's time goes: stages, kept once and shown in headers, logs and traces alike."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field

READ, DECODE, QUEUE, INFER = STAGES = ("read", "decode", "queue", "infer")


@dataclass(frozen=True, slots=True)
class Span:
    """One stage of a request or of one of its pictures.

    Attributes:
        name: of `STAGES`.
        started: on `time.perf_counter`, seconds.
        seconds: how long it took.
        batch: pictures that were inferred together; None: it is another stage.
    """

    name: str
    started: float
    seconds: float
    batch: int | None = None


@dataclass(eq=False)
class PictureTimeline:
    """The stages of one picture, or those that all pictures share, in order."""

    spans: list[Span] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Time a stage, also where it fails or is cancelled."""
        running = Stage(time.perf_counter())
        try:
            yield running
        finally:
            self.spans += running.spans or [
                Span(name, running.started, time.perf_counter() - running.started)
            ]

    @property
    def total(self) -> float:
        """How long all stages took, seconds."""
        return sum(span.seconds for span in self.spans)


@dataclass(eq=False)
class Stage:
    """A stage that is running.

    Attributes:
        started: on `time.perf_counter`, seconds.
        spans: what it turned out to be made of.
    """

    started: float
    spans: list[Span] = field(default_factory=list)

    def was(self, name: str, seconds: float, batch: int | None = None) -> None:
        """Say what the time was spent on, part by part from its start."""
        started = self.started + sum(span.seconds for span in self.spans)
        self.spans.append(Span(name, started, seconds, batch))


class Timeline:
    """The stages of one request.

    Args:
        request_id: whose.

    Attributes:
        shared: stages of the whole request.
        pictures: those of each picture.
        trace_id: 32 hexadecimal digits, where the request is traced.
    """

    def __init__(self, request_id: str | None = None) -> None:
        self.request_id = request_id
        self.trace_id: str | None = None
        self.started = time.perf_counter()
        self.shared = PictureTimeline()
        self.pictures: list[PictureTimeline] = []

    @staticmethod
    def current() -> Timeline:
        """The timeline of the request that is being answered; outside of one, a new one."""
        return _CURRENT.get(None) or Timeline()

    @staticmethod
    def begin(request_id: str) -> tuple[Timeline, Token[Timeline | None]]:
        """Make a timeline the current one of this task and of those that it starts."""
        timeline = Timeline(request_id)
        return timeline, _CURRENT.set(timeline)

    @staticmethod
    def end(token: Token[Timeline | None]) -> None:
        """Undo `begin`."""
        _CURRENT.reset(token)

    def picture(self) -> PictureTimeline:
        """The stages of one more picture."""
        self.pictures.append(stages := PictureTimeline())
        return stages

    def milliseconds(self) -> dict[str, float]:
        """The stages there were, and the total; those of the picture that took longest."""
        slowest = max(self.pictures, key=lambda stages: stages.total, default=PictureTimeline())
        total = time.perf_counter() - self.started
        spent: dict[str, float] = {}
        for span in (*self.shared.spans, *slowest.spans):
            spent[span.name] = spent.get(span.name, 0.0) + span.seconds
        stages = {name: round(1e3 * spent[name], 3) for name in STAGES if name in spent}
        return stages | {"total": round(1e3 * total, 3)}

    def header(self) -> str:
        """The value of `Server-Timing`."""
        return ", ".join(f"{name};dur={spent:g}" for name, spent in self.milliseconds().items())


_CURRENT: ContextVar[Timeline | None] = ContextVar("timeline", default=None)
