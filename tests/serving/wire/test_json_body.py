"""POST /classify with pictures as base64 in JSON, and many requests on one connection."""

import base64
import gzip
import http.client
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.common.errors import LavitError
from lavit_deploy.serving.wire.json_body import from_base64, read_json


def b64(data):
    return base64.b64encode(data).decode()


def post(client, pictures, **options):
    return client.post("/classify", json={"pictures": pictures}, **options)


def assert_problem(response, status, kind):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == f"urn:lavit:problem:{kind}"
    return response.json()["detail"]


def test_pictures_in_json_keep_order_and_names_with_errors_item_by_item(client, picture):
    response = post(
        client,
        [
            {"name": "a.png", "data": b64(picture((255, 0, 0)))},
            {"name": "b.png", "data": b64(picture()[:60])},
            {"data": b64(picture((0, 0, 255)))},
            {"name": "d.txt", "data": b64(b"hello")},
        ],
        params={"top_k": 1},
    )
    assert response.status_code == 200
    results = response.json()["results"]
    assert [item["name"] for item in results] == ["a.png", "b.png", None, "d.txt"]
    assert [item["index"] for item in results] == [0, 1, 2, 3]
    assert [item["status"] for item in results] == ["ok", "error", "ok", "error"]
    assert [results[i]["predictions"][0]["label"] for i in (0, 2)] == ["red", "blue"]
    assert [results[i]["error"]["status"] for i in (1, 3)] == [422, 415]


def test_json_gives_the_same_answer_as_the_picture_itself(client, picture):
    data = picture((200, 30, 90), (90, 40))
    raw = client.post("/classify", content=data, headers={"Content-Type": "image/png"})
    (expected,) = raw.json()["results"]
    (found,) = post(client, [{"data": b64(data)}]).json()["results"]
    assert found["predictions"] == expected["predictions"]


def test_a_gzipped_json_body_is_taken(client, picture):
    body = gzip.compress(json.dumps({"pictures": [{"data": b64(picture())}]}).encode())
    response = client.post(
        "/classify",
        content=body,
        headers={"Content-Type": "application/json; charset=utf-8", "Content-Encoding": "gzip"},
    )
    assert response.json()["results"][0]["predictions"][0]["label"] == "red"


def test_a_long_json_body_is_read_beside_the_event_loop(make_client, runtime, picture):
    client = make_client(runtime)
    pictures = [{"data": b64(picture(size=(300, 300), kind="BMP"))}] * 3
    assert [item["status"] for item in post(client, pictures).json()["results"]] == ["ok"] * 3


def test_a_data_url_and_line_breaks_are_understood(client, picture):
    lines = base64.encodebytes(picture((0, 255, 0))).decode()
    for text in (lines, f"data:image/png;base64,{b64(picture((0, 255, 0)))}"):
        (result,) = post(client, [{"data": text}]).json()["results"]
        assert result["predictions"][0]["label"] == "green"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "expected"),
        (b"{", "expected"),
        (b"[]", "expected"),
        (b"{}", "pictures: Field required"),
        (b'{"pictures": 3}', "pictures: "),
        (b'{"pictures": [{"data": 3}]}', "pictures.0.data: "),
        (b'{"pictures": [{"data": "a"}]}', "pictures.0.data: Value error, not valid base64"),
        (b'{"pictures": [{"data": "aGk="}, {"data": "aGk_"}]}', "pictures.1.data: "),
        (b'{"pictures": [{"data": "data:text/plain,hi"}]}', "not base64"),
        (b'{"pictures": [{}]}', "pictures.0.data: Field required"),
        (b'{"pictures": [{"data": "aGk="}], "top_k": 3}', "top_k: Extra inputs"),
        (b'{"pictures": [{"data": "\xff"}]}', "expected"),
    ],
)
def test_json_of_another_shape_is_400_and_says_where(client, body, words):
    response = client.post("/classify", content=body, headers={"Content-Type": "application/json"})
    assert words in assert_problem(response, 400, "malformed-upload")


def test_an_empty_list_is_400_and_too_many_pictures_413(client, picture):
    assert_problem(post(client, []), 400, "no-picture")
    assert_problem(post(client, [{"data": b64(picture())}] * 5), 413, "too-many-pictures")


def test_an_empty_picture_is_an_error_of_that_picture(client, picture):
    response = post(client, [{"data": ""}, {"data": b64(picture())}])
    assert [item["status"] for item in response.json()["results"]] == ["error", "ok"]


@given(st.binary(max_size=100))
def test_any_bytes_survive_base64(data):
    assert from_base64(b64(data)) == data
    assert from_base64(base64.encodebytes(data).decode()) == data


@given(st.binary(max_size=200))
def test_no_body_raises_anything_but_our_errors(body):
    try:
        read_json(body, 4)
    except LavitError:
        return
    assert body  # an empty one is never fine


def test_a_model_that_is_not_there_is_404_and_the_default_can_be_named(client, picture):
    (entry,) = client.get("/models").json()["models"]
    assert (entry["name"], entry["default"], entry["ready"], entry["classes"]) == (
        *("colours", True, True, 3),
    )
    named = {"model": entry["name"], "version": entry["version"]}
    assert post(client, [{"data": b64(picture())}], params=named).status_code == 200
    for wrong in ({"model": "shapes"}, {"version": "999"}):
        response = post(client, [{"data": b64(picture())}], params=wrong)
        detail = assert_problem(response, 404, "unknown-model")
        assert "colours" in detail


def test_one_connection_carries_good_and_bad_requests(serve, bundle_path, picture):
    server = serve(bundle_path)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.connect()
    socket = connection.sock
    statuses = []
    for body, kind in (
        (picture(), "image/png"),
        (b"no picture", "image/png"),
        (b"{}", "text/plain"),
        (b"{", "application/json"),
        (picture(), "image/png"),
    ):
        connection.request("POST", "/classify", body, {"Content-Type": kind})
        response = connection.getresponse()
        statuses.append(response.status)
        response.read()
        assert connection.sock is socket  # http.client drops it where the server says close
    connection.close()
    assert statuses == [200, 415, 415, 400, 200]
