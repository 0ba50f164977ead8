"""The orders in which the filters of a chunk lie in memory; by shape they are (b, filters of a pixel, H, W) in each.

Padded rows are what the CUDA kernels load as whole words (`cuda/layout.cuh` says the same in C++). Where filters are
projected they cost nothing: the rows of weight and bias are put in that order, with rows of zeros between them.
"""

from __future__ import annotations

import enum

import torch
from torch import Tensor

_ROW_LENGTHS = {3: 4, 5: 8, 7: 8}


class FilterLayout(enum.Enum):
    """`PLANES` and `PIXELS` have k*k*g filters a pixel, filter (tap, group) at tap * g + group."""

    PLANES = "(k*k*g, b, H, W)"
    PIXELS = "(b, H, W, k*k*g)"
    PADDED_ROWS = "(b, H, W, g, k, row): k filters of a kernel row, then zeros"


def row_length(kernel_size: int) -> int:
    """Numbers of a padded row, 0 where there are no padded rows for this kernel size."""
    return _ROW_LENGTHS.get(kernel_size, 0)


def filters_of_a_pixel(kernel_size: int, groups: int, padded: bool) -> int:
    """Numbers of a pixel, those that fill padded rows included."""
    return kernel_size * groups * (row_length(kernel_size) if padded else kernel_size)


def to_padded_rows(values: Tensor, kernel_size: int, groups: int) -> Tensor:
    """(k*k*g, ...) -> (g*k*row, ...), zeros behind each kernel row."""
    padded = values.new_zeros(groups, kernel_size, row_length(kernel_size), *values.shape[1:])
    padded[:, :, :kernel_size] = values.unflatten(0, (kernel_size, kernel_size, groups)).movedim(2, 0)
    return padded.flatten(0, 2)


def from_padded_rows(padded: Tensor, kernel_size: int, groups: int) -> Tensor:
    """(g*k*row, ...) -> (k*k*g, ...): the inverse of `to_padded_rows`."""
    rows: Tensor = padded.unflatten(0, (groups, kernel_size, row_length(kernel_size)))
    return rows[:, :, :kernel_size].movedim(0, 2).flatten(0, 2).contiguous(memory_format=torch.contiguous_format)
