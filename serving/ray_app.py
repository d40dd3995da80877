"""The service as a Ray Serve application.

    serve run lavit_deploy.serving.ray_app:build bundle=/lavit_s.bundle

Ray starts replicas, spreads requests over them, scales them by load and replaces those that die.
Within a replica everything is as in `lavit-serve`: the same application, admission and batching.
"""

# No `from __future__ import annotations` here: Ray reads the annotation of `build`.

import math
from dataclasses import fields
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ray import serve
from ray.serve.config import AutoscalingConfig

from lavit_deploy.common.errors import UsageError
from lavit_deploy.serving.http.app import create_app
from lavit_deploy.serving.models.open_models import open_models
from lavit_deploy.serving.models.registry import Registry
from lavit_deploy.serving.settings.model_source import ModelSource
from lavit_deploy.serving.settings.settings import ServiceSettings
from lavit_deploy.serving.telemetry.metrics import Metrics

_OF_RAY = {
    "bundles": "bundle",
    "models": "models",
    "host": "http_options of Ray Serve",
    "port": "http_options of Ray Serve",
    "keep_alive_seconds": "http_options of Ray Serve",
    "forwarded_allow_ips": "http_options of Ray Serve",
    "root_path": "route_prefix of Ray Serve",
    "log_format": "logging_config of Ray Serve",
    "workers": "min_replicas and max_replicas",
    "measure": "lavit-serve --measure, before replicas share the bundle",
}
"""Settings that are decided elsewhere, and where."""
_SPARE_SECONDS = 5.0
_STARTS = 3


class Options(BaseModel):
    """What `serve run` and a Serve config file may say under `args`.

    Attributes:
        bundle: folder written by `lavit-export`, at the same path on every node; the default model.
        models: more bundles, each as NAME[:VERSION]=PATH.
        min_replicas: fewest replicas.
        max_replicas: most replicas; more of them are started as load grows.
        target_ongoing_requests: requests in a replica, accepted and not yet answered, that Ray
            aims at: about the batch size, so that batches fill.
        upscale_delay_seconds: how long the load must be high before replicas are added.
        downscale_delay_seconds: how long it must be low before replicas are taken away.
        cpus: cores that a replica reserves; its runtime and its decoders have that many threads,
            unless `settings` says otherwise.
        gpus: GPUs that a replica reserves, or a share of one.
        health_check_seconds: how often Ray asks a replica whether it is well.
        settings: any other setting of `lavit-serve`, by its name in `settings.settings`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    models: tuple[str, ...] = ()
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=4, ge=1)
    target_ongoing_requests: float = Field(default=16, gt=0)
    upscale_delay_seconds: float = Field(default=5, ge=0)
    downscale_delay_seconds: float = Field(default=300, ge=0)
    cpus: float = Field(default=2, gt=0)
    gpus: float = Field(default=0, ge=0)
    health_check_seconds: float = Field(default=2, gt=0)
    settings: dict[str, Any] = {}

    def service_settings(self) -> ServiceSettings:
        """The settings of a replica's service.

        Raises:
            UsageError: a setting that does not exist, is out of range, or is not decided here.
        """
        known = {field.name for field in fields(ServiceSettings)} - {*_OF_RAY}
        for name in self.settings:
            if name in _OF_RAY:
                raise UsageError(f"settings.{name} is not for a replica: see {_OF_RAY[name]}")
            if name not in known:
                raise UsageError(
                    f"settings.{name} is unknown; there are {', '.join(sorted(known))}"
                )
        threads = math.ceil(self.cpus)
        device = "cuda" if self.gpus else "cpu"
        values = {"threads": threads, "decoders": threads, "device": device, **self.settings}
        values["bundles"] = (self.bundle,)
        values["models"] = tuple(ModelSource.parse(text) for text in self.models)
        try:
            return TypeAdapter(ServiceSettings).validate_python(values)
        except ValidationError as error:
            problems = "; ".join(
                f"settings.{'.'.join(map(str, item['loc']))}: {item['msg']}"
                for item in error.errors()
            )
            raise UsageError(problems) from None


class Replica:
    """The models in a process that Ray supervises, with a queue and batches of its own.

    Args:
        settings: bundles, limits and sizes.

    Raises:
        LavitError: a bundle or an option cannot be used.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._registry = Registry(open_models(settings), settings, self._metrics)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application; Ray runs its lifespan, which starts and drains the models."""
        return create_app(self._registry, self._settings, self._metrics, workers=None)

    async def check_health(self) -> None:
        """Ray sends requests once this has returned, and replaces a replica where it raises.

        Raises:
            LavitError: a model fails its warm-up.
            RuntimeError: a model cannot be relied on any more.
        """
        await self._registry.until_ready()
        if reason := self._registry.unready_reason:
            raise RuntimeError(reason)


def build(options: Options) -> serve.Application:
    """The application for `serve run`, `serve deploy` and `serve.run`.

    Raises:
        UsageError: an option is out of range, or options contradict each other.
    """
    if options.max_replicas < options.min_replicas:
        raise UsageError(
            f"max_replicas {options.max_replicas} is less than min_replicas {options.min_replicas}"
        )
    settings = options.service_settings()
    deploy = serve.deployment(
        name="lavit",
        autoscaling_config=AutoscalingConfig(
            min_replicas=options.min_replicas,
            max_replicas=options.max_replicas,
            target_ongoing_requests=options.target_ongoing_requests,
            upscale_delay_s=options.upscale_delay_seconds,
            downscale_delay_s=options.downscale_delay_seconds,
        ),
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        # A replica refuses what is beyond its own queue, so Ray need not hold requests back; what
        # waits for a replica at all is bounded, too.
        max_ongoing_requests=settings.queue,
        max_queued_requests=settings.queue,
        health_check_period_s=options.health_check_seconds,
        graceful_shutdown_timeout_s=settings.drain_seconds + _SPARE_SECONDS,
        max_constructor_retry_count=_STARTS,  # an unusable bundle stays unusable
    )
    return deploy(serve.ingress()(Replica)).bind(settings)
