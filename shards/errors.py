"""The exceptions of this room, with messages of one line."""


class InputError(ValueError):
    """A file, key or value the user can mend; the message names it, what was expected and what to do."""


def joined(error: BaseException) -> str:
    """What a library says of an error, which may be several lines."""
    return " ".join(str(error).split())


class BuildError(RuntimeError):
    """A build that could not go on though nothing was asked wrongly: the message says what to try."""
