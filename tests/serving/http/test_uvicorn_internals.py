"""What the connection uses of uvicorn is listed, is there, and is missed before anybody comes."""

import ast
import asyncio
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from lavit_deploy.serving.errors import IncompatiblePackageError
from lavit_deploy.serving.http import connection, uvicorn_internals
from lavit_deploy.serving.http.uvicorn_internals import (
    ATTRIBUTES,
    BELOW,
    METHODS,
    OLDEST,
    PARTS,
    SERVER_METHODS,
    check_uvicorn,
    missing_internals,
)
from lavit_deploy.serving.process import server

PATIENCE = 30.0
ROOT = Path(__file__).parents[3]


def attributes_of_self(module):
    """Names behind `self.` and `super().` in a module."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Attribute):
            value = node.value
            if isinstance(value, ast.Call):
                value = value.func
            if isinstance(value, ast.Name) and value.id in {"self", "super"}:
                yield node.attr


def own_names(cls):
    """What a class defines by itself, on the class or on its instances."""
    assigned = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(cls)))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return {*vars(cls), *assigned} - {"timeout_keep_alive_task", "parser"}  # uvicorn's own


def test_every_internal_that_the_connection_uses_is_listed_and_no_other():
    own = own_names(connection.Connection) | {"error"}  # of an exception
    extended = {name for name in vars(connection.Connection) if hasattr(HttpToolsProtocol, name)}
    used = ({*attributes_of_self(connection)} - own) | {
        name for name in extended if name[:2] != "__"
    }
    assert used == {*METHODS, *ATTRIBUTES}


def test_every_method_of_the_server_that_is_extended_is_listed():
    extended = {
        name
        for each in (server.Server, server.WorkerServer)
        for name in vars(each)
        if hasattr(uvicorn.Server, name) and name[:2] != "__"
    }
    assert extended == {*SERVER_METHODS}


def test_a_connection_of_the_installed_uvicorn_has_them_once_a_request_has_begun():
    class Transport(asyncio.Transport):
        def is_closing(self):
            return True

    async def application(scope, receive, send):
        """Answers nothing."""

    async def main():
        config = uvicorn.Config(application, http=HttpToolsProtocol, ws="none", log_config=None)
        protocol = HttpToolsProtocol(config, ServerState(), {}, asyncio.get_running_loop())
        protocol.connection_made(Transport())
        protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert {name for name in ATTRIBUTES if not hasattr(protocol, name)} == set()
        parts = {
            "RequestResponseCycle": protocol.cycle,
            "FlowControl": protocol.flow,
            "ServerState": protocol.server_state,
        }
        for part, names in PARTS.items():
            assert [name for name in names if not hasattr(parts[part], name)] == [], part
        for name, parameters in METHODS.items():
            assert tuple(inspect.signature(getattr(protocol, name)).parameters) == parameters, name

    asyncio.run(main())


def test_the_installed_uvicorn_is_accepted():
    check_uvicorn()
    assert missing_internals() == []


def test_the_bounds_are_those_of_the_package():
    text = (ROOT / "pyproject.toml").read_text()
    bounds = "uvicorn>={}.{},<{}.{}".format(*OLDEST, *BELOW)
    assert re.findall(r'^ *"(uvicorn[^"]*)"', text, re.MULTILINE) == [bounds]


@pytest.mark.parametrize("version", ["0.33.9", "0.55.0", "1.0.0", "0.60rc1"])
def test_another_version_is_refused(monkeypatch, version):
    monkeypatch.setattr(uvicorn_internals, "version", lambda _: version)
    with pytest.raises(IncompatiblePackageError, match=r"needs uvicorn>=0\.34,<0\.55") as refused:
        check_uvicorn()
    assert version in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("version", ["0.34.0", "0.54.9", "0.54.0.dev1"])
def test_a_version_within_the_bounds_is_accepted(monkeypatch, version):
    monkeypatch.setattr(uvicorn_internals, "version", lambda _: version)
    check_uvicorn()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_takes_something_else_is_missed(monkeypatch, name):
    monkeypatch.setattr(HttpToolsProtocol, name, lambda self, more, than, before: None)
    assert missing_internals() == [f"HttpToolsProtocol.{name}({', '.join(METHODS[name])})"]


HIDE = """\
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
del HttpToolsProtocol._unset_keepalive_if_required
from lavit_deploy.serving.cli import entry
entry()
"""
LATER = """\
from importlib import metadata
found = metadata.version
metadata.version = lambda name: "0.55.1" if name == "uvicorn" else found(name)
from lavit_deploy.serving.cli import entry
entry()
"""


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        (HIDE, r"[\d.]+ has no HttpToolsProtocol\._unset_keepalive_if_required\(\)"),
        (LATER, r"0\.55\.1 is not a version that was tried"),
    ],
)
def test_the_service_does_not_start_and_says_why_in_one_line(bundle_path, code, missing):
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle_path), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(
        rf"error: uvicorn {missing}; this version .* needs uvicorn\S+\n", done.stderr
    )
