"""The operator against a literal sum in float64, and against the contracts of torch.library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from laconvnet import kernels
from laconvnet.kernels import chunks, cpu, plain
from laconvnet.kernels.cpu import native
from laconvnet.kernels.plain import matmul, taps
from tests.kernels import compilers
from tests.kernels.tensors import Shape

SHAPES = [  # B, C, H, W, k, g: tap loop and matrix implementation, odd sides, maps smaller than the kernel
    (2, 8, 5, 3, 3, 2),
    (1, 6, 7, 11, 3, 3),
    (2, 4, 1, 1, 7, 2),
    (1, 4, 2, 5, 5, 4),
    (1, 4, 13, 17, 7, 2),
    (3, 2, 9, 4, 1, 1),
]


BACKENDS = ["plain", "compiled"]


@pytest.fixture
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes one of the CPU's backends serve."""
    name: str = request.param
    if name == "plain":
        monkeypatch.setattr(cpu, "ready", lambda: None)
    elif cpu.ready() is None:
        compilers.missing("no C++ compiler here")
    return name


def inputs(b: int, c: int, h: int, w: int, k: int, g: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(h * w + k)
    return torch.randn(b, c, h, w, dtype=dtype), torch.randn(b, k * k * g, h, w, dtype=dtype)


def literal(x: Tensor, filters: Tensor, k: int, g: int) -> Tensor:
    """v2 Eq. 2, one number at a time."""
    out = torch.zeros_like(x)
    b, c, h, w = x.shape
    values, taps = x.tolist(), filters.tolist()
    for n in range(b):
        for ch in range(c):
            for i in range(h):
                for j in range(w):
                    total = 0.0
                    for di in range(k):
                        for dj in range(k):
                            y, z = i + di - k // 2, j + dj - k // 2
                            if 0 <= y < h and 0 <= z < w:
                                group = ch // (c // g)
                                total += values[n][ch][y][z] * taps[n][(di * k + dj) * g + group][i][j]
                    out[n, ch, i, j] = total
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_the_literal_sum(shape: Shape, channels_last: bool) -> None:
    x, filters = inputs(*shape)
    expected = literal(x, filters, *shape[4:])
    if channels_last:
        x, filters = (t.contiguous(memory_format=torch.channels_last) for t in (x, filters))
    for dtype in (torch.float64, torch.float32):  # plain PyTorch, the compiled kernel
        out = kernels.dynamic_conv(x.to(dtype), filters.to(dtype), *shape[4:])
        torch.testing.assert_close(out, expected.to(dtype))
        assert out.stride() == torch.empty_like(x).stride()


# Vectors of 16, 8, 4 and 1 pixels, the last of a row whole or half; blocks of 8, 4, 2 and 1 channels; groups narrower
# than a cache line together, the last set smaller; a map cut into several blocks of rows; maps that every kernel covers
# whole.
COMPILED = [
    (2, 15, 9, 13, 5, 1),
    (1, 24, 6, 5, 7, 2),
    (3, 14, 3, 2, 3, 7),
    (1, 10, 70, 90, 3, 5),
    (1, 64, 61, 60, 7, 1),
    (1, 1, 1, 40, 9, 1),
    (1, 1, 40, 1, 9, 1),
    (3, 21, 4, 3, 7, 3),
    (64, 64, 4, 4, 7, 8),
    (2, 34, 2, 2, 7, 2),
    (1, 24, 5, 28, 7, 1),
    (2, 6, 6, 20, 5, 3),
]


@pytest.mark.parametrize("shape", COMPILED)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_compiled_kernel_agrees_with_plain_pytorch(
    shape: Shape, interleaved: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cpu.ready() is None:
        compilers.missing("no C++ compiler here")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, filters = inputs(*shape, dtype=torch.float32)
    arguments = (filters, *shape[4:], interleaved)
    exact = (filters.double(), *shape[4:], interleaved)
    grad = torch.randn_like(x)
    expected = plain.dynamic_conv(x.double(), *exact)
    expected_x, expected_filters = plain.dynamic_conv_backward(grad.double(), x.double(), *exact)
    for layout in (torch.contiguous_format, torch.channels_last):
        source, above = (t.contiguous(memory_format=layout) for t in (x, grad))
        out = native.dynamic_conv(source, *arguments)
        grad_x, grad_filters = native.dynamic_conv_backward(above, source, *arguments)
        for found, wanted in ((out, expected), (grad_x, expected_x), (grad_filters, expected_filters)):
            torch.testing.assert_close(found, wanted.float(), rtol=1e-5, atol=1e-4)
        assert out.stride() == grad_x.stride() == torch.empty_like(source).stride()
        # In one order whatever the number of threads.
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        assert torch.equal(out, native.dynamic_conv(source, *arguments))


def test_the_threads_are_those_of_the_openmp_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    if cpu.ready() is None:
        compilers.missing("no C++ compiler here")
    library = native.library()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    x, filters = inputs(1, 64, 61, 60, 7, 1, dtype=torch.float32)
    arguments = (x, filters, 7, 1, False)
    taken = []
    work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    def parallel(share: Callable[[int], None], data: int, threads: int, flags: int) -> None:
        taken.append((threads, flags))
        share(data)  # a team may be smaller than was asked for

    entry = ctypes.CFUNCTYPE(None, work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(parallel)
    found = native.openmp()
    assert found is not None, "PyTorch has loaded one"
    try:
        expected = native.dynamic_conv(*arguments)
        library.laconv_cpu_use(ctypes.cast(entry, ctypes.c_void_p))
        assert torch.equal(native.dynamic_conv(*arguments), expected)
        library.laconv_cpu_use(None)
        assert torch.equal(native.dynamic_conv(*arguments), expected)
    finally:
        library.laconv_cpu_use(found)
    assert taken == [(3, 0)]


def test_strided_inputs() -> None:
    x, filters = inputs(2, 8, 12, 20, 3, 2, dtype=torch.float32)
    cut, filters_cut = x[:, ::2, 1::3, ::2], filters[:, :, 1::3, ::2]
    expected = kernels.dynamic_conv(cut.contiguous(), filters_cut.contiguous(), 3, 2)
    torch.testing.assert_close(kernels.dynamic_conv(cut, filters_cut, 3, 2), expected)
    turned = x.transpose(2, 3).requires_grad_()
    out = kernels.dynamic_conv(turned, filters.transpose(2, 3), 3, 2)
    (grad,) = torch.autograd.grad(out.sum(), turned)
    straight = turned.detach().contiguous().requires_grad_()
    out = kernels.dynamic_conv(straight, filters.transpose(2, 3).contiguous(), 3, 2)
    torch.testing.assert_close(grad, torch.autograd.grad(out.sum(), straight)[0])


def test_both_implementations_agree() -> None:
    assert matmul.fits(7, 13, 13)
    assert not matmul.fits(3, 32, 32)
    for interleaved in (False, True):
        x, filters = inputs(3, 12, 6, 5, 5, 4)
        grad = torch.randn_like(x)
        arguments = (x, filters, 5, 4, interleaved)
        torch.testing.assert_close(matmul.forward(*arguments), taps.forward(*arguments))
        for a, b in zip(matmul.backward(grad, *arguments), taps.backward(grad, *arguments), strict=True):
            torch.testing.assert_close(a, b)


def test_chunks_of_images_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, filters = inputs(5, 4, 4, 4, 3, 2)
    whole = matmul.forward(x, filters, 3, 2, False), *matmul.backward(x, x, filters, 3, 2, False)
    monkeypatch.setattr(matmul, "CHUNK", 2 * 2 * 16**2)
    assert len(matmul._chunks(x, 2)) == 3
    parts = matmul.forward(x, filters, 3, 2, False), *matmul.backward(x, x, filters, 3, 2, False)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [SHAPES[3], (1, 4, 9, 8, 3, 2)])
@pytest.mark.parametrize("interleaved", [False, True])
def test_gradients(shape: Shape, interleaved: bool) -> None:
    x, filters = (t.requires_grad_() for t in inputs(*shape))

    def convolve(a: Tensor, b: Tensor) -> Tensor:
        return kernels.dynamic_conv(a, b, *shape[4:], interleaved)

    assert torch.autograd.gradcheck(convolve, (x, filters), fast_mode=True)


def test_interleaved_is_contiguous_up_to_a_permutation() -> None:
    x, filters = inputs(2, 12, 6, 5, 3, 4)
    # Channel j * g + group of the interleaved layout is channel group * n + j of the contiguous one.
    order = torch.arange(12).view(3, 4).T.flatten()
    contiguous = kernels.dynamic_conv(x[:, order], filters, 3, 4)
    torch.testing.assert_close(kernels.dynamic_conv(x, filters, 3, 4, interleaved=True)[:, order], contiguous)


@pytest.mark.parametrize("implementation", BACKENDS, indirect=True)
def test_empty_batch(implementation: str) -> None:
    for side in (3, 40):
        x, filters = (
            torch.zeros(0, 4, side, side, requires_grad=True),
            torch.zeros(0, 18, side, side, requires_grad=True),
        )
        out = kernels.dynamic_conv(x, filters, 3, 2)
        out.sum().backward()
        assert out.shape == x.shape
        assert x.grad is not None
        assert x.grad.shape == x.shape
        assert filters.grad is not None
        assert filters.grad.shape == filters.shape


@pytest.mark.parametrize("implementation", BACKENDS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 8, 9, 9, 7, 2), (1, 8, 40, 24, 7, 2)])
def test_half_precision_rounds_once(
    implementation: str, dtype: torch.dtype, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "WORKSPACE", 4 * 98 * 81)  # an image at a time
    x, filters = (t.requires_grad_() for t in inputs(*shape, dtype=dtype))
    exact_x, exact_filters = (t.detach().double().requires_grad_() for t in (x, filters))
    out, exact = kernels.dynamic_conv(x, filters, *shape[4:]), kernels.dynamic_conv(exact_x, exact_filters, *shape[4:])
    grad = torch.randn_like(out)
    out.backward(grad)
    exact.backward(grad.double())
    assert out.dtype == dtype
    # Accumulated in float32, the one rounding to the output type is all the error there is; 49 roundings would exceed
    # this.
    for got, wanted in ((out, exact), (x.grad, exact_x.grad), (filters.grad, exact_filters.grad)):
        assert got is not None
        assert wanted is not None
        allowed = wanted.abs() * torch.finfo(dtype).eps / 2 + 1e-4
        assert ((got.double() - wanted).abs() <= allowed).all()


def test_only_the_inputs_are_kept_for_backward() -> None:
    kept: list[Tensor] = []
    x, filters = (t.requires_grad_() for t in inputs(1, 4, 9, 8, 3, 2))

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        kernels.dynamic_conv(x, filters, 3, 2)
    assert [t.data_ptr() for t in kept] == [x.data_ptr(), filters.data_ptr()]


def test_registered_as_pytorch_demands() -> None:
    x, filters = (t.float().requires_grad_() for t in inputs(2, 4, 5, 6, 3, 2))
    forward, backward = torch.ops.laconv.dynamic_conv.default, torch.ops.laconv.dynamic_conv_backward.default
    torch.library.opcheck(forward, (x, filters, 3, 2, False))
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(forward, (last, filters, 3, 2, True), test_utils=quick)
    large = torch.randn(1, 2, 20, 20, requires_grad=True)
    torch.library.opcheck(forward, (large, torch.randn(1, 9, 20, 20), 3, 1, False), test_utils=quick)
    grad = torch.randn(2, 4, 5, 6)
    for wanted in ([True, True], [True, False], [False, True]):
        torch.library.opcheck(backward, (grad, x.detach(), filters.detach(), 3, 2, False, wanted), test_utils=quick)
        torch.library.opcheck(backward, (grad, last.detach(), filters.detach(), 3, 2, True, wanted), test_utils=quick)


def test_compiles_into_one_graph() -> None:
    def step(x: Tensor, filters: Tensor) -> Tensor:
        return kernels.dynamic_conv(x, filters, 3, 2).relu().sum()

    x, filters = (t.float().requires_grad_() for t in inputs(2, 4, 5, 6, 3, 2))
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, filters), step(x, filters))
    expected = torch.autograd.grad(step(x, filters), (x, filters))
    for got, wanted in zip(torch.autograd.grad(compiled(x, filters), (x, filters)), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_differentiable_once() -> None:
    x, filters = (t.requires_grad_() for t in inputs(1, 4, 5, 6, 3, 2))
    (grad,) = torch.autograd.grad(kernels.dynamic_conv(x, filters, 3, 2).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(grad.sum(), x)


def test_autocast_takes_both_inputs_in_its_type() -> None:
    x, filters = (t.float() for t in inputs(2, 4, 5, 6, 3, 2))
    with torch.autocast("cpu", torch.bfloat16):
        out = kernels.dynamic_conv(x, filters.bfloat16(), 3, 2)
    small_x, small_filters = (t.requires_grad_().double() for t in inputs(1, 4, 3, 3, 5, 2, dtype=torch.float32))
    with torch.autocast("cpu", torch.bfloat16):  # float64 is left alone, the matrix products inside included
        exact = kernels.dynamic_conv(small_x, small_filters, 5, 2)
    torch.testing.assert_close(exact, kernels.dynamic_conv(small_x, small_filters, 5, 2), rtol=0, atol=0)
    torch.testing.assert_close(out, kernels.dynamic_conv(x.bfloat16(), filters.bfloat16(), 3, 2), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        ("kernel_size", (torch.zeros(1, 4, 3, 3), torch.zeros(1, 8, 3, 3), 2, 2)),
        ("groups", (torch.zeros(1, 4, 3, 3), torch.zeros(1, 27, 3, 3), 3, 3)),
        ("groups", (torch.zeros(1, 4, 3, 3), torch.zeros(1, 0, 3, 3), 3, 0)),
        ("filters", (torch.zeros(1, 4, 3, 3), torch.zeros(1, 17, 3, 3), 3, 2)),
        ("filters", (torch.zeros(2, 4, 3, 3), torch.zeros(1, 18, 3, 3), 3, 2)),
        ("filters", (torch.zeros(1, 4, 3, 3), torch.zeros(1, 18, 3, 3).double(), 3, 2)),
        ("filters", (torch.zeros(1, 4, 3, 3), torch.zeros(1, 18, 3, 3, device="meta"), 3, 2)),
        ("x", (torch.zeros(4, 3, 3), torch.zeros(1, 18, 3, 3), 3, 2)),
        ("x", (torch.zeros(1, 4, 3, 3, dtype=torch.int32), torch.zeros(1, 18, 3, 3), 3, 2)),
    ],
)
def test_what_does_not_fit_is_named(argument: str, arguments: tuple[Tensor, Tensor, int, int]) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        kernels.dynamic_conv(*arguments)
