"""The exception for mistakes of the user, with a message of one line."""


class InputError(ValueError):
    """A file, key or value the user can mend; the message names it, what was expected and what to do."""
