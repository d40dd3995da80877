"""The description at /openapi.json against a real server: no answer that it does not announce."""

import os
import subprocess
import sys
from pathlib import Path

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


def test_schemathesis_finds_no_answer_that_contradicts_the_description(
    serve, bundle_path, tmp_path
):
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
