"""What an operator decides: addresses, limits and sizes, checked once when they are made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lavit_deploy.errors import UsageError
from lavit_deploy.manifest import Device, ServerRuntime
from lavit_deploy.preprocess import MAX_PIXELS

MIB = 1 << 20
LogFormat = Literal["text", "json"]
Isolation = Literal["threads", "processes"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything `lavit-serve` can be told.

    Attributes:
        bundle: folder written by `lavit-export`.
        host: address to listen on.
        port: TCP port; 0 lets the system choose a free one.
        artifact: name of the artifact to serve, or "auto" for the fastest that passed parity.
        runtime: name of the runtime to use, or "auto" for whichever is fastest.
        agreement: smallest top-1 agreement with the float32 model that is accepted, 0 to 1.
        retune: measure every usable artifact on this machine first, and keep the result.
        device: where the runtime computes.
        threads: threads within an operator; None: the cores this process may use.
        decoders: threads that decode pictures; None: the cores this process may use.
        decode_seconds: longest time to decode one picture.
        decoder_isolation: decode in threads of the service, or in processes that may crash.
        max_batch: most pictures in one call of the runtime; None: what the artifact was
            optimised for.
        max_wait_ms: longest time a picture waits for others that are being decoded, milliseconds.
        queue: most pictures accepted and not yet answered; more are refused with 503.
        max_bytes: largest request body, bytes.
        max_pending_bytes: bodies held in memory at the same time, bytes in total.
        max_pixels: largest width * height of a picture, read from its header.
        max_files: most pictures in one request.
        top_k: classes in an answer that does not ask for a number; fewer if the model has fewer.
        request_seconds: time for a request that brings no deadline of its own.
        upload_seconds: longest time a body may take to arrive.
        drain_seconds: longest time to finish accepted requests after SIGTERM.
        api_keys: file with one API key in each line; None: those of LAVIT_API_KEYS, if it is set.
        cors_origins: web origins whose pages may call the service; None: no others.
        log_format: lines for people, or one JSON object in each line.

    Raises:
        UsageError: a value is outside its range, or two values contradict each other.
    """

    bundle: Path
    host: str = "127.0.0.1"
    port: int = 8000
    artifact: str = "auto"
    runtime: ServerRuntime | Literal["auto"] = "auto"
    agreement: float = 0.99
    retune: bool = False
    device: Device = "cpu"
    threads: int | None = None
    decoders: int | None = None
    decode_seconds: float = 10.0
    decoder_isolation: Isolation = "threads"
    max_batch: int | None = None
    max_wait_ms: float = 5.0
    queue: int = 256
    max_bytes: int = 32 * MIB
    max_pending_bytes: int = 256 * MIB
    max_pixels: int = MAX_PIXELS
    max_files: int = 32
    top_k: int = 5
    request_seconds: float = 120.0
    upload_seconds: float = 60.0
    drain_seconds: float = 30.0
    api_keys: Path | None = None
    cors_origins: tuple[str, ...] | None = None
    log_format: LogFormat = "text"

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port must be 0..65535, given {self.port}")
        positive = {
            "--threads": self.threads,
            "--decoders": self.decoders,
            "--decode-seconds": self.decode_seconds,
            "--max-batch": self.max_batch,
            "--queue": self.queue,
            "--max-bytes": self.max_bytes,
            "--max-pixels": self.max_pixels,
            "--max-files": self.max_files,
            "--top-k": self.top_k,
            "--request-seconds": self.request_seconds,
            "--upload-seconds": self.upload_seconds,
            "--drain-seconds": self.drain_seconds,
        }
        for option, value in positive.items():
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{option} must be more than 0, given {value}")
        for origin in self.cors_origins or ():
            if not re.fullmatch(r"\*|https?://[^/\s]+", origin):
                raise UsageError(
                    f"--cors-origins must be like https://example.org, given {origin!r}"
                )
        if not 0 <= self.agreement <= 1:
            raise UsageError(f"--agreement must be 0..1, given {self.agreement}")
        if not 0 <= self.max_wait_ms <= 60_000:
            raise UsageError(f"--max-wait-ms must be 0..60000, given {self.max_wait_ms}")
        if self.max_files > self.queue:
            raise UsageError(
                f"--max-files {self.max_files} is more than --queue {self.queue}: "
                "such a request could never be accepted"
            )
        if self.max_bytes > self.max_pending_bytes:
            raise UsageError(
                f"--max-bytes {self.max_bytes} is more than --max-pending-bytes "
                f"{self.max_pending_bytes}: such a request could never be accepted"
            )
