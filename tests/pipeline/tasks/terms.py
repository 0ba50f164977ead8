"""The terms of a loss as training takes them."""

from __future__ import annotations

import torch
from torch import Tensor


def total(terms: dict[str, Tensor]) -> Tensor:
    """What is minimised: a scalar."""
    return torch.stack(list(terms.values())).sum()
