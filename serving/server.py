"""A server's life: open the bundles, listen, warm up, serve, reload, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType

import uvicorn

from lavit_deploy.errors import LavitError
from serving.app import create_app
from serving.errors import AddressError
from serving.metrics import Metrics
from serving.opening import Model, open_models, retune_all
from serving.registry import Registry
from serving.settings import MIB, LogFormat, Settings
from serving.tracing import Tracing

_log = logging.getLogger("serving")
_BACKLOG = 2048
_KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than the 60 s of common proxies, which
otherwise send a request just as it is closed."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_RELOAD: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none


def serve(settings: Settings, *, reread: Callable[[], Settings]) -> int:
    """Serve bundles until SIGTERM or SIGINT, then finish what was accepted.

    Args:
        settings: which bundles, and how.
        reread: makes the settings again, for SIGHUP; only their list of bundles is looked at.

    Returns:
        Exit code: 0 after a clean stop, 1 where the last requests had to be abandoned.

    Raises:
        LavitError: a bundle, the address or an option cannot be used, or a warm-up failed.
    """
    if settings.retune:
        retune_all(settings.sources, settings)
    models = open_models(settings)
    with ExitStack() as stack:
        for model in models:
            stack.callback(model.close)
        listener = stack.enter_context(listening_socket(settings.host, settings.port))
        metrics = Metrics()
        tracing = Tracing.load(settings.otlp_endpoint, os.environ)
        if tracing is not None:
            stack.callback(tracing.close)
        registry = Registry(models, settings, metrics)
        config = uvicorn.Config(
            create_app(registry, settings, metrics, tracing=tracing),
            log_config=None,
            access_log=False,  # serving.observing writes it, with request ids
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        )
        server = Server(config, registry, log_format=settings.log_format, reread=reread)
        host, port = listener.getsockname()[:2]
        server.announce(_start_lines(settings, models, registry, url(host, port)))
        server.run(sockets=[listener])
        if server.failure is not None:
            raise server.failure
        return 0 if registry.drained else 1


class Server(uvicorn.Server):
    """uvicorn's server, with our signals: a stop that was asked for is a success.

    Attributes:
        failure: why the warm-up failed, if it did.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        registry: Registry,
        *,
        log_format: LogFormat,
        reread: Callable[[], Settings],
    ) -> None:
        super().__init__(config)
        self._log_format = log_format
        self.failure: LavitError | None = None
        self._registry = registry
        self._reread = reread
        self._readying: asyncio.Task[None] | None = None
        self._reloading: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._readying = asyncio.create_task(self._ready(), name="ready")
        if _RELOAD is not None and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(_RELOAD, self._reload_soon)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._reloading:
            task.cancel()
        await super().shutdown(sockets)

    async def _ready(self) -> None:
        try:
            await self._registry.until_ready()
        except LavitError as error:
            self.failure = error
            self.should_exit = True
        else:
            self.announce({"ready": "the model has answered its warm-up; Ctrl-C stops"})

    def _reload_soon(self) -> None:
        task = asyncio.create_task(self._reload(), name="reload")
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def _reload(self) -> None:
        """After SIGHUP: whatever is wrong with the new models, the old ones keep serving."""
        try:
            await self._registry.reload(self._reread().sources)
        except LavitError as error:
            _log.error("not reloaded: %s", error)
        except Exception:  # noqa: BLE001 - the models in service are none the worse
            _log.exception("not reloaded")
        else:
            models = ", ".join(f"{item.name} {item.version}" for item in self._registry.listing())
            self.announce({"reloaded": models})

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
        self._registry.stop_soon()
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
    settings: Settings, models: Sequence[Model], registry: Registry, address: str
) -> dict[str, str]:
    """What an operator wants to know about a server that starts, by topic."""
    lines = {"serving": address, "also": "/docs, /metrics, /healthz, /readyz"}
    for number, model in enumerate(models, 1):
        of_several = f" {number}" if len(models) > 1 else ""
        for topic, text in _model_lines(settings, model, registry).items():
            lines[topic + of_several] = text
    lines["limits"] = (
        f"{settings.max_bytes / MIB:g} MiB and {settings.max_files} pictures in a "
        f"request, {settings.max_pixels / 1e6:g} megapixels in a picture"
    )
    return lines


def _model_lines(settings: Settings, model: Model, registry: Registry) -> dict[str, str]:
    """What an operator wants to know about one model, by topic."""
    manifest, choice = model.manifest, model.choice
    called = "" if model.key == (manifest.name, "1") else f"{model.key}: "
    with registry.use(*model.key) as classifier:
        most = classifier.max_batch
    times = f", opened {settings.instances} times" if settings.instances > 1 else ""
    return {
        "model": f"{called}{manifest.name} ({manifest.architecture}, {len(manifest.classes)} "
        f"classes), checkpoint {model.id.checkpoint}",
        "artifact": f"{choice.artifact.name} on {settings.device}{times}: {choice.reason}",
        "batches": f"at most {most}, waiting at most {settings.max_wait_ms:g} ms; "
        f"{settings.queue} pictures in the house, {registry.decoders} decoders",
        **({"note": "; ".join(choice.notes)} if choice.notes else {}),
    }
