"""Work is refused before its body is read, and nothing else is."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from lavit_deploy.serving.http.admission import Admission, AdmissionMiddleware
from lavit_deploy.serving.http.deadlines import HEADER
from lavit_deploy.serving.http.loop_lag import LONGEST_LAG

BURST = 20
WORK = ("/classify", "/v2/models/colours/infer", "/v2/models/colours/versions/1/infer")


class Lag:
    def __init__(self, seconds):
        self.seconds = seconds


class Load:
    def __init__(self, *, full, wait):
        self.full = full
        self.predicted_wait = wait


async def answer_inside(_):
    return PlainTextResponse("inside")


def asked(path, method="POST", *, lag=0.0, full=False, wait=0.0, in_progress=0, headers=None):
    """The answer to a request that comes while others, which end later, are answered."""
    routes = [Route("/{path:path}", answer_inside, methods=["GET", "POST"])]
    busy = {"load": Load(full=full, wait=wait), "lag": Lag(lag), "burst": BURST, "seconds": 10.0}
    admission = Admission(**busy)
    app = AdmissionMiddleware(Starlette(routes=routes), admission=admission)
    scope = {"type": "http", "method": "POST", "path": "/classify", "state": {}, "headers": []}

    async def with_id(scope, receive, send):
        scope["state"] = {"request_id": "1"}

        async def unread():
            raise AssertionError("the body was read")

        await app(scope, unread, send)

    async def main():
        ended = asyncio.Event()
        app._app, answering = lambda *_: ended.wait(), app._app
        others = [asyncio.create_task(app(scope, None, None)) for _ in range(in_progress)]
        await asyncio.sleep(0)
        app._app = answering
        transport = httpx.ASGITransport(with_id)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.request(method, path, headers=headers)
        ended.set()
        await asyncio.gather(*others)
        assert admission.in_progress == 0
        return answer

    return asyncio.run(main())


@pytest.mark.parametrize("path", WORK)
@pytest.mark.parametrize("busy", [{"lag": 2 * LONGEST_LAG, "in_progress": BURST}, {"full": True}])
def test_work_is_refused_unread_while_the_service_is_too_busy(path, busy):
    answer = asked(path, **busy)
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:lavit:problem:overloaded"
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("path", WORK)
def test_work_comes_in_while_there_is_room(path):
    assert asked(path).status_code == 200


@pytest.mark.parametrize(("wait", "headers"), [(10.1, {}), (0.3, {HEADER: "250"})])
def test_what_would_be_late_is_refused_unread(wait, headers):
    answer = asked("/classify", wait=wait, headers=headers)
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:lavit:problem:predicted-wait"


@pytest.mark.parametrize(
    ("wait", "headers"), [(9.9, {}), (0.2, {HEADER: "250"}), (60.0, {HEADER: "soon"})]
)
def test_what_would_be_in_time_comes_in_and_so_does_what_cannot_be_read(wait, headers):
    assert asked("/classify", wait=wait, headers=headers).status_code == 200


def test_one_stall_of_the_loop_is_no_overload():
    assert asked("/classify", lag=9.0, in_progress=BURST - 1).status_code == 200


def test_many_slow_uploads_are_no_overload():
    assert asked("/classify", lag=0.0, in_progress=4 * BURST).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/healthz"), ("GET", "/metrics"), ("POST", "/admin/models/a/versions/1")],
)
def test_operators_come_in_always(method, path):
    assert asked(path, method, lag=9.0, full=True, wait=99.0).status_code == 200


def test_the_service_itself_admits_no_more_than_it_has_places_for(make_client, runtime, picture):
    client = make_client(runtime, queue=1, max_files=1)
    runtime.held = True
    while runtime.entered.acquire(blocking=False):
        pass
    with client.portal.wrap_async_context_manager(HeldPlace(client)):
        answer = client.post("/classify", content=picture(), headers={"Content-Type": "image/png"})
    runtime.held = False
    assert answer.status_code == 503
    assert answer.json()["detail"] == "every place is taken"


class HeldPlace:
    """A place of the only model, for the time of a block."""

    def __init__(self, client):
        self._places = client.classifier._batcher.reserve(1)

    async def __aenter__(self):
        return self._places.__enter__()

    async def __aexit__(self, *error):
        return self._places.__exit__(*error)
