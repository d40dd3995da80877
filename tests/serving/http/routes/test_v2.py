"""The Open Inference Protocol v2: by hand over ASGI, and by Triton's own client over TCP."""

import base64
import gzip
import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SCALE = 10.0  # of the graph in conftest: logit = SCALE / 255 * mean of a channel
TOLERANCE = 1e-5  # float32 means of 4096 bytes, times a slope below 0.04
INFER = "/v2/models/colours/infer"


def batch(*colours):
    return np.stack([np.full((64, 64, 3), colour, dtype=np.uint8) for colour in colours])


def logits_of(images):
    """By closed form, float64 [B, 3]."""
    return images.mean(axis=(1, 2), dtype=np.float64) * SCALE / 255


IMAGES = batch((200, 30, 90), (0, 255, 1), (7, 7, 7))


def images_in_json(images, **fields):
    data = images.ravel().tolist()
    tensor = {"name": "images", "shape": list(images.shape), "datatype": "UINT8", "data": data}
    return {"inputs": [tensor | fields]}


def binary(request, raw):
    """A body of JSON and raw bytes, and its headers."""
    head = json.dumps(request).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


def images_in_binary(images, **fields):
    raw = images.tobytes()
    parameters = {"binary_data_size": len(raw)}
    tensor = {"name": "images", "shape": list(images.shape), "datatype": "UINT8"}
    return binary({"inputs": [tensor | {"parameters": parameters} | fields]}, raw)


def assert_refused(response, status, words):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert words in problem["detail"]
    assert problem["error"] == problem["detail"]  # where clients of the protocol look
    return problem


def test_health_and_metadata(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data", "classification"]
    for path in ("/v2/models/colours", "/v2/models/colours/versions/1"):
        assert client.get(path).json() == {
            "name": "colours",
            "versions": ["1"],
            "platform": "lavit_onnxruntime",
            "inputs": [
                {"name": "images", "datatype": "UINT8", "shape": [-1, 64, 64, 3]},
                {"name": "pictures", "datatype": "BYTES", "shape": [-1]},
            ],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
        }
        assert client.get(f"{path}/ready").json() == {"name": "colours", "ready": True}


@pytest.mark.parametrize("path", ["", "/ready", "/versions/7", "/versions/7/ready"])
def test_a_model_or_version_that_is_not_there_is_404(client, path):
    name = "colours" if "versions" in path else "shapes"
    assert_refused(client.get(f"/v2/models/{name}{path}"), 404, "there is colours version 1")


def test_not_ready_is_503_for_server_and_model_while_live(client):
    client.registry.stop_soon()
    for path in ("/v2/health/ready", "/v2/models/colours/ready"):
        response = client.get(path)
        assert_refused(response, 503, "")
        assert int(response.headers["retry-after"]) >= 1
    assert client.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize("nested", [False, True])
def test_images_in_json_give_logits_in_json(client, nested):
    request = images_in_json(IMAGES) | {"id": "order-66"}
    if nested:
        request["inputs"][0]["data"] = IMAGES.tolist()
    answer = client.post(INFER, json=request).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == (
        *("order-66", "colours", "1"),
    )
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [3, 3])
    found = np.array(output["data"]).reshape(3, 3)
    np.testing.assert_allclose(found, logits_of(IMAGES), atol=TOLERANCE, rtol=0)


def test_raw_bytes_in_and_out_give_the_same_float32_as_json(client):
    body, headers = images_in_binary(IMAGES)
    plain = client.post(INFER, content=body, headers=headers).json()["outputs"][0]["data"]
    request = json.loads(body[: int(headers["Inference-Header-Content-Length"])])
    body, headers = binary(request | {"parameters": {"binary_data_output": True}}, IMAGES.tobytes())
    response = client.post("/v2/models/colours/versions/1/infer", content=body, headers=headers)
    length = int(response.headers["inference-header-content-length"])
    assert response.headers["content-type"] == "application/octet-stream"
    (output,) = json.loads(response.content[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 3 * 3 * 4}
    raw = np.frombuffer(response.content[length:], dtype="<f4")
    assert np.array_equal(raw, np.array(plain, dtype=np.float32))


def test_picture_files_give_the_logits_of_their_pixels(client, picture):
    colours = [(200, 30, 90), (0, 255, 1)]
    files = [picture(colour) for colour in colours]
    expected = logits_of(batch(*colours))
    raw = b"".join(struct.pack("<I", len(file)) + file for file in files)
    tensor = {"name": "pictures", "shape": [2], "datatype": "BYTES"}
    body, headers = binary(
        {"inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}]}, raw
    )
    encoded = [base64.b64encode(file).decode() for file in files]
    for response in (
        client.post(INFER, content=body, headers=headers),
        client.post(INFER, json={"inputs": [tensor | {"data": encoded}]}),
    ):
        found = np.array(response.json()["outputs"][0]["data"]).reshape(2, 3)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_classes_come_with_value_index_and_label(client):
    outputs = [{"name": "logits", "parameters": {"classification": 2}}]
    answer = client.post(INFER, json=images_in_json(IMAGES) | {"outputs": outputs}).json()
    (output,) = answer["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [3, 2])
    names = [item.split(":", 1)[1] for item in output["data"]]
    assert names == ["0:red", "2:blue", "1:green", "2:blue", "0:red", "1:green"]
    values = [float(item.split(":")[0]) for item in output["data"]]
    assert values[0] == pytest.approx(200 * SCALE / 255, abs=1e-5)


def test_a_gzipped_request_is_unpacked_and_a_long_answer_is_packed(client):
    body = gzip.compress(json.dumps(images_in_json(batch(*[(9, 9, 9)] * 4))).encode())
    response = client.post(INFER, content=body, headers={"Content-Encoding": "gzip"})
    assert response.json()["outputs"][0]["shape"] == [4, 3]
    packed = client.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json()["info"]["title"] == "LaViT"


def test_a_gzip_bomb_is_refused_when_it_passes_the_limit(client):
    bomb = gzip.compress(b" " * 50_000_000)  # 49 KB; the limit is 200 KB
    response = client.post(INFER, content=bomb, headers={"Content-Encoding": "gzip"})
    assert_refused(response, 413, "the limit is 200,000")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"no gzip", "not valid gzip"),
        (gzip.compress(b"{}", mtime=0)[:-4], "cut short"),
        (gzip.compress(b"{}", mtime=0) + b"tail", "something follows"),
    ],
)
def test_a_broken_gzip_body_is_400(client, body, words):
    response = client.post(INFER, content=body, headers={"Content-Encoding": "gzip"})
    assert_refused(response, 400, words)


def test_an_encoding_that_is_not_known_is_415(client):
    response = client.post(INFER, content=b"{}", headers={"Content-Encoding": "br"})
    assert_refused(response, 415, "expected identity, gzip or deflate")


ONE = IMAGES[:1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "sounds"}, "inputs.0.name: Input should be 'images' or 'pictures'"),
        ({"datatype": "FP32"}, "inputs.0.datatype: Input should be 'UINT8' or 'BYTES'"),
        ({"datatype": "BYTES"}, "must be UINT8 ['B', 64, 64, 3], given BYTES"),
        ({"shape": [1, 3, 64, 64]}, "given UINT8 [1, 3, 64, 64]"),
        ({"shape": []}, "batch dimension"),
        ({"shape": [-1, 64, 64, 3]}, "greater than or equal to 0"),
        ({"shape": [2, 64, 64, 3]}, "needs 24,576 values, given 12,288"),
        ({"data": None}, "neither data nor binary_data_size"),
        ({"data": [1.5]}, "whole numbers 0..255"),
        ({"data": [256]}, "whole numbers 0..255"),
        ({"data": ["a"]}, "whole numbers 0..255"),
        ({"data": []}, "whole numbers 0..255"),
        ({"data": [[1], [2, 3]]}, "different lengths"),
        ({"parameters": {"binary_data_size": 5}}, "binary_data_size is 5 and 0 bytes follow"),
        ({"parameters": {"shared_memory_region": "x"}}, "shared memory is not offered"),
        ({"name": "pictures"}, "must be BYTES"),
        ({"name": "pictures", "datatype": "BYTES", "shape": [2], "data": ["aGk="]}, "given 1"),
        ({"name": "pictures", "datatype": "BYTES", "shape": [1], "data": ["?"]}, "base64"),
        ({"name": "pictures", "datatype": "BYTES", "shape": [1], "data": [7]}, "base64"),
    ],
)
def test_a_tensor_that_does_not_fit_is_400_and_says_why(client, fields, words):
    assert_refused(client.post(INFER, json=images_in_json(ONE, **fields)), 400, words)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([{"name": "scores"}], "outputs.0.name: Input should be 'logits'"),
        ([{"name": "logits", "parameters": {"classification": -1}}], "number of classes"),
        ([{"name": "logits", "parameters": {"shared_memory_region": "x"}}], "shared memory"),
    ],
)
def test_an_output_that_is_not_there_is_400(client, outputs, words):
    response = client.post(INFER, json=images_in_json(ONE) | {"outputs": outputs})
    assert_refused(response, 400, words)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"inputs": []}', b"\xff", b"[" * 5000])
def test_what_is_no_request_is_400(client, body):
    assert_refused(client.post(INFER, content=body), 400, "")


@pytest.mark.parametrize("length", ["-1", "x", "99999999", ""])
def test_a_wrong_length_of_the_json_is_400(client, length):
    body, headers = images_in_binary(ONE)
    headers["Inference-Header-Content-Length"] = length
    assert_refused(client.post(INFER, content=body, headers=headers), 400, "must be 0..")


@pytest.mark.parametrize("raw", [b"\x01", struct.pack("<I", 5) + b"four"])
def test_raw_elements_that_are_cut_short_are_400(client, raw):
    tensor = {"name": "pictures", "shape": [1], "datatype": "BYTES"}
    body, headers = binary(
        {"inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}]}, raw
    )
    assert_refused(client.post(INFER, content=body, headers=headers), 400, "ends within")


def test_an_empty_batch_is_400_and_one_too_large_413(client):
    empty = images_in_json(ONE, shape=[0, 64, 64, 3])
    assert assert_refused(client.post(INFER, json=empty), 400, "")["type"].endswith("no-picture")
    body, headers = images_in_binary(batch(*[(1, 2, 3)] * 5))
    assert_refused(client.post(INFER, content=body, headers=headers), 413, "more than 4")


def test_a_damaged_picture_refuses_the_request_and_says_which_one(client, picture):
    files = [base64.b64encode(data).decode() for data in (picture(), picture()[:60])]
    tensor = {"name": "pictures", "shape": [2], "datatype": "BYTES", "data": files}
    problem = assert_refused(client.post(INFER, json={"inputs": [tensor]}), 422, "picture 1: ")
    assert problem["type"] == "urn:lavit:problem:corrupt-image"


def test_a_failing_runtime_is_500_and_logits_that_are_not_finite_too(make_client, runtime):
    client = make_client(runtime)
    runtime.answer = np.array([[np.nan, 0, 0]], dtype=np.float32)
    assert_refused(client.post(INFER, json=images_in_json(ONE)), 500, "no usable numbers")
    runtime.failure = ValueError("/secret")
    assert "secret" not in client.post(INFER, json=images_in_json(ONE)).text


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_request_of_this_shape_gives_a_server_error(client, data):
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5
    )
    tensor = {
        "name": data.draw(st.sampled_from(["images", "pictures", "x"])),
        "shape": data.draw(st.lists(st.integers(-1, 70), max_size=4)),
        "datatype": data.draw(st.sampled_from(["UINT8", "BYTES", "FP32"])),
        "data": data.draw(anything),
        "parameters": data.draw(
            st.dictionaries(st.sampled_from(["binary_data_size", "x"]), st.integers(0, 9))
        ),
    }
    body, headers = binary({"inputs": [tensor]}, data.draw(st.binary(max_size=9)))
    if data.draw(st.booleans()):
        headers = {}
    assert 400 <= client.post(INFER, content=body, headers=headers).status_code < 500


@pytest.fixture(scope="module")
def triton(module_server):
    """Triton's own client, connected to a real server."""
    http = pytest.importorskip("tritonclient.http", reason="Triton's client is not installed")
    address = module_server.url.removeprefix("http://")
    connection = http.InferenceServerClient(address, concurrency=2)
    yield http, connection
    connection.close()


def test_tritons_client_finds_the_model(triton):
    _, connection = triton
    assert connection.is_server_live()
    assert connection.is_server_ready()
    assert connection.is_model_ready("colours")
    assert connection.is_model_ready("colours", "1")
    assert not connection.is_model_ready("shapes")
    assert connection.get_server_metadata()["name"] == "lavit-serve"
    assert connection.get_model_metadata("colours")["outputs"][0]["shape"] == [-1, 3]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritons_client_gets_logits_of_images(triton, raw, compression):
    http, connection = triton
    tensor = http.InferInput("images", list(IMAGES.shape), "UINT8")
    tensor.set_data_from_numpy(IMAGES, binary_data=raw)
    result = connection.infer(
        "colours",
        [tensor],
        outputs=[http.InferRequestedOutput("logits", binary_data=raw)],
        request_id="order-66",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    found = result.as_numpy("logits")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, logits_of(IMAGES), atol=TOLERANCE, rtol=0)
    assert result.get_response()["id"] == "order-66"


def test_tritons_client_gets_logits_and_classes_of_picture_files(triton, picture):
    http, connection = triton
    files = np.array([picture((200, 30, 90)), picture((0, 255, 1))], dtype=np.object_)
    tensor = http.InferInput("pictures", [2], "BYTES")
    tensor.set_data_from_numpy(files)
    found = connection.infer("colours", [tensor], model_version="1").as_numpy("logits")
    np.testing.assert_allclose(found, logits_of(IMAGES[:2]), atol=TOLERANCE, rtol=0)
    wanted = http.InferRequestedOutput("logits", class_count=1)
    best = connection.infer("colours", [tensor], outputs=[wanted]).as_numpy("logits")
    assert [item.decode().split(":")[2] for item in best.ravel()] == ["red", "green"]


def test_tritons_client_runs_requests_at_the_same_time(triton):
    http, connection = triton
    calls = []
    for image in IMAGES:
        tensor = http.InferInput("images", [1, 64, 64, 3], "UINT8")
        tensor.set_data_from_numpy(image[None])
        calls.append(connection.async_infer("colours", [tensor]))
    found = np.concatenate([call.get_result().as_numpy("logits") for call in calls])
    np.testing.assert_allclose(found, logits_of(IMAGES), atol=TOLERANCE, rtol=0)


def test_tritons_client_understands_a_refusal(triton):
    http, connection = triton
    tensor = http.InferInput("images", [1, 2, 2, 3], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, 2, 2, 3), dtype=np.uint8))
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="must be UINT8") as refused:
        connection.infer("colours", [tensor])
    assert refused.value.status() == "400"
