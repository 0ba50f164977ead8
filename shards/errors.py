"""What the user got wrong, as this room says it."""


class InputError(ValueError):
    """A file, key or value the user can mend; the message names it, what was expected and what to do."""
