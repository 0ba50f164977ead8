"""The exceptions of this room, with messages of one line."""


class InputError(ValueError):
    """A file, key or value the user can mend; the message names it, what was expected and what to do."""


class BuildError(RuntimeError):
    """A build that could not go on though nothing was asked wrongly: the message says what to try."""
