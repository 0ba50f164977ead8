"""bfloat16 on a CPU: the convolution takes it as it is stored, and so do the products where the processor has them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from laconvnet import kernels
from laconvnet.kernels import backend as backends
from laconvnet.kernels import chunks, cpu, dropout
from laconvnet.kernels.bench.implementations import unfold_laconv
from laconvnet.kernels.cpu import build, native
from laconvnet.kernels.recipe import Recipe
from tests.kernels import compilers
from tests.kernels.tensors import Shape
from tests.kernels.test_dynamic_conv import COMPILED

BF16 = torch.bfloat16
laconv: Callable[..., Tensor] = kernels.laconv
textbook: Callable[..., Tensor] = unfold_laconv


@pytest.fixture(autouse=True)
def as_on_a_processor_that_has_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever this one has: the products are then slow, not other ones."""
    if cpu.ready() is None:
        compilers.missing("no C++ compiler here")
    monkeypatch.setattr(native, "multiplies_bfloat16", lambda: True)
    yield
    backends.choose("auto")


def maps(shape: Shape, layout: torch.memory_format = torch.channels_last) -> tuple[Tensor, Tensor, Tensor]:
    """x, filters in planes, and a gradient of the output, bfloat16."""
    b, c, h, w, k, g = shape
    torch.manual_seed(h + w)
    x, grad = (torch.randn(b, c, h, w).to(BF16).contiguous(memory_format=layout) for _ in range(2))
    return x, torch.randn(k * k * g, b, h, w).to(BF16).transpose(0, 1), grad


def convolved(x: Tensor, filters: Tensor, grad: Tensor, *sizes: Any) -> tuple[Tensor, ...]:
    return native.dynamic_conv(x, filters, *sizes), *native.dynamic_conv_backward(grad, x, filters, *sizes)


@pytest.mark.parametrize("shape", COMPILED)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_convolution_is_that_of_float32_rounded_once(
    shape: Shape, interleaved: bool, layout: torch.memory_format
) -> None:
    """To the bit: it is the same sum in the same order."""
    tensors, sizes = maps(shape, layout), (*shape[4:], interleaved)
    found, wide = convolved(*tensors, *sizes), convolved(*(t.float() for t in tensors), *sizes)
    for ours, wanted in zip(found, wide, strict=True):
        assert ours.dtype == BF16
        assert torch.equal(ours, wanted.to(BF16))
        assert ours.stride() == wanted.stride()


@pytest.mark.parametrize("width", [3, 13, 33])
def test_numbers_that_are_none_stay_so(width: int) -> None:
    x, _, _ = maps((1, 4, 5, width, 1, 2))
    x[0, 0, 0, :3], x[0, 1, 2, 1] = torch.tensor([torch.nan, torch.inf, -torch.inf]), torch.finfo(BF16).max
    x[0, 2, 0, 0] = torch.tensor(0x7FFF, dtype=torch.int16).view(BF16)  # the NaN next to zero, were it carried
    ones = torch.ones(1, 2, 5, width, dtype=BF16)
    torch.testing.assert_close(native.dynamic_conv(x, ones, 1, 2, False), x, rtol=0, atol=0, equal_nan=True)
    doubled = native.dynamic_conv(x, 2 * ones, 1, 2, False)
    torch.testing.assert_close(doubled, 2 * x, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("k", "g"), [(3, 2), (7, 1)])
def test_dropout_is_the_rule_to_the_bit(k: int, g: int) -> None:
    _, filters, _ = maps((2, 4, 9, 35, k, g))
    keys, wanted = torch.tensor([5, -7]), filters.clone()
    dropout.dropout_(wanted, keys, k, g, 0.3)
    native.dropout_(filters, keys, k, g, 0.3)
    assert torch.equal(filters, wanted)
    assert 0.2 < (filters == 0).float().mean() < 0.4


def test_the_width_of_vectors_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "avx512f" not in build._processor():
        pytest.skip("vectors of one width here: no AVX-512")
    cases = [(maps(shape), (*shape[4:], False)) for shape in COMPILED]
    wide = [convolved(*(t.float() for t in tensors), *sizes) for tensors, sizes in cases]
    monkeypatch.setenv("LACONVNET_KERNEL_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-O1"))
    monkeypatch.setattr(build, "_tuned", lambda: "-march=x86-64-v3")
    narrow: Callable[[], ctypes.CDLL] = native.library.__wrapped__
    library = narrow()
    assert str(tmp_path) in library._name
    monkeypatch.setattr(native, "library", lambda: library)
    for (tensors, sizes), wanted in zip(cases, wide, strict=True):
        for ours, other in zip(convolved(*(t.float() for t in tensors), *sizes), wanted, strict=True):
            assert torch.equal(ours, other)


# With the projection


def layer(shape: Shape, condition: int, dtype: torch.dtype = BF16) -> tuple[Tensor, ...]:
    """x, cond, weight, bias."""
    b, c, h, w, k, g = shape
    torch.manual_seed(c)
    x, cond = (torch.randn(b, n, h, w).to(dtype).contiguous(memory_format=torch.channels_last) for n in (c, condition))
    weight = torch.randn(k * k * g, condition) / condition**0.5
    return x, cond, weight.to(dtype), torch.randn(k * k * g).to(dtype)


def with_gradients(tensors: tuple[Tensor, ...], *sizes: Any, **options: Any) -> tuple[Tensor, ...]:
    leaves = [t.detach().requires_grad_() for t in tensors]
    out = laconv(*leaves, *sizes, **options)
    torch.manual_seed(1)
    return out, *torch.autograd.grad(out, leaves, torch.randn(out.shape).to(out.dtype))


LAYERS: list[tuple[Shape, int]] = [
    ((3, 32, 24, 26, 7, 2), 64),
    ((2, 8, 40, 56, 3, 2), 64),
    ((2, 64, 7, 7, 7, 2), 96),
    ((5, 64, 4, 4, 7, 4), 128),
]


@pytest.mark.parametrize(("shape", "condition"), LAYERS)
@pytest.mark.parametrize("dropout_p", [0.0, 0.25])
def test_no_worse_than_pytorch(shape: Shape, condition: int, dropout_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error against float64 beside that of plain PyTorch, which computes in float32 and rounds the results once."""
    monkeypatch.setattr(chunks, "FEW_PRODUCTS", 0)
    monkeypatch.setattr(chunks, "WORKSPACE", 2 * shape[4] ** 2 * shape[5] * shape[2] * shape[3] * 2)  # two images
    tensors, options = layer(shape, condition), {"dropout_p": dropout_p, "keys": torch.arange(shape[0])}
    exact = with_gradients(tuple(t.double() for t in tensors), *shape[4:], **options)
    found = with_gradients(tensors, *shape[4:], **options)
    backends.choose("plain")
    plain = with_gradients(tensors, *shape[4:], **options)
    for factor, ours, theirs, wanted in zip((2, 3, 3, 3, 3), found, plain, exact, strict=True):
        assert ours.dtype == BF16
        assert (ours - wanted).norm() <= factor * (theirs - wanted).norm()


class Products(TorchDispatchMode):
    """The types of all matrix products, and how many tensors were converted."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.types: set[torch.dtype] = set()
        self.converted = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            self.types |= {t.dtype for t in arguments if isinstance(t, Tensor)}
        self.converted += name == "_to_copy"
        return result


def products(dtype: torch.dtype, shape: Shape = LAYERS[0][0], condition: int = LAYERS[0][1]) -> Products:
    x, cond, weight, bias = layer(shape, condition, dtype)
    recipe = Recipe(weight, bias, *shape[4:], 0.0, None, False)
    seen = Products()
    with seen:
        chunks.forward(native, x, cond, recipe)
        chunks.backward(native, x, x, cond, recipe)
    return seen


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_products_are_in_bfloat16_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = products(BF16)
    assert (seen.types, seen.converted) == ({BF16}, 0)
    assert products(torch.float16).types == {torch.float32}
    assert products(torch.float32).types == {torch.float32}
    few = (2, 8, 6, 6, 3, 2)
    assert products(BF16, few, 8).types == {torch.float32}, "no faster"
    with torch.backends.mkldnn.flags(enabled=False):
        assert products(BF16).types == {torch.float32}, "PyTorch has no other fast product"
    monkeypatch.setattr(native, "multiplies_bfloat16", lambda: False)
    assert products(BF16).types == {torch.float32}


def test_the_processor_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has, raising=False)
        assert native.multiplies_bfloat16.__wrapped__() == (has and torch.backends.mkldnn.is_available())
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert not native.multiplies_bfloat16.__wrapped__()


def test_the_same_bits_again() -> None:
    shape, condition = LAYERS[0]
    tensors = layer(shape, condition)
    first = with_gradients(tensors, *shape[4:])
    for _ in range(3):
        for a, b in zip(with_gradients(tensors, *shape[4:]), first, strict=True):
            assert torch.equal(a, b)
