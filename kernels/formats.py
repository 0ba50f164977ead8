"""The memory format that kernels work on, the one that a caller is promised, and a word about a tensor for messages."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) with the channels of a pixel together: x itself where it lies so."""
    return x.contiguous(memory_format=torch.channels_last)


def formatted(result: Tensor, like: Tensor) -> Tensor:
    """`result` in the type and with the strides of torch.empty_like(like), any shape: itself where it has them."""
    strides = torch.empty_like(like, device="meta").stride()
    same = result.dtype == like.dtype and result.stride() == strides
    return result if same else torch.empty_like(like).copy_(result)


def about(tensor: Tensor) -> str:
    """Shape, type and device of a tensor of any shape."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
