"""LaConv a few images at a time: filters are made, used and forgotten, in forward and again in backward (v2 Eq. 1-3).

    filters[p, t, gr] = M[p, t, gr] * (sum_m cond[p, m] weight[(t, gr), m] + bias[(t, gr)]),  M the dropout mask

and the convolution is the backend's. The filters of a chunk take at most `WORKSPACE` bytes (those of one image where
they alone take more), so memory does not grow with the batch. Shape legend: `kernels.plain.taps`; M condition width, b
images of a chunk, P = H*W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.kernels.backend import Backend, computing_dtype, gradients
from laconvnet.kernels.filter_layout import FilterLayout, from_padded_rows, to_padded_rows
from laconvnet.kernels.plain.taps import accumulation_dtype
from laconvnet.kernels.recipe import Recipe

WORKSPACE = 24 * 2**20  # bytes of filters at once: they stay in the last cache of a GPU or CPU between the steps
FEW_PRODUCTS = 2**21  # multiply-adds an image, below which a CPU takes as long in a half type as in float32


def slices(images: int, bytes_per_image: int) -> Iterator[slice]:
    """The images of a batch, as many at a time as fit the workspace."""
    step = max(1, WORKSPACE // max(1, bytes_per_image))
    for start in range(0, images, step):
        yield slice(start, min(start + step, images))


class Projection:
    """filters = cond W + b of a chunk, and its gradients: one matrix product over all pixels of the chunk.

    Filters are (b, k*k*g, H, W) by shape, in padded rows (b, g*k*row, H, W), and lie in memory as the backend wants
    them (`filter_layout`).
    """

    def __init__(self, backend: Backend, x: Tensor, recipe: Recipe) -> None:
        self.sizes = (recipe.kernel_size, recipe.groups)
        self.layout = backend.filter_layout(x, *self.sizes, recipe.interleaved)
        self.dtype = computing_dtype(backend, recipe.weight.device, recipe.weight.dtype)
        if self.dtype.itemsize == 2 and x.device.type == "cpu":
            products = recipe.weight.numel() * x.shape[2] * x.shape[3]
            self.dtype = self.dtype if products >= FEW_PRODUCTS else torch.float32
        self.weight = self._ordered(recipe.weight.to(self.dtype))
        self.bias = None if recipe.bias is None else self._ordered(recipe.bias.to(self.dtype))

    def filters(self, cond: Tensor) -> Tensor:
        """cond (b, M, H, W) -> filters in the type that is computed in (v2 Eq. 3)."""
        images, _, height, width = cond.shape
        rows = self._rows(cond)
        if self.layout is not FilterLayout.PLANES:
            return F.linear(rows, self.weight, self.bias).view(images, height, width, -1).permute(0, 3, 1, 2)
        bias = None if self.bias is None else self.bias[:, None]
        flat = self.weight @ rows.t() if bias is None else torch.addmm(bias, self.weight, rows.t())
        return flat.view(-1, images, height, width).transpose(0, 1)

    def back(
        self,
        grad_filters: Tensor,
        cond: Tensor,
        grad_cond: Tensor | None,
        grad_weight: Tensor | None,
        grad_bias: Tensor | None,
    ) -> None:
        """From the gradient of the filters: that of cond into `grad_cond` (b, M, H, W), of the others added to theirs.

        `grad_weight` and `grad_bias` are in the order of `weight`; what is None is not computed.
        """
        upper = grad_filters.transpose(0, 1).reshape(grad_filters.shape[1], -1)  # (filters of a pixel, b*P)
        if grad_bias is not None:
            grad_bias += upper.sum(1, dtype=grad_bias.dtype)
        if grad_weight is not None:
            rows = self._rows(cond)
            if upper.dtype == grad_weight.dtype:
                grad_weight.addmm_(upper, rows)
            else:
                grad_weight += _wide_product(upper, rows, grad_weight.dtype)
        if grad_cond is not None:
            by_pixel = grad_cond.permute(0, 2, 3, 1)
            if grad_cond.dtype == upper.dtype and by_pixel.is_contiguous():
                torch.mm(upper.t(), self.weight, out=by_pixel.view(-1, self.weight.shape[1]))
            else:
                by_pixel.copy_((upper.t() @ self.weight).view(by_pixel.shape))

    def as_given(self, values: Tensor) -> Tensor:
        """Rows in the order of `weight` -> in that of the recipe's: (k*k*g, ...)."""
        return from_padded_rows(values, *self.sizes) if self.layout is FilterLayout.PADDED_ROWS else values

    def _ordered(self, values: Tensor) -> Tensor:
        return to_padded_rows(values, *self.sizes) if self.layout is FilterLayout.PADDED_ROWS else values

    def _rows(self, cond: Tensor) -> Tensor:
        """(b, M, H, W) -> (b*P, M), without a copy where it lies channels-last."""
        return cond.permute(0, 2, 3, 1).reshape(-1, cond.shape[1]).to(self.dtype)


def _wide_product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a b in a wider type; on a CPU, whose `mm` knows no `out_dtype`, it is rounded to theirs first."""
    return torch.mm(a, b) if a.device.type == "cpu" else torch.mm(a, b, out_dtype=dtype)


def forward(backend: Backend, x: Tensor, cond: Tensor, recipe: Recipe) -> Tensor:
    """x (B, C, H, W), cond (B, M, H, W) -> (B, C, H, W) in the type and memory format of x (v2 Eq. 1-3)."""
    out = torch.empty_like(x)
    shape = (recipe.kernel_size, recipe.groups, recipe.interleaved)
    projection = Projection(backend, x, recipe)
    for part in _parts(x, projection):
        filters = projection.filters(cond[part])
        recipe.drop_(backend, filters, part)
        source, place = x[part].to(projection.dtype), _place(out, part, projection)
        found = backend.dynamic_conv(source, filters, *shape, projection.layout, place)
        if place is None:
            out[part] = found
    return out


def backward(
    backend: Backend, grad: Tensor, x: Tensor, cond: Tensor, recipe: Recipe, wanted: Sequence[bool] = (True,) * 4
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of x, cond, weight and bias from that of the output, (B, C, H, W); each has its tensor's shape.

    Those of weight and bias are in at least float32; that of bias can be had without a bias, too. What is not `wanted`
    is not computed, but None.
    """
    for_filters = any(wanted[1:])
    shape = (recipe.kernel_size, recipe.groups, recipe.interleaved)
    projection = Projection(backend, x, recipe)
    grad_x, grad_cond = (torch.empty_like(t) if one else None for t, one in zip((x, cond), wanted[:2], strict=True))
    like, dtype = projection.weight, accumulation_dtype(recipe.weight.dtype)
    grad_weight = torch.zeros_like(like, dtype=dtype) if wanted[2] else None
    grad_bias = like.new_zeros(len(like), dtype=dtype) if wanted[3] else None
    for part in _parts(x, projection):
        source = x[part].to(projection.dtype) if for_filters else None
        filters = place = None
        if grad_x is not None:
            filters = projection.filters(cond[part])
            recipe.drop_(backend, filters, part)
            place = _place(grad_x, part, projection)
        upper = grad[part].to(projection.dtype)
        found, grad_filters = gradients(backend, upper, source, filters, *shape, projection.layout, place)
        if grad_x is not None and found is not None and place is None:
            grad_x[part] = found
        if grad_filters is not None:
            recipe.drop_(backend, grad_filters, part)
            place = None if grad_cond is None else grad_cond[part]
            projection.back(grad_filters, cond[part], place, grad_weight, grad_bias)
    grad_weight, grad_bias = (
        None if total is None else projection.as_given(total) for total in (grad_weight, grad_bias)
    )
    return grad_x, grad_cond, grad_weight, grad_bias


def _parts(x: Tensor, projection: Projection) -> Iterator[slice]:
    pixels = x.shape[2] * x.shape[3]
    return slices(x.shape[0], projection.weight.shape[0] * pixels * projection.weight.element_size())


def _place(whole: Tensor, part: slice, projection: Projection) -> Tensor | None:
    """Where the backend is to write these images; None where the result is converted first."""
    return whole[part] if whole.dtype == projection.dtype else None
