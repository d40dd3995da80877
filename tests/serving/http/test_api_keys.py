"""Keys open what the table of endpoints says, and nothing shows them."""

import hashlib
import re

import pytest

from lavit_deploy.common.errors import UsageError
from lavit_deploy.serving.http.api_keys import VARIABLE, ApiKeys

FIRST, SECOND = "a" * 32, "0123456789abcdef"


def classify(client, data, **headers):
    return client.post("/classify", content=data, headers={"Content-Type": "image/png", **headers})


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# the shop\n{FIRST}\n\n  {SECOND}  \n")
    return path


@pytest.fixture
def locked(make_client, runtime, key_file):
    return make_client(runtime, api_keys=key_file)


@pytest.mark.parametrize("key", [FIRST, SECOND])
def test_each_of_several_keys_opens_in_either_header(locked, picture, key):
    assert classify(locked, picture(), Authorization=f"Bearer {key}").status_code == 200
    assert classify(locked, picture(), Authorization=f"bearer  {key}").status_code == 200
    assert classify(locked, picture(), **{"X-API-Key": key}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": FIRST},
        {"Authorization": f"Basic {FIRST}"},
        {"Authorization": f"Bearer {FIRST}x"},
        {"Authorization": f"Bearer {FIRST[:-1]}"},
        {"Authorization": "Bearer # the shop"},
        {"X-API-Key": f"{FIRST}\u00e9".encode("latin-1")},
    ],
)
def test_without_a_known_key_the_answer_is_401(locked, picture, headers):
    response = classify(locked, picture(), **headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:lavit:problem:unauthorized"
    assert response.headers["x-request-id"] == response.json()["request_id"]
    assert FIRST not in response.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/page/page.js", 200),
        ("/docs", 200),
        ("/openapi.json", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/v2/health/live", 200),
        ("/v2/health/ready", 200),
        ("/metrics", 401),
        ("/models", 401),
        ("/v2", 401),
        ("/v2/models/colours", 401),
        ("/v2/models/colours/infer", 401),
        ("/nowhere", 401),
        ("/page", 401),
        ("/healthz/", 401),
    ],
)
def test_what_is_open_without_a_key(locked, path, status):
    assert locked.get(path, follow_redirects=False).status_code == status


def test_a_key_is_asked_for_before_the_body_is_read(locked):
    too_much = b"x" * 40_000_000  # which would be 413
    assert classify(locked, too_much).status_code == 401


def test_keys_come_from_the_environment_where_no_file_is_named(key_file):
    environment = {VARIABLE: f"{FIRST}, {SECOND}\n"}
    found = ApiKeys.load(None, environment)
    assert found.knows(FIRST)
    assert found.knows(SECOND)
    assert not found.knows("")
    assert ApiKeys.load(None, {}) is None
    other = ApiKeys.load(key_file, {VARIABLE: "b" * 20})  # the file alone counts
    assert not other.knows("b" * 20)


def test_the_service_with_keys_in_the_environment_asks_for_them(
    make_client, runtime, picture, monkeypatch
):
    monkeypatch.setenv(VARIABLE, FIRST)
    client = make_client(runtime)
    assert classify(client, picture()).status_code == 401
    assert classify(client, picture(), **{"X-API-Key": FIRST}).status_code == 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("short", "API key 1 must have 16 or more"),
        (f"{FIRST}\nwith spaces inside it", "API key 2"),
        (f"{FIRST}\u00e9", "printable ASCII"),
        ("# nothing\n", "no API key"),
        ("", "no API key"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_without_showing_them(tmp_path, text, words):
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape(words)) as refused:
        ApiKeys.load(path, {})
    assert FIRST not in str(refused.value)


def test_an_empty_variable_is_refused_and_not_taken_for_no_keys():
    with pytest.raises(UsageError, match="no API key"):
        ApiKeys.load(None, {VARIABLE: ""})


def test_a_key_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--api-keys .*missing cannot be read"):
        ApiKeys.load(tmp_path / "missing", {})


def test_keys_are_kept_as_hashes_only(key_file):
    keys = ApiKeys.load(key_file, {})
    assert FIRST not in repr(vars(keys))
    assert hashlib.sha256(FIRST.encode()).digest() in vars(keys)["_hashes"]
