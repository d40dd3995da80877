"""Lines for people and for machines, in which no value can pass for another, or for a line."""

import json
import logging
import re

from hypothesis import given
from hypothesis import strategies as st

from lavit_deploy.serving.telemetry.logs import JsonLines, TextLines


def record(message="hello", *arguments, error=None, **extra):
    made = logging.LogRecord("serving", logging.INFO, "file", 1, message, arguments, error)
    made.__dict__.update(extra)
    return made


def test_json_logs_are_one_object_in_a_line_with_what_was_added():
    line = JsonLines().format(record("a\nb", request_id="r1", milliseconds=1.5))
    assert "\n" not in line
    values = json.loads(line)
    assert values["message"] == "a\nb"
    assert values["level"] == "info"
    assert (values["request_id"], values["milliseconds"]) == ("r1", 1.5)


def test_text_logs_show_what_was_added():
    line = TextLines().format(record(request_id="r1"))
    assert line.endswith("INFO hello request_id=r1")


def test_a_value_is_in_quotes_where_it_could_pass_for_another():
    line = TextLines().format(record(a="", b='x" c=1', c="1.2.3.4", d="/v2/models/{name}"))
    assert line.endswith(r'INFO hello a="" b="x\" c=1" c=1.2.3.4 d=/v2/models/{name}')


@given(st.text(), st.text())
def test_a_line_is_one_line_and_its_values_can_be_read(message, value):
    line = TextLines().format(record("%s", message, forged=value, status=200))
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    found = re.search(r' forged=("(?:[^"\\]|\\.)*"|[^" =]+) status=200$', line)
    text = found[1]
    assert (json.loads(text) if text.startswith('"') else text) == value


def test_a_traceback_begins_no_line_of_its_own():
    error = ValueError("x\n2026-01-01T00:00:00.000+00:00 INFO forged\r status=200")
    made = record(error=(ValueError, error, None))
    first, *rest = TextLines().format(made).splitlines()
    assert first.endswith("INFO hello")
    assert all(line.startswith("  ") for line in rest)
