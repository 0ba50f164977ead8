"""The pipeline's exceptions, each with a message of one line for the user."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be run: the message names the key, the value and what was expected."""


class TrainingError(RuntimeError):
    """A run that cannot go on although nothing was asked wrongly: the message names the step and what to try."""


# What comes of a path that nothing can be read from or written to: the user's mistake. Any other OSError (a full disk)
# is a failure.
WRONG_PATH = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
