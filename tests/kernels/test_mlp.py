"""The operators of the MLP in PyTorch's own operators, and their contracts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from laconvnet.kernels import cuda
from laconvnet.kernels.backend import choose
from laconvnet.kernels.mlp import compiled, takes
from tests.kernels.mlps import EPS, errors, every_pass, exactly, given


class Operators:
    """`laconv::mlp_...` by their names."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.ops.laconv, name)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-9), (torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("channels", [16, 24])
def test_every_pass(channels: int, dtype: torch.dtype, rounding: float) -> None:
    these = given((2, channels, 7, 5), dtype)
    if dtype == torch.float64:
        these = these.changed(torch.Tensor.double)
    found = errors(every_pass(Operators(), these), exactly(these))
    assert {name: error for name, error in found.items() if error > rounding} == {}


def arguments() -> dict[str, tuple[Any, ...]]:
    """What each operator may be called with."""
    these = given((2, 16, 3, 4), torch.bfloat16)
    maps, moments = (these.y, these.w1, these.w2), torch.ops.laconv.mlp_statistics(these.y, these.w1)
    channels = (moments[1][:64], moments[1][64:128], these.weight, these.bias)
    return {
        "mlp_statistics": (these.y, these.w1),
        "mlp_forward": (*maps, *channels, EPS),
        "mlp_backward_reduce": (these.grad, *maps, *channels, EPS),
        "mlp_backward_apply": (these.grad, *maps, *channels, torch.ones(128), moments[1][-1:], these.beside, EPS),
    }


@pytest.mark.parametrize("name", sorted(arguments()))
def test_contracts_of_pytorch(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.laconv, name).default, arguments()[name])


def test_a_gpu_without_compiled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the layers, which keep the hidden map in two bytes a number, serve better than PyTorch's operators here."""
    gpu, dtype = torch.device("cuda", 0), torch.bfloat16
    choose("plain")
    assert not compiled(gpu, dtype)
    assert compiled(torch.device("cpu"), dtype)
    library = cuda.Library.__new__(cuda.Library)
    choose("auto")
    monkeypatch.setattr(cuda, "ready", lambda device: library)
    assert compiled(gpu, dtype)


def test_what_has_kernels() -> None:
    assert all(takes(torch.bfloat16, channels) and takes(torch.float16, channels) for channels in (16, 64, 128, 256))
    assert not takes(torch.float32, 16)
    assert not takes(torch.bfloat16, 32)
