"""Flags, environment and file: precedence, origins, and one line for whatever is wrong."""

import dataclasses
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavit_deploy.common.errors import UsageError
from lavit_deploy.serving.cli import make_parser
from lavit_deploy.serving.settings import layers
from lavit_deploy.serving.settings.model_source import ModelSource
from lavit_deploy.serving.settings.settings import ServiceSettings

ROOT = Path(__file__).parents[3]


def effective(*arguments, **environment):
    return layers.read(make_parser, arguments, environment)[0]


@pytest.fixture
def write(tmp_path):
    def file(text):
        path = tmp_path / "serve.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return file


def test_an_option_wins_over_a_variable_and_a_variable_over_the_file(write):
    path = write('bundles = ["f"]\nport = 1\nqueue = 100\nmax-wait-ms = 3\n')
    found = effective(
        *("--config", str(path), "--port", "3"),
        LAVIT_SERVE_PORT="2",
        LAVIT_SERVE_QUEUE="200",
    )
    found_settings = found.settings()
    assert (found_settings.port, found_settings.queue, found_settings.max_wait_ms) == (3, 200, 3.0)
    assert found_settings.bundles == (Path("f"),)
    assert found_settings.top_k == 5
    assert found.origins["port"] == "--port"
    assert found.origins["queue"] == "LAVIT_SERVE_QUEUE"
    assert found.origins["max_wait_ms"] == f"{path} line 4"
    assert found.origins["top_k"] == "default"


def test_a_variable_names_the_file_and_an_option_wins_over_it(write, tmp_path):
    path = write("port = 1\n")
    assert effective("b", LAVIT_SERVE_CONFIG=str(path)).settings().port == 1
    missing = str(tmp_path / "none.toml")
    assert effective("b", "--config", str(path), LAVIT_SERVE_CONFIG=missing).settings().port == 1


def test_what_is_given_as_default_still_counts_as_given():
    found = effective("b", "--port", "8000", LAVIT_SERVE_PORT="9000")
    assert (found.settings().port, found.origins["port"]) == (8000, "--port")


def test_a_switch_can_be_turned_off_again(write):
    path = write("measure = true\n")
    assert effective("b", "--config", str(path)).settings().measure is True
    assert (
        effective("b", "--config", str(path), LAVIT_SERVE_MEASURE="0").settings().measure is False
    )
    assert effective("b", "--no-measure", LAVIT_SERVE_MEASURE="true").settings().measure is False


def test_a_setting_is_still_known_by_the_name_it_had(write):
    assert effective("b", "--retune").settings().measure is True
    assert effective("b", "--config", str(write("retune = true\n"))).settings().measure is True
    assert effective("b", LAVIT_SERVE_RETUNE="true").settings().measure is True
    assert "measure = true" in effective("b", "--retune").toml()
    with pytest.raises(UsageError, match="LAVIT_SERVE_MEASURE and LAVIT_SERVE_RETUNE are one"):
        effective("b", LAVIT_SERVE_RETUNE="true", LAVIT_SERVE_MEASURE="true")


def test_lists_come_as_words_commas_or_arrays(write):
    path = write('model = ["n:2=with space"]\ncors-origins = ["http://a", "http://b"]\n')
    models = (ModelSource(Path("with space"), "n", "2"),)
    origins = ("http://a", "http://b")
    from_file = effective("--config", str(path)).settings()
    from_variables = effective(
        LAVIT_SERVE_MODEL="'n:2=with space'", LAVIT_SERVE_CORS_ORIGINS="http://a,http://b"
    ).settings()
    from_options = effective(
        "--model", "n:2=with space", "--cors-origins", "http://a,http://b"
    ).settings()
    for found in (from_file, from_variables, from_options):
        assert found.models == models
        assert found.cors_origins == origins


def test_every_setting_has_a_key_a_variable_and_an_origin():
    found = effective("b")
    names = {field.name for field in dataclasses.fields(ServiceSettings)}
    assert set(found.values) == set(found.origins) == names
    assert {field.action.dest for field in found.fields} == names
    for field in found.fields:
        options = field.action.option_strings
        assert not options or f"--{field.name}" == options[0]
        assert field.variables[0] == "LAVIT_SERVE_" + field.name.upper().replace("-", "_")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nprot = 1", r"unknown key in .*serve.toml line 2: prot; did you mean port\?"),
        ("max_batch = 1", r"line 1: max_batch; did you mean max-batch\?"),
        ("[tls]\nx = 1", "line 1: tls; lavit-serve --show-config lists"),
        ('\nport = "80"', r"line 2, port: given '80', valid is a whole number"),
        ("port = true", "line 1, port: given True, valid is a whole number"),
        ("port = 1.5", "line 1, port: given 1.5, valid is a whole number"),
        ("measure = 1", "measure: given 1, valid is true or false"),
        ('device = "tpu"', "device: given 'tpu', valid is one of cpu, cuda"),
        ("host = 1", "host: given 1, valid is text in quotes"),
        ('bundles = "b"', "bundles: given 'b', valid is a list of strings"),
        ('model = ["x"]', r"model: given \['x'\], valid is --model must be NAME"),
        ("port = ]", r"serve.toml is no TOML: .*line 1"),
        ("queue = 0", r"--queue must be more than 0, given 0 \(--queue is from .* line 1\)"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_its_line(write, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        effective("b", "--config", str(write(text))).settings()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PROT": "1"}, r"unknown variable LAVIT_SERVE_PROT; did you mean LAVIT_SERVE_PORT\?"),
        ({"PORT": "x"}, "LAVIT_SERVE_PORT: given 'x', valid is a whole number"),
        ({"MAX_WAIT_MS": ""}, "LAVIT_SERVE_MAX_WAIT_MS: given '', valid is a number"),
        ({"MEASURE": "maybe"}, "LAVIT_SERVE_MEASURE: given 'maybe', valid is true or false"),
        ({"BUNDLES": "'a"}, 'LAVIT_SERVE_BUNDLES: given "\'a", valid is words'),
        ({"PORT": "70000"}, r"given 70000 \(--port is from LAVIT_SERVE_PORT\)"),
        ({"PORT": "tcp://10.0.0.1:80"}, "set by Kubernetes for a Service called lavit-serve"),
        ({"CONFIG": "/no/such.toml"}, "/no/such.toml cannot be read: No such file"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named_by_its_variable(variables, message):
    environment = {f"LAVIT_SERVE_{name}": value for name, value in variables.items()}
    with pytest.raises(UsageError, match=message) as caught:
        effective("b", **environment).settings()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot", "1"], r"unknown option --prot; did you mean --port\?"),
        (["--port", "x"], "--port: given 'x', valid is a whole number"),
        (["--device", "tpu"], "--device: given 'tpu', valid is one of cpu, cuda"),
        (["--port"], "argument --port: expected one argument"),
        (["--measure=x"], "--measure"),
        (["--port", "-1"], "--port must be 0..65535, given -1$"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_one_line_too(arguments, message):
    with pytest.raises(UsageError, match=message):
        effective("b", *arguments).settings()


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@settings(max_examples=25, deadline=None)
@given(
    port=st.integers(0, 65535),
    wait=st.floats(0, 60_000),
    measure=st.booleans(),
    bundle=TEXT.filter(lambda text: not text.startswith("-") and "\0" not in text),
    threads=st.none() | st.integers(1, 99),
)
def test_what_show_config_prints_is_a_file_that_says_the_same(
    tmp_path_factory, port, wait, measure, bundle, threads
):
    arguments = ["--port", str(port), "--max-wait-ms", repr(wait), bundle]
    arguments += ["--measure"] if measure else []
    arguments += ["--threads", str(threads)] if threads else []
    before = effective(*arguments)
    path = tmp_path_factory.mktemp("show") / "shown.toml"
    path.write_text(before.toml(), encoding="utf-8")
    assert effective("--config", str(path)).settings() == before.settings()


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", "from lavit_deploy.serving.cli import entry; entry()", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
        check=False,
    )


def test_the_help_shows_choices_and_defaults(capsys):
    with pytest.raises(SystemExit) as ended:
        effective("b", "--port", "x", "--help")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--log-format {text,json}" in shown
    assert "TCP port; 0: any free one (default: 8000)" in shown


def test_show_config_prints_origins_and_no_key():
    done = command("b", "--show-config", LAVIT_API_KEYS="s3cret" * 4, LAVIT_SERVE_TOP_K="3")
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(done.stdout)["top-k"] == 3
    assert "# LAVIT_SERVE_TOP_K" in done.stdout
    assert "LAVIT_API_KEYS is set; its keys are not shown" in done.stdout
    assert "s3cret" not in done.stdout


def test_a_wrong_configuration_ends_the_start_with_one_line_and_2():
    done = command("b", LAVIT_SERVE_QUEUE="many")
    assert done.returncode == 2
    assert done.stderr == "error: LAVIT_SERVE_QUEUE: given 'many', valid is a whole number\n"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP here")
def test_sighup_reads_the_file_again_and_survives_a_wrong_one(serve, write_bundle, write):
    first, second = write_bundle(), write_bundle(folder="second.bundle", checkpoint="f" * 12)
    path = write("queue = 99\n")
    server = serve(first, "--config", str(path))
    write("prot = 1\n")
    server.process.send_signal(signal.SIGHUP)
    refused = server.expect(f"not reloaded: unknown key in {path} line 1: prot; did you mean port?")
    assert refused["level"] == "error"
    write(f'model = ["other={second}"]\n')
    server.process.send_signal(signal.SIGHUP)
    assert server.expect("reloaded")["reloaded"] == "colours 1, other 1"
    assert server.stop() == 0
