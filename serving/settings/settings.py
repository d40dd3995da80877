"""What an operator decides: addresses, limits and sizes, checked once when they are made."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from lavit_deploy.common.environment import available_cores
from lavit_deploy.common.errors import UsageError
from lavit_deploy.manifest import Device
from lavit_deploy.preprocess import MAX_PIXELS
from lavit_deploy.serving.settings.model_source import ModelSource

MIB = 1 << 20
LogFormat = Literal["text", "json"]
Isolation = Literal["threads", "processes"]


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """Everything `lavit-serve` can be told.

    Attributes:
        bundles: folders written by `lavit-export`, called as their manifests say.
        models: more of them with names and versions of the operator's.
        host: address to listen on.
        port: TCP port; 0 lets the system choose a free one.
        root_path: path under which a proxy shows the service, without a slash at its end; empty:
            the root.
        forwarded_allow_ips: addresses and networks of proxies that are believed whose requests
            they pass on, or "*"; None: nobody is.
        keep_alive_seconds: longest time that a connection stays open between requests.
        artifact: name of the artifact to serve, or "auto" for the fastest that passed parity.
        runtime: name of the runtime to use, or "auto" for whichever is fastest.
        agreement: smallest top-1 agreement with the float32 model that is accepted, 0 to 1.
        measure: measure every usable artifact on this machine first, and keep the result.
        device: where the runtime computes.
        threads: threads of each model's instances together; None: the cores this process may use.
        workers: processes that share the port; threads, decoders and the limits of the queue and of
            pending bytes are the service's, and divided between them.
        instances: times that each model is opened; batches go to whichever instance is idle.
        infer_seconds: longest time of a batch; after it the runtime counts as broken.
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
        admin_keys: the same for administration; None: those of LAVIT_ADMIN_KEYS, else API keys.
        cors_origins: web origins whose pages may call the service; None: no others.
        log_format: lines for people, or one JSON object in each line.
        otlp_endpoint: address of an OpenTelemetry collector; None: as OTEL_EXPORTER_OTLP_ENDPOINT
            says, or no tracing.

    Raises:
        UsageError: a value is outside its range, or two values contradict each other.
    """

    bundles: tuple[Path, ...] = ()
    models: tuple[ModelSource, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    root_path: str = ""
    forwarded_allow_ips: tuple[str, ...] | None = None
    keep_alive_seconds: float = 75.0
    artifact: str = "auto"
    runtime: str = "auto"
    agreement: float = 0.99
    measure: bool = False
    device: Device = "cpu"
    threads: int | None = None
    workers: int = 1
    instances: int = 1
    infer_seconds: float = 30.0
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
    admin_keys: Path | None = None
    cors_origins: tuple[str, ...] | None = None
    log_format: LogFormat = "text"
    otlp_endpoint: str | None = None

    @property
    def sources(self) -> tuple[ModelSource, ...]:
        """Every bundle to serve; the first is the default."""
        return (*(ModelSource(path) for path in self.bundles), *self.models)

    @property
    def instance_threads(self) -> int | None:
        """Threads of each instance; None: what the runtime takes by itself.

        Raises:
            UsageError: there are fewer threads than instances.
        """
        if self.instances == 1:
            return self.threads
        threads = self.threads or available_cores()
        if self.device == "cpu" and self.instances > threads:
            raise UsageError(
                f"--instances {self.instances} is more than the {threads} threads they share"
            )
        return max(1, threads // self.instances)

    def of_worker(self) -> ServiceSettings:
        """The share that each of the workers has: settings of a service of one process."""
        share = self.workers
        return replace(
            self,
            workers=1,
            threads=max(1, (self.threads or available_cores()) // share),
            decoders=max(1, (self.decoders or available_cores()) // share),
            queue=self.queue // share,
            max_pending_bytes=self.max_pending_bytes // share,
        )

    def __post_init__(self) -> None:
        if not self.sources:
            raise UsageError("nothing to serve: give a BUNDLE, or --model NAME=PATH")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port must be 0..65535, given {self.port}")
        positive = {
            "--threads": self.threads,
            "--workers": self.workers,
            "--instances": self.instances,
            "--infer-seconds": self.infer_seconds,
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
            "--keep-alive-seconds": self.keep_alive_seconds,
        }
        for option, value in positive.items():
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{option} must be more than 0, given {value}")
        self._check_addresses()
        self._check_workers()
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

    def _check_workers(self) -> None:
        if self.workers == 1:
            return
        threads = self.threads or available_cores()
        if self.device == "cpu" and self.workers > threads:
            raise UsageError(
                f"--workers {self.workers} is more than the {threads} threads they share"
            )
        for option, largest, total, share in (
            ("--max-files", self.max_files, "--queue", self.queue),
            ("--max-bytes", self.max_bytes, "--max-pending-bytes", self.max_pending_bytes),
        ):
            if largest > share // self.workers:
                raise UsageError(
                    f"{option} {largest} is more than the share of {total} {share} that each of "
                    f"--workers {self.workers} has: such a request could never be accepted"
                )

    def _check_addresses(self) -> None:
        if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", self.root_path):
            raise UsageError(
                f"--root-path must be like /lavit, given {self.root_path!r}: letters, digits, "
                "'.', '_', '~' and '-', and no slash at its end"
            )
        for address in self.forwarded_allow_ips or ():
            if address != "*" and (fault := _network_fault(address)):
                raise UsageError(
                    "--forwarded-allow-ips must be addresses or networks such as 10.0.0.0/8, "
                    f"or *, given {address!r}{fault}"
                )
        endpoint = self.otlp_endpoint
        if endpoint is not None and not re.fullmatch(r"https?://[^/\s]+\S*", endpoint):
            raise UsageError(
                f"--otlp-endpoint must be like http://collector:4318, given {endpoint!r}"
            )
        for origin in self.cors_origins or ():
            if not re.fullmatch(r"\*|https?://[^/\s]+", origin):
                raise UsageError(
                    f"--cors-origins must be like https://example.org, given {origin!r}"
                )


def _network_fault(text: str) -> str:
    """What is wrong with an address or a network; empty: nothing."""
    try:
        ip_network(text)
    except ValueError as error:
        return f": {error}"
    return ""
