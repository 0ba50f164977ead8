"""Dynamic convolution of small maps as matrix products.

Where the kernel covers a good part of the map, the filters of one image and group are nearly a full matrix T from
input pixels q to output pixels p: `out[c, p] = sum_q x[c, q] T[q, p]` with `T[q, p] = filters[tap(q - p), p]`, zero
where q - p is no tap. Gathering T and calling the library's matrix product beats a loop over taps severalfold there
(shape legend in `kernels.plain.taps`; P = H*W).

A zero of T times a non-finite pixel is NaN: non-finite inputs reach all of their image and group.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.kernels.plain.taps import accumulation_dtype, split_groups

# T holds P*P numbers where the filters hold P*k*k: measured on CPU, products win up to about four times as many.
LARGEST_GROWTH = 4
# Numbers of T at once: images are taken in chunks so that the workspace stays small (64 MiB in float32).
CHUNK = 2**24


def fits(kernel_size: int, height: int, width: int) -> bool:
    """Whether products are faster for maps of so many pixels."""
    return height * width <= LARGEST_GROWTH * kernel_size**2


@functools.lru_cache(maxsize=64)
def _indices(
    kernel_size: int, groups: int, height: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Where T finds its numbers in the filters of one image, and where the filters find theirs in T.

    to_matrix (g*P*P,) points into (P*k*k*g) filter values, channels last, followed by one zero; to_filters (P*k*k*g,)
    points into (g*P*P); outside (P*k*k*g,) marks the filter values whose tap leaves the image.
    """
    pixels, reach = height * width, kernel_size // 2
    position = torch.arange(pixels, device=device)
    row, column = position // width, position % width
    group = torch.arange(groups, device=device)
    down, right = row[:, None] - row, column[:, None] - column  # (q, p)
    tap = (down + reach) * kernel_size + right + reach
    met = (down.abs() <= reach) & (right.abs() <= reach)
    values = kernel_size**2 * groups
    source = position * values + tap * groups + group[:, None, None]  # (g, q, p)
    to_matrix = torch.where(met, source, values * pixels)

    tap = torch.arange(kernel_size**2, device=device)
    down, right = row[:, None] + tap // kernel_size - reach, column[:, None] + tap % kernel_size - reach  # (p, t)
    inside = (down >= 0) & (down < height) & (right >= 0) & (right < width)
    neighbour = torch.where(inside, down * width + right, 0)
    to_filters = (group * pixels + neighbour[:, :, None]) * pixels + position[:, None, None]  # (p, t, g)
    outside = ~inside[:, :, None].expand_as(to_filters)
    return to_matrix.flatten(), to_filters.flatten(), outside.flatten()


def _by_group(x: Tensor, groups: int, interleaved: bool) -> Tensor:
    """(B, C, H, W) -> (B*g, n, P) in the type that is accumulated in."""
    x = split_groups(x.contiguous().to(accumulation_dtype(x.dtype)), groups, interleaved)
    x = x.transpose(1, 2) if interleaved else x
    return x.reshape(x.shape[0] * groups, x.shape[2], -1)


def _by_channel(x: Tensor, like: Tensor, groups: int, interleaved: bool) -> Tensor:
    """The inverse of `_by_group`, in the shape of `like`."""
    x = x.view(like.shape[0], groups, -1, *like.shape[2:])
    return (x.transpose(1, 2) if interleaved else x).reshape(like.shape)


def _matrices(filters: Tensor, kernel_size: int, groups: int) -> Tensor:
    """filters (B, k*k*g, H, W) -> T (B*g, P, P)."""
    batch, _, height, width = filters.shape
    to_matrix, _, _ = _indices(kernel_size, groups, height, width, filters.device)
    flat = F.pad(filters.permute(0, 2, 3, 1).reshape(batch, filters[0].numel()), (0, 1))
    matrices = flat.index_select(1, to_matrix).to(accumulation_dtype(filters.dtype))
    return matrices.view(batch * groups, height * width, height * width)


def _chunks(x: Tensor, groups: int) -> tuple[slice, ...]:
    step = max(1, CHUNK // (groups * (x.shape[2] * x.shape[3]) ** 2))
    return tuple(slice(start, start + step) for start in range(0, x.shape[0], step))


def forward(x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
    """v2 Eq. 2: x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W)."""
    out = torch.empty_like(x)
    for part in _chunks(x, groups):
        product = _by_group(x[part], groups, interleaved) @ _matrices(filters[part], kernel_size, groups)
        out[part] = _by_channel(product, x[part], groups, interleaved)
    return out


def backward(
    grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of x (B, C, H, W) and filters (B, k*k*g, H, W), from that of the output, (B, C, H, W)."""
    sizes = (kernel_size, groups, interleaved)
    return grad_x(grad, filters, *sizes, x), grad_filters(grad, x, *sizes, filters)


def grad_x(
    grad: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool, like: Tensor | None = None
) -> Tensor:
    """The first of the two, (B, C, H, W) in the memory format of `like`, else of `grad`."""
    found = torch.empty_like(grad if like is None else like)
    for part in _chunks(grad, groups):
        upper, matrices = _by_group(grad[part], groups, interleaved), _matrices(filters[part], kernel_size, groups)
        found[part] = _by_channel(upper @ matrices.transpose(1, 2), found[part], groups, interleaved)
    return found


def grad_filters(
    grad: Tensor, x: Tensor, kernel_size: int, groups: int, interleaved: bool, like: Tensor | None = None
) -> Tensor:
    """The second, (B, k*k*g, H, W) in the memory format of `like`, else in planes."""
    found = x.new_empty(len(x), kernel_size**2 * groups, *x.shape[2:]) if like is None else torch.empty_like(like)
    _, to_filters, outside = _indices(kernel_size, groups, *x.shape[2:], x.device)
    for part in _chunks(x, groups):
        upper, source = _by_group(grad[part], groups, interleaved), _by_group(x[part], groups, interleaved)
        matrices = source.transpose(1, 2) @ upper  # the gradient of T
        flat = matrices.view(-1, groups * matrices[0].numel()).index_select(1, to_filters).masked_fill_(outside, 0)
        found[part] = flat.view(len(flat), *x.shape[2:], -1).permute(0, 3, 1, 2)
    return found
