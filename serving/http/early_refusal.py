"""Load shedding: a refusal before there is a request, for a fraction of what a request costs.

Behind the application's middleware a refusal takes a sixth of the processor time of an answer by a
small model: at three times the load that it can take, a service would do little but refuse.
"""

from __future__ import annotations

import time

from starlette.datastructures import Headers

from lavit_deploy.serving.errors import kind_of
from lavit_deploy.serving.http.admission import Admission
from lavit_deploy.serving.http.proxies.root_path import without_prefix
from lavit_deploy.serving.http.request_log import REQUEST_ID, TIMING, id_of_request
from lavit_deploy.serving.http.response_headers import SAFE_HEADERS
from lavit_deploy.serving.http.route_policy import policy_of
from lavit_deploy.serving.telemetry.metrics import Metrics
from lavit_deploy.serving.wire.problem import Problem, headers_of, picture_problem, whole_problem

METRICS, EARLY_REFUSAL, PLACES = "metrics", "early_refusal", "places"
"""What connections look for in the lifespan's state."""


class EarlyRefusal:
    """Refuses work by its head alone, for connections; counted like other refusals, not logged.

    Not for a service with keys, cross-origin rules or traces: those come before any refusal.

    Args:
        admission: what is let in.
        metrics: where refusals are counted.
        prefix: where the service is; see `proxies.root_path`.
    """

    def __init__(self, admission: Admission, metrics: Metrics, *, prefix: str) -> None:
        self._admission = admission
        self._metrics = metrics
        self._prefix = prefix

    def refuse(self, path: str, headers: Headers) -> tuple[Problem, dict[str, str]] | None:
        """Refuse a POST.

        Args:
            path: where it goes.
            headers: its headers.

        Returns:
            The answer and its headers; None where the application is to answer.
        """
        started = time.perf_counter()
        path = without_prefix(path, self._prefix)
        policy = policy_of(path)
        if not policy.work or (refusal := self._admission.refusal(headers)) is None:
            return None
        request_id, kind = id_of_request(headers), kind_of(refusal)
        problem = whole_problem(picture_problem(refusal), path=path, request_id=request_id)
        seconds = time.perf_counter() - started
        self._metrics.error(kind)
        self._metrics.request(
            route=policy.path, method="POST", status=problem.status, reason=kind, seconds=seconds
        )
        return problem, {
            **headers_of(refusal),
            **SAFE_HEADERS,
            REQUEST_ID: request_id,
            TIMING: f"total;dur={seconds * 1e3:.3g}",
        }
