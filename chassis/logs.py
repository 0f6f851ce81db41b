"""Structured logs: an event and its facts, as one JSON or console line on stderr, with the trace that it belongs to."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from chassis.call import current_call
from chassis.telemetry import current_trace

_SECRET: Final = re.compile(r"password|secret|token$|authorization|api_key$|private|credential|kek", re.IGNORECASE)
_FACTS: Final = "lepton_facts"


class Logger:
    """Writes events: `log.info("job placed", job=name, node=node)`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, /, **facts: Any) -> None:
        """For whoever debugs."""
        self._write(logging.DEBUG, event, facts)

    def info(self, event: str, /, **facts: Any) -> None:
        """What happened."""
        self._write(logging.INFO, event, facts)

    def warning(self, event: str, /, **facts: Any) -> None:
        """What an operator may want to look at."""
        self._write(logging.WARNING, event, facts)

    def error(self, event: str, /, *, error: BaseException | None = None, **facts: Any) -> None:
        """What an operator must look at; with the stack of `error`."""
        self._write(logging.ERROR, event, facts, error)

    def _write(self, level: int, event: str, facts: dict[str, Any], error: BaseException | None = None) -> None:
        if self._logger.isEnabledFor(level):
            info = (type(error), error, error.__traceback__) if error is not None else None
            self._logger.log(level, event, exc_info=info, extra={_FACTS: facts}, stacklevel=3)


def logger(name: str) -> Logger:
    """The logger of a module: `log = logger(__name__)`."""
    return Logger(logging.getLogger(name))


def configure(service: str, *, level: str = "info", form: str = "json", stream: TextIO | None = None) -> None:
    """Send all logs of the process, ours and the libraries', to one stream."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json(service) if form == "json" else _Console())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("asyncio", "grpc", "opentelemetry"):
        logging.getLogger(noisy).setLevel(max(root.level, logging.WARNING))


class _Json(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "event": record.getMessage(),
            "logger": record.name,
            **_facts(record),
        }
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class _Console(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        facts = " ".join(f"{key}={value}" for key, value in _facts(record).items())
        stack = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return f"{time} {record.levelname[:4].lower()} {record.getMessage()} {facts}{stack}"


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {
        key: "[redacted]" if _SECRET.search(key) else value for key, value in getattr(record, _FACTS, {}).items()
    }
    trace, call = current_trace(), current_call()
    if trace is not None:
        facts["trace_id"] = f"{trace.trace_id:032x}"
    if call is not None and call.request_id:
        facts["request_id"] = call.request_id
    return facts
