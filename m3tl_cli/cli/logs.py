"""The two ends of a job's log: the terminal, where a traceback has no place, and the file, where it has."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, TextIO


class LiveHandler(logging.StreamHandler[TextIO]):
    """Write to whatever sys.stderr is at the moment.

    A live progress display replaces sys.stderr so that lines scroll above it; a handler that holds the old one would tear it.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """The present sys.stderr."""
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        """Ignored: there is nothing to hold."""


class OneLine(logging.Formatter):
    """Leave tracebacks out, unless the run was started with --debug."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's time and message, the level where it is not plain information."""
        level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        line = f"{self.formatTime(record, '%H:%M:%S')} {level}{record.getMessage()}"
        if record.exc_info and os.environ.get("M3TL_DEBUG") == "1":
            line += "\n" + self.formatException(record.exc_info)
        return line
