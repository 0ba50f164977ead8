"""The passes of batch norm over a map that lies packed, as Python sees them (C interface: norm/norm.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from laconvnet.kernels.cuda.batch_norm import NormArguments, NormKernels, entry_point, vectors_of
from laconvnet.kernels.formats import about, channels_last, formatted
from laconvnet.kernels.plain.packed import unpacked_shape


class PackedNormKernels(NormKernels):
    """The passes of relu(BN(relu(packed))), for `Library`; shapes and sums are those of `kernels.packed`.

    Another layout than channels last is copied there and back. Each raises RuntimeError naming the kernel and the
    tensor where something does not fit; then nothing is returned.
    """

    def unpack(
        self, packed: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float, packing: int
    ) -> Tensor:
        """packed (B, s*s*M, h, w) -> (B, M, h*s, w*s), channels last."""
        name, sizes = _call("apply", packed, len(mean), eps, packing)
        vectors = _of_channels(name, packed, mean, var, weight, bias)
        result = _plain(packed, packing)
        self._run(name, sizes, channels_last(packed), result=result, **vectors)
        return result

    def unpack_backward_reduce(
        self,
        grad: Tensor,
        packed: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        packing: int,
    ) -> Tensor:
        """grad (B, M, h*s, w*s), packed (B, s*s*M, h, w) -> (2 M): the gradients of bias and weight."""
        name, sizes = _call("backward_reduce", packed, len(mean), eps, packing)
        vectors = _of_channels(name, packed, mean, var, weight, bias)
        totals = torch.empty(2 * len(mean), device=packed.device)
        more = {"totals": totals, "workspace": self._workspace(packed[:, : len(mean)])}
        self._run(name, sizes, channels_last(packed), grad=_gradient(name, grad, packed, packing), **vectors, **more)
        return totals

    def unpack_backward_apply(
        self,
        grad: Tensor,
        packed: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor,
        bias: Tensor,
        sums: Tensor,
        count: Tensor,
        eps: float,
        packing: int,
    ) -> Tensor:
        """The gradient of packed (B, s*s*M, h, w); `sums` (2 M) and `count` (one number) are those of all processes."""
        name, sizes = _call("backward_apply", packed, len(mean), eps, packing)
        vectors = _of_channels(name, packed, mean, var, weight, bias)
        vectors |= vectors_of(name, packed, 2 * len(mean), sums=sums) | vectors_of(name, packed, 1, count=count)
        source = channels_last(packed)
        result = torch.empty_like(source)
        self._run(name, sizes, source, grad=_gradient(name, grad, packed, packing), result=result, **vectors)
        return formatted(result, packed)


def _call(what: str, packed: Tensor, channels: int, eps: float, packing: int) -> tuple[str, NormArguments]:
    """Entry point and sizes; raises RuntimeError where the sizes do not fit."""
    name = entry_point(what, packed)
    if packed.dim() != 4 or packing < 1 or not channels or packed.shape[1] != packing**2 * channels:
        raise RuntimeError(
            f"{name}: packed: expected (B, {packing**2 * channels}, h, w), {packing} x {packing} pixels of {channels} "
            f"channels, got {about(packed)}"
        )
    sizes = {"rows": packed.numel() // channels, "channels": channels, "packing": packing, "cells": packed.shape[3]}
    return name, NormArguments(relu=1, eps=eps, **sizes)


def _of_channels(
    name: str, packed: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor
) -> dict[str, Tensor]:
    return vectors_of(name, packed, len(mean), mean=mean, var=var, weight=weight, bias=bias)


def _plain(packed: Tensor, packing: int) -> Tensor:
    """Memory for the map (B, M, h*s, w*s), channels last."""
    shape = unpacked_shape(packed, packing)
    return torch.empty(shape, dtype=packed.dtype, device=packed.device, memory_format=torch.channels_last)


def _gradient(name: str, grad: Tensor, packed: Tensor, packing: int) -> Tensor:
    shape = unpacked_shape(packed, packing)
    if (grad.shape, grad.dtype, grad.device) != (shape, packed.dtype, packed.device):
        raise RuntimeError(f"{name}: grad: expected {shape}, like packed {about(packed)}, got {about(grad)}")
    return channels_last(grad)
