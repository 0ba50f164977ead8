"""The authors' implementation, on a CPU: the kernel's source under the emulation, against sums in float64."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from laconvnet import kernels
from laconvnet.kernels import cuda
from laconvnet.kernels.cuda import involution
from laconvnet.kernels.plain import taps
from tests.kernels import compiled
from tests.kernels.cuda_emulated import OnCpu
from tests.kernels.tensors import Shape, Three, each


class Emulated(involution.Involution, OnCpu):
    pass


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    folder = tmp_path_factory.mktemp("involution")
    return Emulated(compiled.emulated(folder, lambda unit: unit.name in ("involution", "dropout")))


def guarded(values: Tensor) -> Tensor:
    """The same values with NaN before and behind: what is read there spoils a result."""
    room = torch.full((values.numel() + 128,), torch.nan, dtype=values.dtype)
    return room[64 : 64 + values.numel()].view(values.shape).copy_(values)


def inputs(shape: Shape, dtype: torch.dtype) -> Three:
    b, c, h, w, k, g = shape
    torch.manual_seed(h * w + k)
    made = torch.randn(b, c, h, w), torch.randn(b, c, h, w), torch.randn(b, k * k * g, h, w)
    return each(lambda t: guarded(t.to(dtype)), made)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "shape",  # B, C, H, W, k, g
    [(2, 12, 5, 9, 7, 3), (1, 8, 23, 18, 3, 2), (2, 6, 3, 1, 5, 6), (3, 4, 6, 5, 9, 1), (1, 4, 1, 1, 1, 2)],
)
def test_forward_and_gradients(emulated: Emulated, shape: Shape, dtype: torch.dtype, interleaved: bool) -> None:
    grad, x, filters = inputs(shape, dtype)
    k, g = shape[4:]
    sizes = (k, g, interleaved)
    exact = each(Tensor.double, (grad, x, filters))
    wanted = taps.forward(*exact[1:], k, g, interleaved), *taps.backward(*exact, *sizes)
    found = emulated.dynamic_conv(x, filters, *sizes), *emulated.dynamic_conv_backward(grad, x, filters, *sizes)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == dtype
        assert ours.is_contiguous()
        # Summed in float32 and rounded once.
        allowed = theirs.abs() * torch.finfo(dtype).eps / 2 + 4e-5
        assert ((ours.double() - theirs).abs() <= allowed).all()


def test_any_memory_format(emulated: Emulated) -> None:
    tensors = inputs((2, 4, 5, 6, 3, 2), torch.float32)
    other = each(lambda t: t.contiguous(memory_format=torch.channels_last), tensors)
    wanted = emulated.dynamic_conv(*tensors[1:], 3, 2, False), *emulated.dynamic_conv_backward(*tensors, 3, 2, False)
    found = emulated.dynamic_conv(*other[1:], 3, 2, False), *emulated.dynamic_conv_backward(*other, 3, 2, False)
    for ours, theirs, like in zip(found, wanted, (other[1], other[1], other[2]), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.stride() == like.stride()


def test_an_empty_batch(emulated: Emulated) -> None:
    grad, x, filters = inputs((0, 4, 3, 3, 3, 2), torch.float32)
    assert emulated.dynamic_conv(x, filters, 3, 2, False).shape == x.shape
    assert emulated.dynamic_conv_backward(grad, x, filters, 3, 2, False)[1].shape == filters.shape


def test_what_does_not_fit_is_reported(emulated: Emulated) -> None:
    grad, x, filters = inputs((1, 4, 3, 3, 3, 2), torch.float32)
    with pytest.raises(RuntimeError, match=r"involution_forward: x .* do not fit kernel_size 3, groups 4"):
        emulated.dynamic_conv(x, filters, 3, 4, False)
    with pytest.raises(RuntimeError, match="involution_grad_filters: grad: expected the like of x"):
        emulated.dynamic_conv_backward(grad[:, :2], x, filters, 3, 2, False)
    arguments = cuda.library.ConvArguments(batch=1, height=2**16, width=2**16, channels=4, groups=2, kernel_size=3)
    with pytest.raises(RuntimeError, match="a size is negative or above"):
        emulated._launch("laconv_involution_forward_f32", arguments, x)


def test_only_the_bench_takes_it() -> None:
    assert involution.ready(torch.device("cpu")) is None
    room = Path(kernels.__file__).parent
    imports = re.compile(r"^ *(from|import) .*\binvolution\b", re.MULTILINE)
    takers = {path.relative_to(room).parts[0] for path in room.rglob("*.py") if imports.search(path.read_text())}
    assert takers == {"bench"}
