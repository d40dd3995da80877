"""`/`: the page for people."""

# No `from __future__ import annotations` here: FastAPI reads the routes' annotations.

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from lavit_deploy.serving.http.proxies.root_path import STATE

_PAGE = Path(__file__).parents[2] / "page"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)


def add_page(app: FastAPI) -> None:
    """Add `/` and the page's files below `/page`."""
    html = (_PAGE / "index.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> HTMLResponse:
        # Under a prefix the page may be asked for without the slash that its links count on.
        prefix = getattr(request.state, STATE, "")
        base = f'<head>\n    <base href="{prefix}/">' if prefix else "<head>"
        page = html.replace("<head>", base, 1)
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    app.mount("/page", StaticFiles(directory=_PAGE), name="page")
