"""Lines for people and for machines."""

import json
import logging

from lavit_deploy.serving.telemetry.logs import JsonLines, TextLines


def record(message="hello", **extra):
    made = logging.LogRecord("serving", logging.INFO, "file", 1, message, (), None)
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
