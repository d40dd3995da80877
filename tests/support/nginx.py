"""A real nginx in front of a server, with the configuration that a test gives."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

PATIENCE = 30.0
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

needs_nginx = pytest.mark.skipif(
    NGINX is None, reason="nginx is not installed: apt-get install nginx-light"
)

MAIN = """\
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/errors.log;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{http}
}}
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextlib.contextmanager
def nginx(folder, http, port):
    """Runs nginx until the block ends; `http` is what stands in its http block."""
    folder.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""  # its own could not write there
    file = folder / "nginx.conf"
    file.write_text(MAIN.format(folder=folder, user=user, http=http))
    process = subprocess.Popen(
        [NGINX, "-p", str(folder), "-c", str(file), "-e", str(folder / "errors.log")]
    )
    try:
        until = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert process.poll() is None, (folder / "errors.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.02)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
