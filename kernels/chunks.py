"""LaConv a few images at a time: filters are made, used and forgotten, in forward and again in backward (v2 Eq. 1-3).

    filters[p, t, gr] = M[p, t, gr] * (sum_m cond[p, m] weight[(t, gr), m] + bias[(t, gr)]),  M the dropout mask

and the convolution is the backend's. The filters of a chunk take at most `WORKSPACE` bytes (those of one image where
they alone take more), so memory does not grow with the batch. Shape legend: `kernels.plain.taps`; M condition width, b
images of a chunk, P = H*W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.kernels.backend import Backend, computing_dtype
from laconvnet.kernels.plain.taps import accumulation_dtype
from laconvnet.kernels.recipe import Recipe

WORKSPACE = 24 * 2**20  # bytes of filters at once: they stay in the last cache of a GPU or CPU between the steps


def slices(images: int, bytes_per_image: int) -> Iterator[slice]:
    """The images of a batch, as many at a time as fit the workspace."""
    step = max(1, WORKSPACE // max(1, bytes_per_image))
    for start in range(0, images, step):
        yield slice(start, min(start + step, images))


class Projection:
    """filters = cond W + b of a chunk, and its gradients.

    Filters are (b, k*k*g, H, W) by shape; in memory (k*k*g, b, H, W) on a CPU, whose kernels work along rows of pixels,
    and (b, H, W, k*k*g) elsewhere. Both are one matrix product over all pixels of the chunk.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.planes = weight.device.type == "cpu"
        self.dtype = computing_dtype(weight.device, weight.dtype)
        self.weight = weight.to(self.dtype)
        self.bias = None if bias is None else bias.to(self.dtype)

    def filters(self, cond: Tensor) -> Tensor:
        """cond (b, M, H, W) -> filters (b, k*k*g, H, W) in the type that is computed in (v2 Eq. 3)."""
        images, _, height, width = cond.shape
        rows = self._rows(cond)
        if not self.planes:
            return F.linear(rows, self.weight, self.bias).view(images, height, width, -1).permute(0, 3, 1, 2)
        bias = None if self.bias is None else self.bias[:, None]
        flat = self.weight @ rows.t() if bias is None else torch.addmm(bias, self.weight, rows.t())
        return flat.view(-1, images, height, width).transpose(0, 1)

    def back(self, grad_filters: Tensor, cond: Tensor, grad_weight: Tensor, grad_bias: Tensor) -> Tensor:
        """The gradient of cond (b, M, H, W) from that of the filters, (b, k*k*g, H, W).

        Those of weight, (k*k*g, M), and bias, (k*k*g,), are added to `grad_weight` and `grad_bias`.
        """
        images, _, height, width = cond.shape
        rows = self._rows(cond)
        upper = grad_filters.transpose(0, 1).reshape(-1, len(rows))  # (k*k*g, b*P)
        grad_bias += upper.sum(1, dtype=grad_bias.dtype)
        if upper.dtype == grad_weight.dtype:
            grad_weight.addmm_(upper, rows)
        else:
            grad_weight += torch.mm(upper, rows, out_dtype=grad_weight.dtype)
        return (upper.t() @ self.weight).view(images, height, width, -1).permute(0, 3, 1, 2)

    def _rows(self, cond: Tensor) -> Tensor:
        """(b, M, H, W) -> (b*P, M), without a copy where it lies channels-last."""
        return cond.permute(0, 2, 3, 1).reshape(-1, cond.shape[1]).to(self.dtype)


def forward(backend: Backend, x: Tensor, cond: Tensor, recipe: Recipe) -> Tensor:
    """x (B, C, H, W), cond (B, M, H, W) -> (B, C, H, W) in the type and memory format of x (v2 Eq. 1-3)."""
    out = torch.empty_like(x)
    projection, shape = Projection(recipe.weight, recipe.bias), (recipe.kernel_size, recipe.groups, recipe.interleaved)
    for part in _parts(x, projection):
        filters = projection.filters(cond[part])
        recipe.drop_(backend, filters, part)
        found = backend.dynamic_conv(x[part].to(projection.dtype), filters, *shape)
        out = _gathered(out, part, found)
    return out


def backward(
    backend: Backend, grad: Tensor, x: Tensor, cond: Tensor, recipe: Recipe
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, cond, weight and bias from that of the output, (B, C, H, W); each has its tensor's shape.

    Those of weight and bias are in at least float32; that of bias is there without a bias, too.
    """
    weight = recipe.weight
    grad_x, grad_cond = torch.empty_like(x), torch.empty_like(cond)
    grad_weight = torch.zeros_like(weight, dtype=accumulation_dtype(weight.dtype))
    grad_bias = grad_weight.new_zeros(weight.shape[0])
    projection, shape = Projection(weight, recipe.bias), (recipe.kernel_size, recipe.groups, recipe.interleaved)
    for part in _parts(x, projection):
        filters = projection.filters(cond[part])
        recipe.drop_(backend, filters, part)
        upper, source = grad[part].to(projection.dtype), x[part].to(projection.dtype)
        found, grad_filters = backend.dynamic_conv_backward(upper, source, filters, *shape)
        grad_x = _gathered(grad_x, part, found)
        recipe.drop_(backend, grad_filters, part)
        found = projection.back(grad_filters, cond[part], grad_weight, grad_bias)
        grad_cond = _gathered(grad_cond, part, found)
    return grad_x, grad_cond, grad_weight, grad_bias


def _parts(x: Tensor, projection: Projection) -> Iterator[slice]:
    pixels = x.shape[2] * x.shape[3]
    return slices(x.shape[0], projection.weight.shape[0] * pixels * projection.weight.element_size())


def _gathered(whole: Tensor, part: slice, found: Tensor) -> Tensor:
    """`whole` with `found` at its place; `found` itself where that would be a copy of everything."""
    if found.dtype == whole.dtype and found.shape == whole.shape and found.stride() == whole.stride():
        return found
    whole[part] = found
    return whole
