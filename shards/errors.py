"""The exception for mistakes of the user, with a message of one line."""


class InputError(ValueError):
    """A file, key or value the user can mend; the message names it, what was expected and what to do."""


def one_line(error: BaseException) -> str:
    """What a library says of an error, which may be several lines."""
    return " ".join(str(error).split())
