"""The stem: the very source of the CUDA kernels under the emulation, beside PyTorch's convolution and pooling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.kernels.stem import stem, takes
from tests.kernels.compiled import emulated
from tests.kernels.cuda_emulated import OnCpu

DTYPES = (torch.float16, torch.bfloat16)
SHAPES = [(1, 2, 2), (2, 6, 10), (3, 26, 14), (0, 4, 4)]
Given = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> OnCpu:
    folder = tmp_path_factory.mktemp("stem")
    return OnCpu(emulated(folder, lambda unit: unit.source.startswith("stem/") or unit.name == "dropout"))


def given(shape: tuple[int, int, int], dtype: torch.dtype, source: torch.dtype) -> Given:
    """Image (channels last), weight, bias, and the gradient of the result."""
    torch.manual_seed(shape[1])
    batch, height, width = shape
    image = torch.rand(batch, 3, height, width).to(source, memory_format=torch.channels_last)
    grad = torch.randn(batch, 16, height // 2, width // 2).to(dtype, memory_format=torch.channels_last)
    return image, torch.randn(16, 3, 1, 1).to(dtype), torch.randn(16).to(dtype), grad


def exactly(image: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In float64 but for the numbers that are compared, which are of the type of the weight."""
    weight64, bias64 = weight.double().requires_grad_(), bias.double().requires_grad_()
    wide = F.conv2d(image.to(weight.dtype).double(), weight64, bias64)
    compared = wide.to(torch.float32).to(weight.dtype).double()
    out, taken = F.max_pool2d(compared, 2, return_indices=True)
    chosen = wide.flatten(2).gather(2, taken.flatten(2)).view(out.shape)
    of_weight, of_bias = torch.autograd.grad(chosen, (weight64, bias64), grad.double())
    return out, of_weight, of_bias


@pytest.mark.parametrize("same", [False, True], ids=["float32", "same"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_passes(kernels: OnCpu, shape: tuple[int, int, int], dtype: torch.dtype, same: bool) -> None:
    image, weight, bias, grad = given(shape, dtype, dtype if same else torch.float32)
    out, of_weight, of_bias = exactly(image, weight, bias, grad)
    found, gradients = kernels.stem(image, weight, bias), kernels.stem_backward(grad, image, weight, bias)
    assert found is not None
    assert gradients is not None
    # Rounding to half a unit more or less may come of the order of a sum.
    torch.testing.assert_close(found.double(), out, rtol=torch.finfo(dtype).eps, atol=1e-3)
    assert (found.double() == out).double().mean() > 0.99 or not found.numel()
    torch.testing.assert_close(gradients[0].double(), of_weight, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(gradients[1].double(), of_bias, rtol=1e-4, atol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_of_equal_numbers_the_first_and_what_is_no_number(kernels: OnCpu) -> None:
    """As PyTorch's pooling: so gradients go where they would go there."""
    image, weight, bias, grad = given((2, 4, 4), torch.bfloat16, torch.float32)
    image = (image * 2).round() / 2  # many are equal
    image[0, 1, 1, 0] = torch.nan
    out, of_weight, of_bias = exactly(image, weight, bias, grad)
    found = kernels.stem(image, weight, bias)
    gradients = kernels.stem_backward(grad, image, weight, bias)
    assert found is not None
    assert gradients is not None
    assert found[0, :, 0, 0].isnan().all()
    assert torch.equal(found.double().nan_to_num(), out.nan_to_num())
    torch.testing.assert_close(gradients[0].double(), of_weight, rtol=1e-4, atol=1e-3, equal_nan=True)
    torch.testing.assert_close(gradients[1].double(), of_bias, rtol=1e-4, atol=1e-4)


def test_an_image_at_an_odd_address_is_left_to_others(kernels: OnCpu) -> None:
    image, weight, bias, grad = given((1, 4, 4), torch.bfloat16, torch.bfloat16)
    moved = torch.empty(image.numel() + 1, dtype=image.dtype)[1:].view(1, 4, 4, 3).copy_(image.movedim(1, -1))
    assert moved.data_ptr() % 4
    assert kernels.stem(moved.movedim(-1, 1), weight, bias) is None
    assert kernels.stem_backward(grad, moved.movedim(-1, 1), weight, bias) is None


def test_the_same_bits_on_every_run(kernels: OnCpu) -> None:
    image, weight, bias, grad = given((3, 26, 14), torch.bfloat16, torch.float32)
    runs = [kernels.stem_backward(grad, image, weight, bias) for _ in range(2)]
    for one, other in zip(*(run or () for run in runs), strict=True):
        assert torch.equal(one, other)


def test_what_does_not_fit_is_named(kernels: OnCpu) -> None:
    image, weight, bias, grad = given((2, 4, 4), torch.bfloat16, torch.float32)
    with pytest.raises(RuntimeError, match=r"stem: image \(2, 3, 3, 4\) float32"):
        kernels.stem(image[:, :, 1:], weight, bias)
    with pytest.raises(RuntimeError, match=r"bias \(15,\) bfloat16"):
        kernels.stem(image, weight, bias[1:])
    with pytest.raises(RuntimeError, match=r"stem_backward: grad: expected \(2, 16, 2, 2\)"):
        kernels.stem_backward(grad[1:], image, weight, bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operator_is_convolution_and_pooling(dtype: torch.dtype) -> None:
    image, weight, bias, grad = given((2, 6, 10), dtype, torch.float32)
    leaves = (weight.requires_grad_(), bias.requires_grad_())
    found = stem(image, *leaves)
    expected = F.max_pool2d(F.conv2d(image.to(dtype), *leaves), 2)
    assert torch.equal(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        torch.testing.assert_close(one, other)
    torch.library.opcheck(torch.ops.laconv.stem, (image, weight.detach(), bias.detach()))
    torch.library.opcheck(torch.ops.laconv.stem_backward, (grad, image, weight.detach(), bias.detach()))


def test_what_has_kernels() -> None:
    assert takes(torch.float32, torch.bfloat16, 3, 16)
    assert takes(torch.float16, torch.float16, 3, 16)
    assert not takes(torch.float16, torch.bfloat16, 3, 16)
    assert not takes(torch.float32, torch.float32, 3, 16)
    assert not takes(torch.float32, torch.bfloat16, 3, 8)
