"""Each stage of LaConvNet-S at 416 pixels once, and a batch norm, between the marks at which ncu begins and ends.

    ncu --profile-from-start off ... python -m tests.gpu_run.launches

Of each layer as many images as the filters of one chunk are made for: each kernel is launched once, and fills the chip.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F

from laconvnet import kernels
from laconvnet.kernels.bench import Case
from laconvnet.kernels.chunks import WORKSPACE
from laconvnet.launch.commands.bench.layers import layers_of
from laconvnet.pipeline.model.norm import BatchNorm


def layer(case: Case, device: torch.device) -> Callable[[], object]:
    x, cond, weight, bias = case.tensors("laconv", device, torch.bfloat16)
    norm = BatchNorm(case.channels).to(device)

    def work() -> object:
        out = F.relu(norm(kernels.laconv(x, cond, weight, bias, case.kernel_size, case.groups)))
        return torch.autograd.grad(out, (x, cond, weight, bias), torch.ones_like(out))

    return work


def main(name: str) -> None:
    device = torch.device(name)
    preset, size = ("s", 416) if name == "cuda" else ("tiny", 32)
    for case in layers_of([preset], [size], []):
        filters = case.outputs * case.side**2 * torch.bfloat16.itemsize
        work = layer(replace(case, batch=max(1, min(64, WORKSPACE // filters))), device)
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()


if __name__ == "__main__":
    main(sys.argv[1])
