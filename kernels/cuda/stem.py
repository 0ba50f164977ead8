"""The kernels of the stem as Python sees them (C interface: stem/stem.h)."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from laconvnet.kernels.cuda.batch_norm import TYPES
from laconvnet.kernels.formats import about, channels_last

COLOURS, CHANNELS = 3, 16
HALF_TYPES = (torch.float16, torch.bfloat16)
NO_KERNEL = -3  # LACONV_NO_FUSED_KERNEL
PARTS, SUMS = 264, (COLOURS + 1) * CHANNELS  # of the workspace


class StemArguments(ctypes.Structure):
    """laconv_stem_args."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("image", "weight", "bias", "grad", "result", "totals", "workspace")),
        *((name, ctypes.c_int64) for name in ("batch", "height", "width")),
    )


def takes(source: torch.dtype, dtype: torch.dtype, colours: int, channels: int) -> bool:
    """Whether there are kernels for images of type source and so many colours to so many channels of type dtype."""
    return dtype in HALF_TYPES and source in (torch.float32, dtype) and (colours, channels) == (COLOURS, CHANNELS)


class StemKernels:
    """The passes of the stem, for `Library`; what each takes and gives: `kernels.stem`.

    None is the answer where the image begins at an odd address. Each raises RuntimeError naming the kernel and the
    tensor where something does not fit.
    """

    def stem(self, image: Tensor, weight: Tensor, bias: Tensor) -> Tensor | None:
        """image (B, 3, 2h, 2w), weight (16, 3, 1, 1), bias (16,) -> (B, 16, h, w), channels last."""
        shape = _shape(image, weight, bias)
        result = channels_last(torch.empty(shape, dtype=weight.dtype, device=image.device))
        return result if self._stem("forward", image, weight, bias, shape, result=result) else None

    def stem_backward(self, grad: Tensor, image: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor] | None:
        """grad (B, 16, h, w) -> the gradients of weight (16, 3, 1, 1) and bias (16,), float32."""
        shape = _shape(image, weight, bias)
        if (tuple(grad.shape), grad.dtype, grad.device) != (shape, weight.dtype, image.device):
            raise RuntimeError(f"stem_backward: grad: expected {shape} like weight, {about(weight)}, got {about(grad)}")
        totals, workspace = (torch.empty(size, device=image.device) for size in ((4, CHANNELS), (PARTS, SUMS)))
        more = {"grad": channels_last(grad), "totals": totals, "workspace": workspace}
        if not self._stem("backward", image, weight, bias, shape, **more):
            return None
        return totals[:COLOURS].T.reshape(weight.shape), totals[COLOURS].clone()

    def _stem(
        self, what: str, image: Tensor, weight: Tensor, bias: Tensor, shape: tuple[int, ...], **tensors: Tensor
    ) -> bool:
        """Whether there was a kernel for it."""
        batch, _, height, width = shape
        arguments = StemArguments(batch=batch, height=height, width=width)
        held = {"image": channels_last(image), "weight": weight.contiguous(), "bias": bias.contiguous(), **tensors}
        for field, tensor in held.items():
            setattr(arguments, field, tensor.data_ptr())
        name = f"laconv_stem_{what}_{TYPES[weight.dtype]}_{TYPES[image.dtype]}"
        return self.launched(name, arguments, image.device, unless=NO_KERNEL)

    def launched(self, name: str, arguments: ctypes.Structure, device: torch.device, unless: int = 0) -> bool:
        """As `Library` does."""
        raise NotImplementedError


def _shape(image: Tensor, weight: Tensor, bias: Tensor) -> tuple[int, int, int, int]:
    """Of the result; raises RuntimeError where something does not fit."""
    fits = image.dim() == 4 and takes(image.dtype, weight.dtype, image.shape[1], len(weight))
    fits = fits and image.shape[2] % 2 == image.shape[3] % 2 == 0 and weight.shape == (CHANNELS, COLOURS, 1, 1)
    if not fits or bias.shape != (CHANNELS,) or not weight.dtype == bias.dtype or not image.device == weight.device:
        raise RuntimeError(f"stem: image {about(image)}, weight {about(weight)} and bias {about(bias)} do not fit")
    return image.shape[0], CHANNELS, image.shape[2] // 2, image.shape[3] // 2
