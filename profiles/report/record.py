"""Base of every record of a report: plain data, written and read back with pydantic."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of every record: immutable, and without fields that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")
