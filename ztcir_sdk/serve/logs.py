"""Structured logs: one JSON object a line, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

__all__ = ["LOGGER", "log", "set_up"]

LOGGER = logging.getLogger("ztcir.serve")


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with its fields, and its traceback if there is one."""
        values: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)


def set_up(level: int = logging.INFO) -> None:
    """Write the service's logs, those of uvicorn, and warnings to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.captureWarnings(True)
    for name in ("ztcir", "uvicorn", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = True  # each request is logged here already


def log(event: str, *, level: int = logging.INFO, error: bool = False, **fields: Any) -> None:
    """Log an event with its fields; with `error` also the traceback of what is handled now."""
    LOGGER.log(level, event, exc_info=error, extra={"fields": fields})
