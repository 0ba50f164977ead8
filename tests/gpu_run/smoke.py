"""The operator at each stage of a network, forward and backward, against float64: right before anything is timed.

    python -m tests.gpu_run.smoke cuda|cpu

A line a layer and number type; the exit code is 1 where an error is larger than allowed, or no kernel serves a GPU.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from torch import Tensor

from laconvnet import kernels
from laconvnet.kernels import cuda
from laconvnet.kernels.bench import Case
from laconvnet.kernels.bench.implementations import Layer, unfold_laconv
from laconvnet.launch.commands.bench.layers import layers_of

# Of PyTorch's own error in the same type: of the output, and of the gradients of x, condition, weight and bias.
ALLOWED = (2.0, 3.0, 3.0, 3.0, 3.0)
NAMES = ("out", "grad x", "grad condition", "grad weight", "grad bias")


def computed(layer: Layer, case: Case, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The output and the four gradients, in float64."""
    leaves = [tensor.detach().requires_grad_() for tensor in given]
    out = layer(*leaves, case.kernel_size, case.groups)
    upper = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=torch.float64).view(out.shape).to(out.dtype)
    return tuple(tensor.detach().double() for tensor in (out, *torch.autograd.grad(out, leaves, upper)))


def errors(case: Case, device: torch.device, dtype: torch.dtype) -> list[float]:
    """The distance from float64 on the same inputs, in that of PyTorch's own path; a rounding counts as its least."""
    given = case.tensors("laconv", device, dtype)
    exact = computed(unfold_laconv, case, tuple(tensor.double() for tensor in given))
    ours, theirs = (computed(layer, case, given) for layer in (kernels.laconv, unfold_laconv))
    least = torch.finfo(dtype).eps / 4
    return [
        float((our - true).norm() / torch.maximum((their - true).norm(), least * true.norm()))
        for our, their, true in zip(ours, theirs, exact, strict=True)
    ]


def main(name: str) -> int:
    device = torch.device(name)
    torch.backends.cudnn.allow_tf32 = False  # it would make PyTorch's own error in float32 a thousand times larger
    preset, size = ("s", 416) if name == "cuda" else ("tiny", 32)
    failed = False
    for layer in layers_of([preset], [size], []):
        case = replace(layer, batch=2, unfold_batch=2)
        for dtype in (torch.bfloat16, torch.float32):
            found = errors(case, device, dtype)
            wrong = [name for name, error, most in zip(NAMES, found, ALLOWED, strict=True) if not error <= most]
            failed |= bool(wrong)
            told = ", ".join(f"{name} {error:.2f}" for name, error in zip(NAMES, found, strict=True))
            verdict = f"WRONG: {', '.join(wrong)}" if wrong else "right"
            shape = f"{case.batch}x{case.channels}x{case.side}x{case.side} k{case.kernel_size} g{case.groups}"
            print(f"{verdict}: stage {case.stage}, {shape}, {dtype}, errors by PyTorch's: {told}", flush=True)
    if device.type == "cuda" and cuda.ready(device) is None:
        print(f"no kernel serves this GPU: {cuda.why_not(device)}")
        return 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
