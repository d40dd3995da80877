"""A server's life: open the bundles, listen, warm up, serve, reload, drain."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType

import uvicorn

from lavit_deploy.common.errors import LavitError
from lavit_deploy.serving.http.app import create_app
from lavit_deploy.serving.http.proxies.forwarded import trusted
from lavit_deploy.serving.http.uvicorn_internals import check_uvicorn
from lavit_deploy.serving.models.open_models import OpenedModel, measure_all, open_models
from lavit_deploy.serving.models.registry import Registry
from lavit_deploy.serving.process.abandoned import AbandonedRequests
from lavit_deploy.serving.process.metrics_files import registry_of_all
from lavit_deploy.serving.process.signals import take_signals
from lavit_deploy.serving.process.sockets import listening_socket, url
from lavit_deploy.serving.process.worker_states import State, WorkerPlace
from lavit_deploy.serving.settings.settings import MIB, LogFormat, ServiceSettings
from lavit_deploy.serving.telemetry.logs import announce
from lavit_deploy.serving.telemetry.metrics import Metrics
from lavit_deploy.serving.telemetry.tracing import Tracing

_log = logging.getLogger("serving")
_BACKLOG = 2048
_PUBLISHED = 0.25
"""Seconds between two times that a worker tells the others how it is."""
_LAST_ANSWERS = 1.0
"""Seconds that clients have to take answers to requests that were given up."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_RELOAD: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none


def serve(
    settings: ServiceSettings,
    *,
    reread: Callable[[], ServiceSettings],
    place: WorkerPlace | None = None,
) -> int:
    """Serve bundles until SIGTERM or SIGINT, then finish what was accepted.

    Args:
        settings: which bundles, and how.
        reread: makes the settings again, for SIGHUP; only their list of bundles is looked at.
        place: the workers of which this process is one; None: it is the whole service.

    Returns:
        Exit code: 0 after a clean stop, 1 where the last requests had to be abandoned.

    Raises:
        LavitError: a bundle, the address or an option cannot be used, or a warm-up failed.
    """
    check_uvicorn()
    from lavit_deploy.serving.http.connection import Connection  # its import needs what was checked

    if settings.measure:
        measure_all(settings.sources, settings)
    models = open_models(settings)
    with ExitStack() as stack:
        for model in models:
            stack.callback(model.close)
        listener = stack.enter_context(
            listening_socket(settings.host, settings.port, shared=place is not None)
        )
        metrics = Metrics() if place is None else Metrics(registry_of_all(place))
        tracing = Tracing.load(settings.otlp_endpoint, os.environ)
        if tracing is not None:
            stack.callback(tracing.close)
        registry = Registry(
            models,
            settings,
            metrics,
            elsewhere=(lambda: None) if place is None else place.reason_elsewhere,
        )
        app = AbandonedRequests(
            create_app(registry, settings, metrics, workers=_workers(place), tracing=tracing)
        )
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            log_config=None,
            access_log=False,  # lavit_deploy.serving.http.request_log writes it, with request ids
            server_header=False,
            timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type] # any number
            proxy_headers=settings.forwarded_allow_ips is not None,
            forwarded_allow_ips=trusted(settings.forwarded_allow_ips or ()),
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        )
        server = (
            Server(config, registry, log_format=settings.log_format, reread=reread)
            if place is None
            else WorkerServer(
                config, registry, metrics, place, log_format=settings.log_format, reread=reread
            )
        )
        if place is None or place.first:
            host, port = listener.getsockname()[:2]
            lines = _start_lines(settings, models, registry, url(host, port))
            if place is not None:
                lines["workers"] = f"{place.shared.workers}, each with these limits"
            server.announce(lines)
        server.run(sockets=[listener])
        if server.failure is not None:
            raise server.failure
        return 0 if registry.drained and not app.count else 1


def _workers(place: WorkerPlace | None) -> int:
    return 1 if place is None else place.shared.workers


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
        reread: Callable[[], ServiceSettings],
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
        await self._hear_out()

    async def _hear_out(self) -> None:
        """Let clients that were still sending take the answer before the process ends."""
        until = time.monotonic() + _LAST_ANSWERS
        while (  # noqa: ASYNC110 - as uvicorn waits for them
            self.server_state.connections and time.monotonic() < until and not self.force_exit
        ):
            await asyncio.sleep(0.02)

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
        """Tell the operator, topic by topic; see `lavit_deploy.serving.telemetry.logs`."""
        announce(_log, self._log_format, lines)

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


class WorkerServer(Server):
    """The same as one of several: it listens when it is ready, and tells the others how it is.

    Args:
        metrics: read a few times a second, so that whichever worker is scraped shows this one's.
        place: the others.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        registry: Registry,
        metrics: Metrics,
        place: WorkerPlace,
        *,
        log_format: LogFormat,
        reread: Callable[[], ServiceSettings],
    ) -> None:
        super().__init__(config, registry, log_format=log_format, reread=reread)
        self._metrics = metrics
        self._place = place
        self._publishing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._watch_supervisor()
        self._registry.start()
        try:
            await self._registry.until_ready()
        except LavitError as error:
            self.failure = error
            self.should_exit = True
            return
        await super().startup(sockets)
        self._publishing = asyncio.create_task(self._publish(), name="publish")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._publishing is not None:
            self._publishing.cancel()
        await super().shutdown(sockets)

    async def _ready(self) -> None:
        """The supervisor announces that all are ready."""
        take_signals()

    def _watch_supervisor(self) -> None:
        """Stop where nobody is there any more to pass a signal on."""
        supervisor = multiprocessing.parent_process()
        if supervisor is None:
            raise RuntimeError("a worker is started by lavit_deploy.serving.process.supervisor")
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.remove_reader(supervisor.sentinel)
            _log.critical("the supervisor of the workers has died")
            self.handle_exit(signal.SIGTERM, None)

        loop.add_reader(supervisor.sentinel, stop)

    async def _publish(self) -> None:
        states, number = self._place.shared, self._place.number
        while True:
            ready = self._registry.own_unready_reason is None
            states.set_state(number, State.READY if ready else State.BROKEN)
            self._metrics.refresh()
            await asyncio.sleep(_PUBLISHED)


def _start_lines(
    settings: ServiceSettings, models: Sequence[OpenedModel], registry: Registry, address: str
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


def _model_lines(
    settings: ServiceSettings, model: OpenedModel, registry: Registry
) -> dict[str, str]:
    """What an operator wants to know about one model, by topic."""
    manifest, selection = model.manifest, model.selection
    called = "" if model.key == (manifest.name, "1") else f"{model.key}: "
    with registry.use(*model.key) as classifier:
        most = classifier.max_batch
    times = f", opened {settings.instances} times" if settings.instances > 1 else ""
    return {
        "model": f"{called}{manifest.name} ({manifest.architecture}, {len(manifest.classes)} "
        f"classes), checkpoint {model.id.checkpoint}",
        "artifact": f"{selection.artifact.name} on {settings.device}{times}: {selection.reason}",
        "batches": f"at most {most}, waiting at most {settings.max_wait_ms:g} ms; "
        f"{settings.queue} pictures in the house, {registry.decoders} decoders",
        **({"note": "; ".join(selection.notes)} if selection.notes else {}),
    }
