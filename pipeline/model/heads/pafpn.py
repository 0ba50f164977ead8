"""The path aggregation neck of the released code (that of YOLOv5 and YOLOX) and its top-down half alone.

Shape legend: B batch, (c8, c16, c32) widths of the stage maps at strides 8, 16, 32, s side of the image.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet.pipeline.model.layers import ConvNormAct

_BOTTLENECKS = 3


class CrossStage(nn.Module):
    """Half of the width goes through bottlenecks, half past them; both are merged (CSP, the C3 layer of YOLOv5).

    (B, inputs, H, W) -> (B, outputs, H, W). The bottlenecks have no shortcut: the way past them is one.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.through = ConvNormAct(inputs, half, 1, "silu")
        self.past = ConvNormAct(inputs, half, 1, "silu")
        self.bottlenecks = nn.Sequential(
            *(
                nn.Sequential(ConvNormAct(half, half, 1, "silu"), ConvNormAct(half, half, 3, "silu"))
                for _ in range(_BOTTLENECKS)
            )
        )
        self.merge = ConvNormAct(2 * half, outputs, 1, "silu")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.merge(torch.cat([self.bottlenecks(self.through(x)), self.past(x)], 1))
        return out


class TopDown(nn.Module):
    """From the coarse map to the fine one: the three stage maps -> three maps at strides 8, 16, 32.

    The first, (B, c8, s/8, s/8), has seen all three. The others, (B, c8, s/16, s/16) and (B, c16, s/32, s/32), are what
    was handed down, which the way back up needs. Alone this is the second neck of the released segmentation model
    (1,028,608 parameters at widths 128, 256, 512).
    """

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.from_coarse = ConvNormAct(coarse, middle, 1, "silu")
        self.mix_middle = CrossStage(2 * middle, middle)
        self.from_middle = ConvNormAct(middle, fine, 1, "silu")
        self.mix_fine = CrossStage(2 * fine, fine)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        coarse = self.from_coarse(coarse)
        middle = self.from_middle(self.mix_middle(torch.cat([_double(coarse), middle], 1)))
        return self.mix_fine(torch.cat([_double(middle), fine], 1)), middle, coarse


class PAFPN(nn.Module):
    """The stage maps -> maps of the same widths, fused top-down and then bottom-up as far as `coarsest`.

    Returns one map a stride, 8 first: (B, c8, s/8, s/8), (B, c16, s/16, s/16), (B, c32, s/32, s/32). Only the steps
    that the output needs exist; with all of them the neck has 4,887,296 parameters at widths 128, 256, 512.
    """

    def __init__(self, widths: tuple[int, int, int], coarsest: Literal[8, 16, 32] = 32) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.coarsest = coarsest
        self.down = TopDown(widths)
        if coarsest >= 16:
            self.to_middle = ConvNormAct(fine, fine, 3, "silu", stride=2)
            self.mix_middle = CrossStage(2 * fine, middle)
        if coarsest == 32:
            self.to_coarse = ConvNormAct(middle, middle, 3, "silu", stride=2)
            self.mix_coarse = CrossStage(2 * middle, coarse)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> list[Tensor]:
        fine, middle, coarse = self.down(fine, middle, coarse)
        maps = [fine]
        if self.coarsest >= 16:
            maps.append(self.mix_middle(torch.cat([self.to_middle(maps[-1]), middle], 1)))
        if self.coarsest == 32:
            maps.append(self.mix_coarse(torch.cat([self.to_coarse(maps[-1]), coarse], 1)))
        return maps


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
