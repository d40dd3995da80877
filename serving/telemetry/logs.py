"""Log lines for people or for machines."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from textwrap import indent

from lavit_deploy.serving.settings.settings import LogFormat
from lavit_deploy.serving.telemetry.timeline import Timeline

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message"}
"""What every record has; anything else was added by the call and belongs in the line."""

_PLAIN = re.compile(r"[A-Za-z0-9_.:/+@%,;~*(){}\[\]<>|-]+")
"""Values that need no quotes in a line."""


def configure(log_format: LogFormat, *, worker: int | None = None) -> None:
    """Send the process's logs to standard error in one format; for the command line alone.

    Args:
        log_format: of every line.
        worker: number of this process, which every record will have; None: it is the only one.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    handler.addFilter(_name_request)
    if worker is not None:
        handler.addFilter(partial(_name_worker, worker))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # its news is in our own lines
    logging.captureWarnings(capture=True)  # each place that warns is shown once for each text
    threading.excepthook = _log_thread
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # clients' mistakes, answered


def _name_request(record: logging.LogRecord) -> bool:
    """Say in each record which request it came of; a filter that lets everything through."""
    timeline = Timeline.current()
    for name, value in (("request_id", timeline.request_id), ("trace_id", timeline.trace_id)):
        if value is not None and not hasattr(record, name):
            setattr(record, name, value)
    return True


def _name_worker(worker: int, record: logging.LogRecord) -> bool:
    """Say in each record which process it came of; a filter that lets everything through."""
    record.worker = worker
    return True


def announce(log: logging.Logger, log_format: LogFormat, lines: Mapping[str, str]) -> None:
    """Tell the operator, topic by topic: on standard output, or as one record in JSON logs."""
    if log_format == "json":
        log.info(" and ".join(lines), extra=dict(lines))
        return
    for topic, text in lines.items():
        try:
            print(f"{topic:<9} {text}", flush=True)
        except OSError:
            # A full disk, or a reader that has gone, must end neither the service nor change its
            # exit code: the interpreter would try again with what is left.
            sys.stdout = None


def _log_thread(failed: threading.ExceptHookArgs) -> None:
    """A thread's last words as a record: a bare traceback would be many lines that are no JSON."""
    if failed.exc_value is None:
        return
    name = failed.thread.name if failed.thread is not None else "?"
    logging.getLogger("serving").critical(
        "the thread %s ended by an exception", name, exc_info=failed.exc_value
    )


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class TextLines(logging.Formatter):
    """`time LEVEL message key=value ...`, tracebacks below, set in.

    Whatever a value or a message holds, it begins neither a line nor another value.
    """

    def format(self, record: logging.LogRecord) -> str:
        extra = "".join(f" {key}={_value(value)}" for key, value in _extra(record).items())
        line = f"{_time(record)} {record.levelname} {_printable(record.getMessage())}{extra}"
        if record.exc_info:
            line += "\n" + indent(self.formatException(record.exc_info), "  ", bool)
        return line


def _value(value: object) -> str:
    """As logfmt has it: in quotes where there is anything but letters, digits and some marks."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


class JsonLines(logging.Formatter):
    """One JSON object in each line; a traceback is a field."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
