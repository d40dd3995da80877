"""Log lines for people or for machines."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime

from serving.settings import LogFormat
from serving.timeline import Timeline

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message"}
"""What every record has; anything else was added by the call and belongs in the line."""


def configure(log_format: LogFormat) -> None:
    """Send the process's logs to standard error in one format; for the command line alone."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    handler.addFilter(_name_request)
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
    """`time LEVEL message key=value ...`, tracebacks below."""

    def format(self, record: logging.LogRecord) -> str:
        extra = "".join(f" {key}={value}" for key, value in _extra(record).items())
        line = f"{_time(record)} {record.levelname} {record.getMessage()}{extra}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


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
