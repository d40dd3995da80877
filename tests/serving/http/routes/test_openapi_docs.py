"""The description at /openapi.json against a real server: no answer that it does not announce."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lavit_deploy.serving.errors import IncompatiblePackageError
from lavit_deploy.serving.http.app import create_app
from lavit_deploy.serving.http.routes import openapi_docs

CONFIGURATION = """
[parameters]
"path.model_name" = "colours"
"path.model_version" = "1"
# A shorter one would pass, and 504 is an answer that this tool takes for a fault.
"header.X-Request-Timeout-Ms" = "60000"

# How many classes a model has, how long a tensor's data must be, or that a string is base64 and a
# picture, a schema cannot say.
[[operations]]
include-path = "/classify"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "415", "422"]

[[operations]]
include-path-regex = "/infer$"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "413", "415", "422"]
# A shape with too large a batch may be refused before its other faults are.
checks.negative_data_rejection.expected-statuses = ["400", "404", "413", "415", "422"]
"""


@pytest.mark.slow
def test_schemathesis_finds_no_answer_that_contradicts_the_description(
    serve, bundle_path, tmp_path
):
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
        *("--config-file", str(configuration), "run", serve(bundle_path).url + "/openapi.json"),
        *("--checks", "all", "--max-examples", "20", "--seed", "1", "--no-color"),
        *("--generation-database", "none"),
    ]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ
        | {"SCHEMATHESIS_HOOKS": "schemathesis_pictures"}
        | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for phase in ("Coverage", "Fuzzing", "Stateful"):
        assert f"✅  {phase} (in" in run.stdout


def test_the_documentation_comes_from_this_server_alone(client):
    page = client.get("/docs").text
    assert "//cdn" not in page
    assert "https://" not in page
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert client.get(asset).status_code == 200, asset


def test_openapi_describes_answers_problems_and_limits(client):
    schema = client.get("/openapi.json").json()
    classify = schema["paths"]["/classify"]["post"]
    assert set(classify["responses"]) == {
        *("200", "400", "404", "408", "413", "415", "422", "500", "503", "504"),
    }
    names = {item["name"] for item in classify["parameters"]}
    assert names == {"top_k", "model", "version", "X-Request-Timeout-Ms"}
    body = classify["requestBody"]["content"]
    assert set(body) >= {
        *("multipart/form-data", "application/json", "image/jpeg", "application/octet-stream"),
    }
    for status, response in classify["responses"].items():
        if status != "200":
            assert list(response["content"]) == ["application/problem+json"]
    text = json.dumps(schema)
    for reference in set(re.findall(r"#/components/schemas/(\w+)", text)):
        assert reference in schema["components"]["schemas"]
    assert "HTTPValidationError" not in text


def test_the_documentation_runs_only_the_script_it_came_with(client):
    response = client.get("/docs")
    (policy,) = re.findall(r"script-src ([^;]+)", response.headers["content-security-policy"])
    assert "unsafe" not in policy
    (script,) = re.findall(r"<script>(.*?)</script>", response.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy


def test_a_package_without_its_files_is_said_at_the_start(
    make_registry, runtime, monkeypatch, tmp_path
):
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "swagger-ui-bundle.js").touch()
    monkeypatch.setattr(openapi_docs, "files", lambda _: tmp_path)
    with pytest.raises(IncompatiblePackageError, match=r"has no static/swagger-ui\.css"):
        create_app(*make_registry(runtime))
