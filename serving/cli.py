"""`lavit-serve`: a bundle over HTTP."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from lavit_deploy.common import command_line
from lavit_deploy.common.errors import MissingDependencyError
from lavit_deploy.manifest import Device
from lavit_deploy.runtimes.specs import runtime_names
from lavit_deploy.serving.process.standard_streams import keep_standard_streams
from lavit_deploy.serving.settings import layers
from lavit_deploy.serving.settings.layers import CommaSeparated, MultiValue
from lavit_deploy.serving.settings.model_source import ModelSource
from lavit_deploy.serving.settings.settings import Isolation, LogFormat, ServiceSettings

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "fastapi_offline")

_SECRETS = ("LAVIT_API_KEYS", "LAVIT_ADMIN_KEYS")
"""Variables of `lavit_deploy.serving.http.api_keys`, whose import would need the HTTP packages."""

_EXAMPLES = """\
  lavit-serve lavit_s.bundle
  lavit-serve lavit_s.bundle --host 0.0.0.0 --port 80 --log-format json
  lavit-serve lavit_s.bundle --model digits:2=digits.bundle
  lavit-serve digits.bundle --workers 2
  LAVIT_SERVE_MAX_BATCH=16 lavit-serve lavit_s.bundle --config serve.toml --show-config
  curl -F file=@cat.jpg http://127.0.0.1:8000/classify
  curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/classify?top_k=3

Every option can also be given as LAVIT_SERVE_<OPTION> or in a file; an option on the command
line wins over a variable, a variable over the file. SIGTERM and Ctrl-C finish what was accepted,
then exit. SIGHUP reads all of it again and exchanges the bundles that have changed.
exit codes: 0 stopped, 1 parity or warm-up failed or requests were abandoned, 2 wrong option,
bundle or address, 3 a package is missing"""


def make_parser() -> argparse.ArgumentParser:
    """The options of `lavit-serve`."""
    default = ServiceSettings(bundles=(Path(),))
    parser = command_line.parser("lavit-serve", "Serve a bundle's model over HTTP.", _EXAMPLES)
    parser.add_argument(
        "bundles",
        type=Path,
        nargs="*",
        action=MultiValue,
        default=(),
        metavar="BUNDLE",
        help="folders by lavit-export; the first is the default model",
    )

    where = parser.add_argument_group("address")
    where.add_argument("--host", default=default.host, help="address to listen on")
    where.add_argument("--port", type=int, default=default.port, help="TCP port; 0: any free one")
    where.add_argument(
        "--keep-alive-seconds",
        type=float,
        default=default.keep_alive_seconds,
        help="time a connection stays open between requests; longer than a proxy's in front",
    )

    proxy = parser.add_argument_group("behind a proxy")
    proxy.add_argument(
        "--root-path",
        default=default.root_path,
        metavar="/PREFIX",
        help="path under which it shows the service, whether it takes it off or not",
    )
    proxy.add_argument(
        "--forwarded-allow-ips",
        action=CommaSeparated,
        default=default.forwarded_allow_ips,
        metavar="ADDRESS,...",
        help="addresses or networks of proxies whose X-Forwarded-For and -Proto are believed; "
        "*: everybody's (default: nobody's)",
    )

    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        dest="models",
        type=ModelSource.parse,
        nargs=1,
        action=MultiValue,
        default=(),
        metavar="NAME[:VERSION]=PATH",
        help="one more bundle, by a name and a version of yours; may be repeated",
    )
    model.add_argument(
        "--artifact",
        default=default.artifact,
        metavar="NAME",
        help="artifact to serve; auto: the fastest that passed parity",
    )
    model.add_argument(
        "--runtime",
        choices=("auto", *runtime_names()),
        default=default.runtime,
        help="auto: whichever was measured to be fastest",
    )
    model.add_argument(
        "--agreement",
        type=float,
        default=default.agreement,
        help="smallest accepted share of pictures classified as by the float32 model",
    )
    model.add_argument(
        "--measure",
        "--retune",  # its name in 0.1
        action=argparse.BooleanOptionalAction,
        default=default.measure,
        help="measure the artifacts on this machine first, and keep the result in the bundle",
    )
    model.add_argument("--device", choices=get_args(Device), default=default.device)
    model.add_argument("--threads", type=int, help="threads of the runtime (default: the cores)")
    model.add_argument(
        "--workers",
        type=int,
        default=default.workers,
        help="processes that share the port, the threads and the limits; for small models, whose "
        "requests cost more than their inference",
    )
    model.add_argument(
        "--instances",
        type=int,
        default=default.instances,
        help="times that each model is opened; they share the threads",
    )
    model.add_argument(
        "--infer-seconds",
        type=float,
        default=default.infer_seconds,
        help="time a batch may take before the runtime counts as broken and is opened again",
    )
    model.add_argument(
        "--decoders", type=int, help="pictures decoded at the same time (default: the cores)"
    )
    model.add_argument(
        "--decoder-isolation",
        choices=get_args(Isolation),
        default=default.decoder_isolation,
        help="threads are faster; of processes, a picture that crashes its decoder ends one only",
    )

    batching = parser.add_argument_group("batching")
    batching.add_argument(
        "--max-batch", type=int, help="most pictures at once (default: the artifact's optimum)"
    )
    batching.add_argument(
        "--max-wait-ms",
        type=float,
        default=default.max_wait_ms,
        help="longest wait of a picture for others that are being decoded",
    )
    batching.add_argument(
        "--queue",
        type=int,
        default=default.queue,
        help="most pictures accepted and not yet answered; more get 503",
    )
    batching.add_argument(
        "--top-k", type=int, default=default.top_k, help="classes in an answer, unless asked"
    )

    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-bytes", type=int, default=default.max_bytes, help="bytes of a request's body"
    )
    limits.add_argument(
        "--max-pending-bytes",
        type=int,
        default=default.max_pending_bytes,
        help="bytes of all bodies in memory",
    )
    limits.add_argument(
        "--max-pixels", type=int, default=default.max_pixels, help="width x height of a picture"
    )
    limits.add_argument(
        "--max-files", type=int, default=default.max_files, help="pictures in a request"
    )
    limits.add_argument(
        "--decode-seconds",
        type=float,
        default=default.decode_seconds,
        help="time the decoding of a picture may take",
    )
    limits.add_argument(
        "--request-seconds",
        type=float,
        default=default.request_seconds,
        help="time for a request without an X-Request-Timeout-Ms of its own",
    )
    limits.add_argument(
        "--upload-seconds",
        type=float,
        default=default.upload_seconds,
        help="time a body may take to arrive",
    )
    limits.add_argument(
        "--drain-seconds",
        type=float,
        default=default.drain_seconds,
        help="time to finish accepted requests after SIGTERM",
    )

    access = parser.add_argument_group("access")
    access.add_argument(
        "--api-keys",
        type=Path,
        metavar="FILE",
        help="one key in each line; without it LAVIT_API_KEYS, or no key is asked for",
    )
    access.add_argument(
        "--admin-keys",
        type=Path,
        metavar="FILE",
        help="keys for /admin; without it LAVIT_ADMIN_KEYS, or the API keys open it",
    )
    access.add_argument(
        "--cors-origins",
        action=CommaSeparated,
        default=default.cors_origins,
        metavar="ORIGIN,...",
        help="web origins whose pages may call the service (default: only its own)",
    )

    logs = parser.add_argument_group("logs and traces")
    logs.add_argument("--log-format", choices=get_args(LogFormat), default=default.log_format)
    logs.add_argument(
        "--otlp-endpoint",
        metavar="URL",
        help="OpenTelemetry collector, such as http://127.0.0.1:4318; without it "
        "OTEL_EXPORTER_OTLP_ENDPOINT, or nothing is traced",
    )

    source = parser.add_argument_group("configuration")
    source.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML with the options' names as keys; without it LAVIT_SERVE_CONFIG",
    )
    source.add_argument(
        "--show-config",
        action="store_true",
        help="print every setting with where it comes from, as such a file, and end",
    )
    return parser


def main(arguments: Sequence[str] | None) -> int:
    """Serve until a signal; see `lavit_deploy.serving.process.server.serve`.

    Raises:
        LavitError: the server could not start.
    """
    effective, others = layers.read(make_parser, arguments, os.environ)
    if others.show_config:
        print(effective.toml(name for name in _SECRETS if name in os.environ))
        effective.settings()
        return 0
    settings = effective.settings()

    for package in _NEEDED:
        if find_spec(package) is None:
            raise MissingDependencyError(package, extra="serve", purpose="serve over HTTP")
    from lavit_deploy.serving.telemetry import logs

    logs.configure(settings.log_format)
    reread = partial(_reread, arguments)
    if settings.workers > 1:
        from lavit_deploy.serving.process import supervisor

        return supervisor.supervise(settings, reread=reread)
    from lavit_deploy.serving.process import server

    return server.serve(settings, reread=reread)


def _reread(arguments: Sequence[str] | None) -> ServiceSettings:
    return layers.read(make_parser, arguments, os.environ)[0].settings()


def entry() -> None:
    """Console script."""
    keep_standard_streams()
    sys.exit(command_line.run(main))
