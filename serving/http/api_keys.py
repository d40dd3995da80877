"""Who may call the service: by keys, of which only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from lavit_deploy.common.errors import UsageError
from lavit_deploy.serving.errors import UnauthorizedError
from lavit_deploy.serving.http.route_policy import policy_of
from lavit_deploy.serving.settings.settings import ServiceSettings
from lavit_deploy.serving.wire.problem import error_response

VARIABLE = "LAVIT_API_KEYS"
"""Environment variable with keys, separated by spaces, commas or lines."""

ADMIN_VARIABLE = "LAVIT_ADMIN_KEYS"
"""The same for the keys of administration."""

_SHORTEST = 16  # characters; 64 bits where they are hexadecimal


class ApiKeys:
    """The keys that open the service; only their hashes are kept.

    Args:
        keys: at least one, each of at least 16 printable characters.

    Raises:
        UsageError: a key is too short or has characters that no header can carry.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        keys = tuple(keys)
        for number, key in enumerate(keys, 1):
            if not re.fullmatch(rf"[!-~]{{{_SHORTEST},}}", key):
                raise UsageError(
                    f"API key {number} must have {_SHORTEST} or more printable ASCII characters, "
                    f"given one of {len(key)}; make one with: openssl rand -hex 32"
                )
        if not keys:
            raise UsageError("there is no API key in what should hold them; one goes in each line")
        self._hashes = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    @classmethod
    def load(
        cls,
        file: Path | None,
        environment: Mapping[str, str],
        *,
        option: str = "--api-keys",
        variable: str = VARIABLE,
    ) -> ApiKeys | None:
        """Keys from a file, lines beginning with # left out, or else from the environment.

        Args:
            file: one key in each line.
            environment: the process's variables.
            option: what names the file, for messages.
            variable: which variable holds keys.

        Returns:
            None where neither is given.

        Raises:
            UsageError: the file cannot be read, or a key cannot be used.
        """
        if file is not None:
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"{option} {file} cannot be read: {error}") from None
            stripped = (line.strip() for line in lines)
            return cls(line for line in stripped if line and not line.startswith("#"))
        if variable in environment:
            return cls(key for key in re.split(r"[\s,]+", environment[variable]) if key)
        return None

    def knows(self, given: str) -> bool:
        """Whether a key is one of them; takes as long for every key of the same length."""
        digest = hashlib.sha256(given.encode("latin-1", "replace")).digest()
        found = False
        for known in self._hashes:
            found |= hmac.compare_digest(digest, known)
        return found

    def check(self, headers: Mapping[str, str]) -> None:
        """Accept a request by its headers.

        Raises:
            UnauthorizedError: it has no key, or none that is known.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not given:
            raise UnauthorizedError(
                "an API key is needed; send it as Authorization: Bearer KEY, or as X-API-Key"
            )
        if not self.knows(given):
            raise UnauthorizedError("the API key is not known here")


@dataclass(frozen=True)
class Access:
    """Which keys open what.

    Attributes:
        keys: of the service; None: it is open.
        admin: of administration; None: there is no administration.
    """

    keys: ApiKeys | None
    admin: ApiKeys | None

    @classmethod
    def load(cls, settings: ServiceSettings, environment: Mapping[str, str]) -> Access:
        """As the settings say; without keys of its own, administration has the service's.

        Raises:
            UsageError: a key cannot be used.
        """
        keys = ApiKeys.load(settings.api_keys, environment)
        admin = ApiKeys.load(
            settings.admin_keys, environment, option="--admin-keys", variable=ADMIN_VARIABLE
        )
        return cls(keys, admin or keys)

    def to(self, path: str) -> ApiKeys | None:
        """The keys that open a path; None: everybody may come in."""
        kind = policy_of(path).key
        return None if kind == "none" else self.admin if kind == "admin" else self.keys


class ApiKeyMiddleware:
    """ASGI middleware that lets requests with a key through, and everybody to open routes.

    Args:
        app: what answers.
        access: which keys open what.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keys = self._access.to(scope["path"]) if scope["type"] == "http" else None
        if keys is not None:
            try:
                keys.check(Headers(scope=scope))
            except UnauthorizedError as error:
                await error_response(Request(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
