"""What a message must tell, without a word of how it is put."""

from __future__ import annotations


def tells(message: str, *parts: str) -> bool:
    """Whether the names and values are all in the message; AssertionError with both where one is not."""
    missing = [part for part in parts if part not in message]
    assert not missing, f"{message!r} does not tell {missing}"
    return True
