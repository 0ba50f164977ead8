"""Activations that are computed again in the backward pass in place of being kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

# A plain global: a process has one backward pass at a time, and torch.compile can follow it.
_again = False


def recomputing() -> bool:
    """Whether this forward pass is the second one, from within the backward pass."""
    return _again


@contextmanager
def _second_pass() -> Iterator[None]:
    global _again
    _again = True
    try:
        yield
    finally:
        _again = False


def recomputed(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`function(*inputs)`, in whatever shape it gives, of which only the inputs are kept.

    Random state is that of the first pass, and so are the keys of dropout, until the next batch's are given.
    """
    output: Tensor = checkpoint(
        function, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _second_pass())
    )
    return output
