"""What holds for each endpoint: who may call it, whether it is logged, whether it is work.

An endpoint that is not in the table needs a key, is logged, and is never refused for want of time;
a test holds that every route of the application is here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

CLASSIFY = "/classify"
MODEL = "/v2/models/{model_name}"
VERSION = "/v2/models/{model_name}/versions/{model_version}"
ADMIN_VERSION = "/admin/models/{name}/versions/{version}"
DOCS_ASSETS = "/docs/assets"

KeyKind = Literal["none", "service", "admin"]


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """The rules of one endpoint.

    Attributes:
        path: as routers name it; one that ends in a slash is everything below it.
        key: which keys open it, where there are any.
        quiet: its successes are neither logged nor traced.
        work: a POST to it is work for a model, refused where it could not be done in time.
    """

    path: str
    key: KeyKind = "service"
    quiet: bool = False
    work: bool = False


POLICIES = (
    RoutePolicy(CLASSIFY, work=True),
    RoutePolicy(f"{MODEL}/infer", work=True),
    RoutePolicy(f"{VERSION}/infer", work=True),
    RoutePolicy("/models"),
    RoutePolicy("/v2"),
    RoutePolicy(MODEL),
    RoutePolicy(VERSION),
    RoutePolicy(f"{MODEL}/ready"),
    RoutePolicy(f"{VERSION}/ready"),
    # Whoever looks after the service must be able to ask how it is.
    RoutePolicy("/healthz", key="none", quiet=True),
    RoutePolicy("/readyz", key="none", quiet=True),
    RoutePolicy("/v2/health/live", key="none"),
    RoutePolicy("/v2/health/ready", key="none"),
    RoutePolicy("/metrics", quiet=True),
    # People must see where to enter their key.
    RoutePolicy("/", key="none"),
    RoutePolicy("/page/", key="none", quiet=True),
    RoutePolicy("/docs", key="none"),
    RoutePolicy(f"{DOCS_ASSETS}/", key="none", quiet=True),
    RoutePolicy("/openapi.json", key="none"),
    RoutePolicy("/admin/models", key="admin"),
    RoutePolicy(ADMIN_VERSION, key="admin"),
    RoutePolicy("/admin/", key="admin"),
)
"""A path that is written out comes first; of patterns and folders the first one that fits."""

_UNKNOWN = RoutePolicy("")


def policy_of(path: str) -> RoutePolicy:
    """The rules for a request, by the path that it asks for."""
    return _BY_PATH.get(path) or next(
        (policy for pattern, policy in _PATTERNS if pattern.fullmatch(path)), _UNKNOWN
    )


def _pattern(path: str) -> re.Pattern[str]:
    parts = ("[^/]+" if part.startswith("{") else re.escape(part) for part in path.split("/"))
    return re.compile("/".join(parts) + (".*" if path.endswith("/") else ""), re.DOTALL)


_BY_PATH = {policy.path: policy for policy in POLICIES if "{" not in policy.path}
_PATTERNS = tuple(
    (_pattern(policy.path), policy)
    for policy in POLICIES
    if "{" in policy.path or (policy.path.endswith("/") and policy.path != "/")
)
