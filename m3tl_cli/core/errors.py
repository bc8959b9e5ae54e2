"""Errors that a user of the program can cause or mend.

M3TLError
├── ConfigError      what was asked for cannot run; exit code 2
├── DataError        the data is absent, damaged or too small; exit code 3
├── TrainingError    a run stopped, for example at a loss that is not finite; exit code 1
└── Stopped          a run in another process was told to end; exit code 1

One wording: "`name` must be ...; found ....", then what to type. `cli` turns each into one panel without a traceback.
This file imports nothing, so that the command line can use it before torch is loaded.
"""

from __future__ import annotations


class M3TLError(Exception):
    """Base of every error that the program raises on purpose.

    Args:
        message: What was expected and what was found.
        hint: What to type or change, one line; empty where there is nothing to say.
        place: The config key, file or column that the message is about.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", place: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.place = place

    def __str__(self) -> str:
        lead = f"{self.place}: " if self.place else ""
        return f"{lead}{self.message}" + (f" ({self.hint})" if self.hint else "")

    def __reduce__(self) -> tuple[object, ...]:
        # Parallel launchers send errors between processes; the default drops keyword arguments.
        return (_rebuild, (type(self), self.message, self.hint, self.place))


def _rebuild(kind: type[M3TLError], message: str, hint: str, place: str) -> M3TLError:
    return kind(message, hint=hint, place=place)


class ConfigError(M3TLError):
    """The composed config cannot run."""

    exit_code = 2


class DataError(M3TLError):
    """The data is absent, damaged, or too small for what was asked."""

    exit_code = 3


class TrainingError(M3TLError):
    """A run stopped before its end for a reason that is not the config's."""

    exit_code = 1


class Stopped(M3TLError):
    """A run in another process was told to end, and did, with a checkpoint where it had something to keep."""

    exit_code = 1
