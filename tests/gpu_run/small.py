"""The operator on four small odd shapes, forward and backward, to be watched by compute-sanitizer."""

from __future__ import annotations

import sys

import torch

from laconvnet import kernels

# Channels, condition, height, width, kernel size, groups: as in the stages 1 to 3 of a network, and one as in none.
SHAPES = ((16, 64, 5, 19, 3, 4), (64, 128, 9, 7, 7, 4), (128, 128, 13, 3, 7, 8), (12, 10, 3, 5, 5, 2))


def main(name: str) -> None:
    device = torch.device(name)
    for channels, condition, height, width, kernel_size, groups in SHAPES:
        for dtype in (torch.bfloat16, torch.float32):
            x, cond = (
                torch.randn(1, height, width, count, device=device).to(dtype).permute(0, 3, 1, 2).requires_grad_()
                for count in (channels, condition)
            )
            outputs = kernel_size**2 * groups
            weight, bias = (
                torch.randn(*shape, device=device).to(dtype).requires_grad_()
                for shape in ((outputs, condition), (outputs,))
            )
            for dropout in (0.0, 0.1):
                mask = torch.tensor([3], device=device) if dropout else None  # of the one image
                out = kernels.laconv(x, cond, weight, bias, kernel_size, groups, dropout, mask)
                out.sum().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    print("done")


if __name__ == "__main__":
    main(sys.argv[1])
