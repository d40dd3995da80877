"""A server's life: open the bundle, listen, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from lavit_deploy.bundle import Bundle
from lavit_deploy.choice import Choice, Wish, choose
from lavit_deploy.errors import LavitError
from lavit_deploy.runtimes.opening import open_artifact
from lavit_deploy.tuning import retune, save
from serving.app import create_app
from serving.classifier import Classifier, Model
from serving.errors import AddressError
from serving.metrics import Metrics
from serving.settings import MIB, LogFormat, Settings

_log = logging.getLogger("serving")
_BACKLOG = 2048
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(settings: Settings) -> int:
    """Serve a bundle until SIGTERM or SIGINT, then finish what was accepted.

    Returns:
        Exit code: 0 after a clean stop, 1 where the last requests had to be abandoned.

    Raises:
        LavitError: the bundle, the address or an option cannot be used, or the warm-up failed.
    """
    bundle = Bundle.open(settings.bundle)
    if settings.retune:
        bundle = retune(
            bundle,
            device=settings.device,
            threads=settings.threads,
            progress=lambda step: print(f"retune    {step}", flush=True),
        )
        save(bundle)
    wish = Wish(settings.artifact, settings.runtime, settings.device, settings.agreement)
    choice = choose(bundle, wish)
    artifact = choice.artifact
    with listening_socket(settings.host, settings.port) as listener:
        runtime = open_artifact(
            bundle,
            artifact,
            device=settings.device,
            threads=settings.threads,
            spin=False,  # decoders work on the same cores
        )
        with runtime:
            metrics = Metrics()
            model = Model(bundle.manifest, artifact, runtime)
            classifier = Classifier(model, settings, metrics)
            config = uvicorn.Config(
                create_app(classifier, settings, metrics),
                log_config=None,
                access_log=False,  # serving.observing writes it, with request ids
                server_header=False,
                timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            )
            server = Server(config, classifier, log_format=settings.log_format)
            host, port = listener.getsockname()[:2]
            server.announce(_start_lines(settings, bundle, choice, classifier, url(host, port)))
            server.run(sockets=[listener])
            if server.failure is not None:
                raise server.failure
            return 0 if classifier.drained else 1


class Server(uvicorn.Server):
    """uvicorn's server, with our signals: a stop that was asked for is a success.

    Attributes:
        failure: why the warm-up failed, if it did.
    """

    def __init__(
        self, config: uvicorn.Config, classifier: Classifier, *, log_format: LogFormat
    ) -> None:
        super().__init__(config)
        self._log_format = log_format
        self.failure: LavitError | None = None
        self._classifier = classifier
        self._readying: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._readying = asyncio.create_task(self._ready(), name="ready")

    async def _ready(self) -> None:
        try:
            await self._classifier.until_ready()
        except LavitError as error:
            self.failure = error
            self.should_exit = True
        else:
            self.announce({"ready": "the model has answered its warm-up; Ctrl-C stops"})

    def announce(self, lines: dict[str, str]) -> None:
        """Tell the operator, topic by topic: on standard output, or as one record in JSON logs."""
        if self._log_format == "json":
            _log.info(" and ".join(lines), extra=lines)
            return
        for topic, text in lines.items():
            print(f"{topic:<9} {text}", flush=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, without raising the signal again: it would end us with its code."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        originals = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in originals.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._classifier.stop_soon()
        super().handle_exit(sig, frame)


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound TCP socket, so that a taken port is known before a model is loaded.

    Raises:
        AddressError: the name is unknown, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":  # there it would let two servers share the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise AddressError(f"cannot listen on {host} port {port}: {reason}") from None
    return listener


def url(host: str, port: int) -> str:
    """The address a person types."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host)  # noqa: S104 - shown, not bound
    if shown is None:
        shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def _start_lines(
    settings: Settings, bundle: Bundle, choice: Choice, classifier: Classifier, address: str
) -> dict[str, str]:
    """What an operator wants to know about a server that starts, by topic."""
    manifest = bundle.manifest
    return {
        "serving": address,
        "also": "/docs, /metrics, /healthz, /readyz",
        "model": f"{manifest.name} ({manifest.architecture}, {len(manifest.classes)} classes), "
        f"checkpoint {classifier.model.id.checkpoint}",
        "artifact": f"{choice.artifact.name} on {settings.device}: {choice.reason}",
        "batches": f"at most {classifier.max_batch}, waiting at most {settings.max_wait_ms:g} ms; "
        f"{settings.queue} pictures in the house, {classifier.decoders} decoders",
        "limits": f"{settings.max_bytes / MIB:g} MiB and {settings.max_files} pictures in a "
        f"request, {settings.max_pixels / 1e6:g} megapixels in a picture",
        **({"note": "; ".join(choice.notes)} if choice.notes else {}),
    }
