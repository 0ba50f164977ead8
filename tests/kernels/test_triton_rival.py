"""The bench's kernel in Triton compiles ahead of time where Triton is installed; a GPU test compares its results."""

from __future__ import annotations

import pytest
import torch

from laconvnet.kernels.bench import triton_rival


@pytest.mark.parametrize(("kernel_size", "condition", "channels", "groups"), [(3, 64, 16, 4), (7, 128, 64, 4)])
def test_it_compiles_for_a_gpu_that_is_not_here(kernel_size: int, condition: int, channels: int, groups: int) -> None:
    compiler = pytest.importorskip("triton.compiler", reason="Triton is not installed (PyTorch for GPUs brings it)")
    from triton.backends.compiler import GPUTarget

    tensors = dict.fromkeys(("x", "cond", "weight", "bias", "out"), "*bf16")
    sizes = dict.fromkeys(("height", "width", "pixels"), "i32")
    constants = {"KERNEL": kernel_size, "CONDITION": condition, "CHANNELS": channels, "GROUPS": groups, "BLOCK": 64}
    signature = tensors | sizes | dict.fromkeys(constants, "constexpr")
    source = compiler.ASTSource(triton_rival.program(), signature, constants)
    ptx = compiler.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    assert "mma" in ptx
    assert "st.global" in ptx


def test_what_it_takes() -> None:
    x, cond = torch.empty(1, 16, 2, 2, dtype=torch.bfloat16), torch.empty(1, 64, 2, 2, dtype=torch.bfloat16)
    assert triton_rival.takes(x, cond)
    assert not triton_rival.takes(x.float(), cond)
    assert not triton_rival.takes(x[:, :8], cond)
    assert not triton_rival.takes(x, cond[:, :48])
