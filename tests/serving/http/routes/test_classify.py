"""POST /classify over the real graph in ONNX Runtime: right answers, and refusals that say why."""

import asyncio
import io
import re
import zlib

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lavit_deploy.serving.http.app import create_app

# Softmax of exact means: float32 logits (relative 6e-8) times a slope of at most 10.
TOLERANCE = 2e-6


def png_header(width, height):
    """A PNG that claims a size and holds nothing."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def raw(client, data, content_type="image/png", **options):
    return client.post("/classify", content=data, headers={"Content-Type": content_type}, **options)


def files(client, *pictures, **options):
    parts = [("files", (name, data, "image/png")) for name, data in pictures]
    return client.post("/classify", files=parts, **options)


def assert_problem(response, status, kind):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == f"urn:lavit:problem:{kind}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["instance"] == f"/classify#{problem['request_id']}"
    return problem["detail"]


@pytest.mark.parametrize("content_type", ["image/png", "image/*", "application/octet-stream"])
def test_a_raw_body_is_classified(client, picture, colours, content_type):
    answer = raw(client, picture((200, 30, 90)), content_type).json()
    (result,) = answer["results"]
    assert [item["label"] for item in result["predictions"]] == ["red", "blue", "green"]
    assert [item["index"] for item in result["predictions"]] == [0, 2, 1]
    for item in result["predictions"]:
        expected = colours((200, 30, 90))[item["label"]]
        assert item["probability"] == pytest.approx(expected, abs=TOLERANCE)
    assert result["name"] is None
    assert answer["model"] == {
        "name": "colours",
        "version": "1",
        "artifact": "onnx-fp32",
        "checkpoint": "0123456789ab",
    }


def test_a_multipart_file_is_classified_under_any_field_name(client, picture):
    response = client.post("/classify", files={"upload": ("sea.png", picture((0, 0, 255)))})
    (result,) = response.json()["results"]
    assert result["name"] == "sea.png"
    assert result["predictions"][0]["label"] == "blue"


def test_several_files_are_answered_in_order_with_errors_item_by_item(client, picture):
    response = files(
        client,
        ("a.png", picture((255, 0, 0))),
        ("b.txt", b"no picture"),
        ("c.png", picture((0, 255, 0))),
        ("d.png", picture()[:60]),
    )
    assert response.status_code == 200
    results = response.json()["results"]
    assert [item["index"] for item in results] == [0, 1, 2, 3]
    assert [item["name"] for item in results] == ["a.png", "b.txt", "c.png", "d.png"]
    assert [item["status"] for item in results] == ["ok", "error", "ok", "error"]
    assert [results[i]["predictions"][0]["label"] for i in (0, 2)] == ["red", "green"]
    assert [results[i]["error"]["status"] for i in (1, 3)] == [415, 422]


def test_several_files_that_all_fail_alike_have_their_common_status(client):
    response = files(client, ("a", b"x"), ("b", b"y"))
    assert_problem(response, 415, "no-picture-classified")
    assert [item["name"] for item in response.json()["errors"]] == ["a", "b"]
    assert {item["type"] for item in response.json()["errors"]} == {
        "urn:lavit:problem:unsupported-image"
    }


def test_several_files_that_all_fail_differently_are_422(client, picture):
    response = files(client, ("a", b"x"), ("b", picture()[:60]))
    assert_problem(response, 422, "no-picture-classified")
    assert [item["status"] for item in response.json()["errors"]] == [415, 422]


def test_the_timing_of_picture_and_request_is_told(client, picture):
    response = files(client, ("a.png", picture()), ("b.png", picture()))
    answer = response.json()
    for result in answer["results"]:
        timing = result["timing"]
        assert timing["decode_ms"] > 0
        assert timing["infer_ms"] > 0
        assert timing["queue_ms"] >= 0
        stages = timing["decode_ms"] + timing["queue_ms"] + timing["infer_ms"]
        assert stages <= answer["timing"]["total_ms"] + 0.01  # three values rounded to 1 us
    assert re.fullmatch(
        r"read;dur=[\d.e-]+, decode;dur=[\d.e-]+, queue;dur=[\d.e-]+, "
        r"infer;dur=[\d.e-]+, total;dur=[\d.e-]+",
        response.headers["server-timing"],
    )


def test_top_k_cuts_the_list(client, picture):
    for top_k in (1, 2, 3):
        response = raw(client, picture(), params={"top_k": top_k})
        assert len(response.json()["results"][0]["predictions"]) == top_k


@pytest.mark.parametrize("top_k", ["0", "-1", "4", "two", "", "1.5", "9" * 30])
def test_a_top_k_out_of_range_is_answered_with_422(client, picture, top_k):
    detail = assert_problem(
        raw(client, picture(), params={"top_k": top_k}), 422, "invalid-parameter"
    )
    assert detail.startswith("top_k: ")


def test_bytes_that_are_no_image_are_answered_with_415(client):
    detail = assert_problem(raw(client, b"hello"), 415, "unsupported-image")
    assert "JPEG, PNG" in detail


def test_a_truncated_jpeg_is_answered_with_422(client, picture):
    jpeg = picture(size=(200, 200), kind="JPEG")
    assert_problem(raw(client, jpeg[:-200], "image/jpeg"), 422, "corrupt-image")


def test_too_many_pixels_are_refused_by_the_header_alone(client):
    detail = assert_problem(raw(client, png_header(5_000, 5_000)), 413, "image-too-large")
    assert "25,000,000 pixels; the limit is 1,000,000" in detail


def test_a_decompression_bomb_is_refused(client):
    assert_problem(raw(client, png_header(60_000, 60_000)), 413, "image-too-large")


def test_a_hair_thin_picture_does_not_grow_beyond_memory(client, picture):
    # 1 x 100000 at a shorter side of 64 would be 410 million pixels.
    assert_problem(raw(client, picture(size=(1, 100_000))), 413, "image-too-large")


def test_too_many_bytes_are_refused_by_content_length(client):
    assert_problem(raw(client, b"x" * 200_001), 413, "body-too-large")


def test_too_many_bytes_are_refused_while_a_chunked_body_arrives(client):
    sent = []

    def endless():
        for _ in range(1000):
            sent.append(1)
            yield b"x" * 10_000

    assert_problem(raw(client, endless()), 413, "body-too-large")


def test_a_multipart_body_is_limited_too(client, picture):
    response = files(client, ("a.png", picture()), ("big", b"x" * 200_000))
    assert_problem(response, 413, "body-too-large")


def test_too_many_files_are_answered_with_413(client, picture):
    response = files(client, *[("x.png", picture())] * 5)
    assert "more than 4 files" in assert_problem(response, 413, "too-many-pictures")


@pytest.mark.parametrize("content_type", ["application/xml", "text/plain", "nonsense"])
def test_a_wrong_content_type_is_answered_with_415(client, content_type):
    detail = assert_problem(raw(client, b"{}", content_type), 415, "unsupported-body")
    assert "expected multipart/form-data" in detail


def test_a_missing_content_type_is_answered_with_415(client):
    response = client.post("/classify", content=b"x")
    assert "has no Content-Type" in assert_problem(response, 415, "unsupported-body")


def test_a_compressed_body_is_answered_with_415(client, picture):
    headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    response = client.post("/classify", content=picture(), headers=headers)
    assert_problem(response, 415, "unsupported-body")


def test_an_empty_body_is_answered_with_400(client):
    assert_problem(raw(client, b""), 400, "no-picture")


BOUNDARY = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("body", "content_type", "kind"),
    [
        (b"", BOUNDARY, "no-picture"),
        (b"--x--\r\n", BOUNDARY, "no-picture"),
        (b"--x\r\n", "multipart/form-data", "malformed-upload"),
        (b"rubbish", BOUNDARY, "malformed-upload"),
        (b"--x\r\nbad header\r\n\r\n", BOUNDARY, "malformed-upload"),
        (b"--x\r\n", f"multipart/form-data; boundary={'x' * 5000}", "malformed-upload"),
        (
            b'--x\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n3\r\n--x--\r\n',
            BOUNDARY,
            "malformed-upload",
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n1\r\n--x\r\n',
            BOUNDARY,
            "malformed-upload",
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\ncut',
            BOUNDARY,
            "malformed-upload",
        ),
    ],
)
def test_a_broken_form_is_answered_with_400(client, body, content_type, kind):
    assert_problem(raw(client, body, content_type), 400, kind)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.binary(max_size=300),
    prefix=st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"]),
    content_type=st.sampled_from(["image/png", "application/octet-stream", BOUNDARY, "text/x"]),
)
def test_random_bytes_never_give_a_server_error(client, prefix, data, content_type):
    assert 400 <= raw(client, prefix + data, content_type).status_code < 500


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]))
def test_a_damaged_picture_never_gives_a_server_error(client, picture, data, kind):
    whole = bytearray(picture((9, 99, 200), (40, 30), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert raw(client, bytes(whole)).status_code < 500


def test_a_failing_runtime_is_a_500_that_hides_internals_and_the_service_stays(
    make_client, runtime, picture
):
    client = make_client(runtime)
    runtime.failure = ValueError("/secret/path")
    response = raw(client, picture())
    assert "secret" not in assert_problem(response, 500, "inference")
    runtime.failure = None
    assert raw(client, picture()).status_code == 200


def test_logits_that_are_not_finite_are_a_500_and_not_a_broken_answer(
    make_client, runtime, picture
):
    client = make_client(runtime)
    runtime.answer = np.array([[1.0, np.nan, 0.0]], dtype=np.float32)
    assert_problem(raw(client, picture()), 500, "inference")


def test_large_logits_do_not_overflow(make_client, runtime, picture):
    client = make_client(runtime)
    runtime.answer = np.array([[3e38, 0.0, -3e38]], dtype=np.float32)
    predictions = raw(client, picture()).json()["results"][0]["predictions"]
    assert [item["probability"] for item in predictions] == [1.0, 0.0, 0.0]


def test_equal_probabilities_keep_the_order_of_the_classes(client, picture):
    predictions = raw(client, picture((7, 7, 7))).json()["results"][0]["predictions"]
    assert [item["label"] for item in predictions] == ["red", "green", "blue"]


def test_an_unexpected_fault_in_decoding_costs_one_picture(client, picture, monkeypatch):
    from lavit_deploy.serving.decoding import pool

    real = pool.prepare

    def faulty(data, preprocess, **options):
        if len(data) < 10:
            raise ZeroDivisionError("a fault of ours")
        return real(data, preprocess, **options)

    monkeypatch.setattr(pool, "prepare", faulty)
    results = files(client, ("a.png", picture()), ("b.png", b"tiny")).json()["results"]
    assert [item["status"] for item in results] == ["ok", "error"]
    assert results[1]["error"]["type"] == "urn:lavit:problem:unexpected"
    assert "ZeroDivision" not in results[1]["error"]["detail"]


def overlapping(make_registry, runtime, scenario, **changes):
    """Run requests that overlap, on one event loop, against a runtime that is held."""

    async def main():
        registry, options, metrics = make_registry(runtime, **changes)
        app = create_app(registry, options, metrics)
        transport = httpx.ASGITransport(app)
        async with (
            asyncio.timeout(30),
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            await registry.until_ready()
            while runtime.entered.acquire(blocking=False):
                pass  # the warm-up's calls
            runtime.held = True
            with registry.use() as classifier:
                await scenario(client, classifier)

    asyncio.run(main())


def send(client, data):
    return asyncio.create_task(
        client.post("/classify", content=data, headers={"Content-Type": "image/png"})
    )


async def entered(runtime):
    assert await asyncio.to_thread(runtime.entered.acquire, timeout=30)


def test_a_full_queue_is_answered_with_503_and_retry_after(make_registry, runtime, picture):
    async def scenario(client, classifier):
        accepted = send(client, picture())
        await entered(runtime)
        refused = await send(client, picture())
        assert_problem(refused, 503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        runtime.let_go()
        assert (await accepted).status_code == 200
        runtime.let_go()
        assert (await send(client, picture())).status_code == 200  # there is room again

    overlapping(make_registry, runtime, scenario, queue=1, max_files=1)


def test_uploads_over_the_memory_budget_are_answered_with_503(make_registry, runtime, picture):
    data = picture()

    async def scenario(client, classifier):
        accepted = send(client, data)
        await entered(runtime)
        assert_problem(await send(client, data), 503, "overloaded")
        runtime.let_go()
        assert (await accepted).status_code == 200

    size = len(data) + 1
    overlapping(make_registry, runtime, scenario, max_bytes=size, max_pending_bytes=size)


def test_a_client_that_leaves_frees_its_place_before_its_picture_is_batched(
    make_registry, runtime, picture
):
    async def scenario(client, classifier):
        first = send(client, picture())
        await entered(runtime)
        messages = [
            {"type": "http.request", "body": picture(), "more_body": False},
            {"type": "http.disconnect"},
        ]
        arrived = asyncio.Event()

        async def receive():
            if len(messages) == 1:  # it leaves only once its picture is waiting
                await arrived.wait()
            return messages.pop(0)

        sent = []

        async def answer(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/classify",
            "raw_path": b"/classify",
            "query_string": b"",
            "headers": [(b"content-type", b"image/png")],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("test", 80),
            "client": ("test", 1),
            "root_path": "",
        }
        leaver = asyncio.create_task(client._transport.app(scope, receive, answer))
        while classifier._batcher.depth == 0:
            await asyncio.to_thread(lambda: None)  # one turn of the pools, no clock
        assert classifier._batcher.accepted == 2
        arrived.set()
        await leaver
        assert sent[0]["status"] == 499
        assert classifier._batcher.depth == 0
        assert classifier._batcher.accepted == 1
        runtime.let_go()
        assert (await first).status_code == 200
        assert runtime.batches[-1:] == [1]

    overlapping(make_registry, runtime, scenario)


def test_a_body_that_does_not_arrive_is_answered_with_408(make_registry, runtime):
    async def scenario(client, classifier):
        async def stalled():
            yield b"x"
            await asyncio.Event().wait()

        response = await client.post(
            "/classify", content=stalled(), headers={"Content-Type": "image/png"}
        )
        assert_problem(response, 408, "upload-timeout")

    overlapping(make_registry, runtime, scenario, upload_seconds=0.01)
