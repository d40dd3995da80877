"""`/docs` without a network: Swagger UI from an installed package instead of a CDN."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.metadata import version
from importlib.resources import as_file, files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from lavit_deploy.serving.errors import IncompatiblePackageError
from lavit_deploy.serving.http.route_policy import DOCS_ASSETS
from lavit_deploy.serving.wire.json_body import JsonPictures
from lavit_deploy.serving.wire.problem import Problem
from lavit_deploy.serving.wire.v2_tensors import InferRequest

_SCRIPT, _STYLE = "swagger-ui-bundle.js", "swagger-ui.css"


def add_docs(app: FastAPI) -> None:
    """Add `/docs`, its assets, and the schemas that the routes refer to.

    Raises:
        IncompatiblePackageError: the installed package has no Swagger UI where it should.
    """
    with as_file(files("fastapi_offline") / "static") as folder:
        for name in (_SCRIPT, _STYLE):
            if not (folder / name).is_file():
                raise IncompatiblePackageError(
                    f"fastapi_offline {version('fastapi-offline')} has no static/{name}; this "
                    "version of lavit-deploy needs fastapi-offline>=1.7.4,<2"
                )
        app.mount(DOCS_ASSETS, StaticFiles(directory=folder), name="docs-assets")

    page = get_swagger_ui_html(
        # Relative, so that they hold under any prefix.
        openapi_url="openapi.json",
        title=f"{app.title}: HTTP API",
        swagger_js_url=f"{DOCS_ASSETS[1:]}/{_SCRIPT}",
        swagger_css_url=f"{DOCS_ASSETS[1:]}/{_STYLE}",
        swagger_favicon_url="page/icon.svg",
    )
    html = bytes(page.body)
    policy = _policy(html.decode())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _schema(app)
        return app.openapi_schema

    # FastAPI's documented way to extend the schema.
    app.openapi = openapi  # type: ignore[method-assign]


def _policy(html: str) -> str:
    """What the page may load: our files, its own inline scripts by hash, and Swagger's styles."""
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src 'self' {allowed}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _schema(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
        servers=app.servers,
    )
    schemas = schema["components"]["schemas"]
    _drop_unused(schema)
    for model in (Problem, JsonPictures, InferRequest):  # that the routes describe by hand
        described = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(described.pop("$defs", {}))
        schemas[model.__name__] = described
    return schema


def _drop_unused(schema: dict[str, Any]) -> None:
    """Take out FastAPI's own 422, which it announces wherever a path has a parameter.

    Ours are problems, which the routes announce themselves.
    """
    for path in schema["paths"].values():
        for operation in path.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
