"""The layers that are measured, and the least work each of them is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One LaConv layer of a network (shape legend in `kernels.plain.taps`)."""

    label: str  # whose layer it is: "s,b"
    size: int  # of the network's image, pixels a side
    stage: int
    batch: int
    unfold_batch: int  # images that unfold takes: its tensor may have no room for more
    channels: int
    condition: int  # M
    side: int  # of the map, pixels
    kernel_size: int
    groups: int

    @property
    def outputs(self) -> int:
        """Filter values a pixel."""
        return self.kernel_size**2 * self.groups

    def unfold_bytes(self, dtype: torch.dtype) -> int:
        """The tensor that `unfold` makes of one image."""
        return self.channels * self.kernel_size**2 * self.side**2 * dtype.itemsize

    def macs(self, operation: str, step: str) -> int:
        """Multiply-adds; the gradients are two products for each of forward's."""
        pixels = self.batch * self.side**2
        one = pixels * self.channels * self.kernel_size**2
        if operation == "laconv":
            one += pixels * self.outputs * self.condition
        return {"forward": 1, "backward": 2, "both": 3}[step] * one

    def bytes(self, operation: str, step: str, dtype: torch.dtype) -> int:
        """What must be read and written at least: every input and output once."""
        pixels = self.batch * self.side**2
        image = pixels * self.channels
        given = pixels * self.outputs if operation == "dynamic_conv" else pixels * self.condition
        weight = 0 if operation == "dynamic_conv" else self.outputs * (self.condition + 1)
        forward = 2 * image + given + weight
        backward = 3 * image + 2 * given + 2 * weight
        return {"forward": forward, "backward": backward, "both": forward + backward}[step] * dtype.itemsize

    def tensors(self, operation: str, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Random inputs: x (B, C, S, S) and filters (B, k*k*g, S, S), or x, cond (B, c, S, S), weight (k*k*g, c) and
        bias (k*k*g,), which all want gradients.

        x and cond are channels-last, as in the network; filters as `kernels.chunks` makes them on this device.
        """
        generator = torch.Generator(device).manual_seed(0)

        def normal(*shape: int) -> Tensor:
            made = torch.randn(shape, generator=generator, device=device).to(dtype)
            made = made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made
            return made.requires_grad_()

        x = normal(self.batch, self.channels, self.side, self.side)
        if operation == "dynamic_conv":
            filters = normal(self.batch, self.outputs, self.side, self.side)
            return x, filters.detach().contiguous().requires_grad_() if device.type == "cpu" else filters
        cond = normal(self.batch, self.condition, self.side, self.side)
        weight, bias = normal(self.outputs, self.condition), normal(self.outputs)
        with torch.no_grad():
            weight.div_(self.condition**0.5)
        return x, cond, weight, bias
