"""A rival for the bench: the operator's forward in Triton, for those who ask whether CUDA C++ was needed.

The filters of a tap are made for a block of pixels by one product of matrices, spread to the channels of their group
by the choice of the weight's rows, and used at once; none are written. Triton cannot say which lane holds what, so
products and loads are what its compiler makes of them.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

PIXELS = 64  # of a program


def ready() -> bool:
    """Whether Triton is here; PyTorch for GPUs brings it."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.is_available()


def takes(x: Tensor, cond: Tensor) -> bool:
    """Half types, and channels and condition of x (B, C, H, W), cond (B, M, H, W) that fill products of matrices."""
    sizes = (x.shape[1], cond.shape[1])
    return x.dtype in (torch.float16, torch.bfloat16) and all(n >= 16 and n & (n - 1) == 0 for n in sizes)


def laconv(x: Tensor, cond: Tensor, weight: Tensor, bias: Tensor, kernel_size: int, groups: int) -> Tensor:
    """v2 Eq. 1-3 without dropout, as `kernels.laconv`: x (B, C, H, W), cond (B, M, H, W), channels last."""
    batch, channels, height, width = x.shape
    out, pixels = torch.empty_like(x), batch * height * width
    sizes = {"KERNEL": kernel_size, "CONDITION": cond.shape[1], "CHANNELS": channels, "GROUPS": groups}
    program()[(-(-pixels // PIXELS),)](x, cond, weight, bias, out, height, width, pixels, BLOCK=PIXELS, **sizes)
    return out


@functools.cache
def program() -> Any:
    """The kernel, which needs Triton to be spelled."""
    import triton
    import triton.language as tl

    @triton.jit  # type: ignore[untyped-decorator,unused-ignore]
    def forward(  # type: ignore[no-untyped-def]
        x,
        cond,
        weight,
        bias,
        out,
        height,
        width,
        pixels,
        KERNEL: tl.constexpr,
        CONDITION: tl.constexpr,
        CHANNELS: tl.constexpr,
        GROUPS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = pixel < pixels
        column, row = pixel % width, pixel // width % height
        channel, number = tl.arange(0, CHANNELS), tl.arange(0, CONDITION)
        condition = tl.load(cond + pixel[:, None] * CONDITION + number[None, :], mask=inside[:, None], other=0.0)
        total = tl.zeros((BLOCK, CHANNELS), tl.float32)
        for tap in range(KERNEL * KERNEL):
            chosen = tap * GROUPS + channel // (CHANNELS // GROUPS)
            rows = tl.load(weight + chosen[None, :] * CONDITION + number[:, None])
            filters = tl.dot(condition, rows) + tl.load(bias + chosen)[None, :].to(tl.float32)
            down, right = tap // KERNEL - KERNEL // 2, tap % KERNEL - KERNEL // 2
            there = inside & (row + down >= 0) & (row + down < height)
            there = there & (column + right >= 0) & (column + right < width)
            place = (pixel + down * width + right)[:, None] * CHANNELS + channel[None, :]
            total += filters * tl.load(x + place, mask=there[:, None], other=0.0).to(tl.float32)
        result = out + pixel[:, None] * CHANNELS + channel[None, :]
        tl.store(result, total.to(out.dtype.element_ty), mask=inside[:, None])

    return forward
