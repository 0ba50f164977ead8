"""The CUDA kernels of LaConv on a GPU: the same answers as plain PyTorch, whatever the shape, stream and device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from laconvnet import kernels
from laconvnet.kernels import cuda, dropout
from laconvnet.kernels.filter_layout import FilterLayout, from_padded_rows, to_padded_rows
from laconvnet.kernels.plain import taps
from tests.kernels.tensors import Shape, Three, each

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"),
]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def inputs(shape: Shape, dtype: torch.dtype, device: str = "cuda") -> Three:
    """grad, x, filters of shape (B, C, H, W, k, g), channels last."""
    b, c, h, w, k, g = shape
    generator = torch.Generator(device).manual_seed(c + h * w + k)

    def drawn(channels: int) -> Tensor:
        return torch.randn(b, h, w, channels, device=device, generator=generator).to(dtype).permute(0, 3, 1, 2)

    return drawn(c), drawn(c), drawn(k * k * g)


def everything(
    way: cuda.Library, grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool
) -> Three:
    sizes = (kernel_size, groups, interleaved)
    return way.dynamic_conv(x, filters, *sizes), *way.dynamic_conv_backward(grad, x, filters, *sizes)


def by_torch(grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Three:
    sizes = (kernel_size, groups, interleaved)
    return taps.forward(x, filters, *sizes), *taps.backward(grad, x, filters, *sizes)


SHAPES = [
    (2, 16, 208, 208, 3, 4),
    (2, 64, 104, 104, 7, 4),
    (2, 128, 52, 52, 7, 8),
    (2, 256, 26, 26, 7, 8),
    (4, 512, 13, 13, 7, 16),
    (65, 512, 7, 7, 3, 16),
    (1, 128, 53, 41, 5, 8),
    (3, 24, 3, 5, 7, 2),
    (1, 8, 1, 1, 7, 4),
    (2, 6, 9, 1, 5, 6),
    (2, 10, 1, 9, 3, 2),
    (1, 16, 20, 30, 9, 4),
    (2, 8, 6, 6, 1, 2),
    (1, 384, 6, 6, 7, 384),
]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_as_exact_as_plain_pytorch(way: cuda.Library, shape: Shape, dtype: torch.dtype, interleaved: bool) -> None:
    """Error against float64 from the same inputs: at most twice that of PyTorch's path, thrice for gradients."""
    given = inputs(shape, dtype)
    sizes = (*shape[4:], interleaved)
    exact = by_torch(*each(Tensor.double, given), *sizes)
    theirs = by_torch(*given, *sizes)
    for ours, their, true, times in zip(everything(way, *given, *sizes), theirs, exact, (2, 3, 3), strict=True):
        assert ours.dtype == dtype
        assert ours.is_contiguous(memory_format=torch.channels_last)
        floor = torch.finfo(torch.float32).eps * true.abs().max()
        error, allowed = (ours.double() - true).abs().max(), (their.double() - true).abs().max()
        assert error <= times * allowed + floor, f"{error} against {allowed}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_padded_rows_are_as_exact(way: cuda.Library, shape: Shape, dtype: torch.dtype) -> None:
    """The layout that projected filters have: the results of filters that lie one by one, to the last rounding."""
    grad, x, filters = inputs(shape, dtype)
    k, g = shape[4:]
    layout = way.filter_layout(x, k, g, False)
    if layout is not FilterLayout.PADDED_ROWS:
        assert k not in (3, 5, 7) or x.shape[1] // g % 4
        return
    by_filter = to_padded_rows(filters.transpose(0, 1), k, g).transpose(0, 1)
    rows = by_filter.contiguous(memory_format=torch.channels_last)
    out = way.dynamic_conv(x, rows, k, g, False, layout, torch.empty_like(x))
    grad_x, grad_rows = way.dynamic_conv_backward(grad, x, rows, k, g, False, layout)
    grad_filters = from_padded_rows(grad_rows.transpose(0, 1), k, g).transpose(0, 1)
    assert not grad_rows.unflatten(1, (g, k, -1))[:, :, :, k:].any()
    alone = everything(way, grad, x, filters, k, g, False)
    for ours, other in zip((out, grad_x, grad_filters), alone, strict=True):
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(ours, other, rtol=eps, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("interleaved", [False, True])
def test_double(way: cuda.Library, interleaved: bool) -> None:
    given = inputs((2, 8, 9, 10, 5, 4), torch.float64)
    for ours, true in zip(everything(way, *given, 5, 4, interleaved), by_torch(*given, 5, 4, interleaved), strict=True):
        torch.testing.assert_close(ours, true)
    x, filters = (t.detach().requires_grad_() for t in inputs((1, 4, 3, 5, 3, 2), torch.float64)[1:])
    assert torch.autograd.gradcheck(lambda a, b: kernels.dynamic_conv(a, b, 3, 2, interleaved), (x, filters))


def test_nothing_at_all(way: cuda.Library) -> None:
    for shape in ((0, 8, 13, 13, 7, 2), (2, 8, 0, 13, 3, 2)):
        found = everything(way, *inputs(shape, torch.bfloat16), *shape[4:], False)
        assert [t.numel() for t in found] == [0, 0, 0]


@pytest.mark.parametrize("shape", [(2, 64, 14, 11, 7, 4), (2, 1, 6, 6, 3, 1), (2, 8, 1, 1, 3, 2)])
def test_memory_formats(way: cuda.Library, shape: Shape) -> None:
    last = inputs(shape, torch.bfloat16)
    wanted = everything(way, *last, *shape[4:], False)
    ways: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda t: t.contiguous(),
        lambda t: t.mT.contiguous().mT,
        lambda t: torch.cat([t, t], dim=1)[:, : t.shape[1]],
        lambda t: (
            torch.cat([t.flatten()[:1], t.permute(0, 2, 3, 1).flatten()])[1:]
            .view(t.shape[0], *t.shape[2:], t.shape[1])
            .permute(0, 3, 1, 2)
        ),
    )
    for other in ways:
        given = each(other, last)
        found = everything(way, *given, *shape[4:], False)
        for ours, theirs, like in zip(found, wanted, (given[1], given[1], given[2]), strict=True):
            torch.testing.assert_close(ours, theirs)
            assert ours.stride() == torch.empty_like(like).stride()


def test_the_same_bits_on_every_run(way: cuda.Library) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        given = inputs((4, 128, 26, 26, 7, 8), dtype)
        first = everything(way, *given, 7, 8, False)
        for _ in range(50):
            for again, wanted in zip(everything(way, *given, 7, 8, False), first, strict=True):
                assert torch.equal(again, wanted)


def test_more_than_two_to_the_31_elements(way: cuda.Library) -> None:
    """The last images of a batch whose filters are beyond 32-bit offsets."""
    shape = (700, 8, 128, 128, 7, 4)  # filters: 2.25e9 elements
    need = 5 * shape[0] * 196 * 128 * 128
    if torch.cuda.mem_get_info()[0] < need:
        pytest.skip(f"needs {need / 2**30:.0f} GiB of free GPU memory")
    b, c, h, w, k, g = shape
    x = torch.randn(b, h, w, c, device="cuda", dtype=torch.bfloat16).permute(0, 3, 1, 2)
    filters = torch.empty(b, h, w, k * k * g, device="cuda", dtype=torch.bfloat16).normal_().permute(0, 3, 1, 2)
    assert filters.numel() > 2**31
    found = everything(way, x, x, filters, k, g, False)
    for part in (slice(0, 1), slice(b - 1, b), slice(668, 670)):  # element 2**31 is in image 668
        for ours, theirs in zip(found, everything(way, x[part], x[part], filters[part], k, g, False), strict=True):
            assert torch.equal(ours[part], theirs)
    small = filters[b - 1 :].clone(memory_format=torch.channels_last)
    keys = torch.arange(b)
    way.dropout_(filters, keys, k, g, 0.1)
    way.dropout_(small, keys[b - 1 :], k, g, 0.1)
    assert torch.equal(filters[b - 1 :], small)


def test_another_stream(way: cuda.Library) -> None:
    given = inputs((8, 256, 52, 52, 7, 8), torch.bfloat16)
    wanted = everything(way, *given, 7, 8, False)
    stream = torch.cuda.Stream()
    late = each(torch.zeros_like, given)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # on another stream the kernels would see the zeros
        for tensor, value in zip(late, given, strict=True):
            tensor.copy_(value)
        found = everything(way, *late, 7, 8, False)
    torch.cuda.current_stream().wait_stream(stream)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU: cuda:1 cannot be tried")
def test_another_device(way: cuda.Library) -> None:
    given = inputs((2, 64, 26, 26, 7, 4), torch.bfloat16)
    there = each(lambda t: t.to("cuda:1"), given)
    second = cuda.ready(torch.device("cuda", 1))
    assert second is not None
    assert torch.cuda.current_device() == 0
    for ours, theirs in zip(everything(second, *there, 7, 4, False), everything(way, *given, 7, 4, False), strict=True):
        assert ours.device == torch.device("cuda", 1)
        assert torch.equal(ours.cpu(), theirs.cpu())
    assert torch.cuda.current_device() == 0


def test_captured_in_a_graph(way: cuda.Library) -> None:
    grad, x, filters = inputs((2, 64, 26, 26, 7, 4), torch.bfloat16)
    keys = torch.zeros(2, dtype=torch.int64, device="cuda")

    def step() -> tuple[Tensor, ...]:
        dropped = filters.clone(memory_format=torch.preserve_format)
        way.dropout_(dropped, keys, 7, 4, 0.1)
        return everything(way, grad, x, dropped, 7, 4, False)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    seen = []
    for number in (5, 6):
        x.normal_()
        keys.fill_(number)
        graph.replay()
        for ours, theirs in zip(found, step(), strict=True):
            assert torch.equal(ours, theirs)
        seen.append(found[0].clone())
    assert not torch.equal(*seen)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "g", "side"), [(7, 4, 26), (3, 4, 104), (5, 2, 13), (9, 3, 5), (7, 16, 7)])
def test_filters_are_dropped_as_on_the_cpu(way: cuda.Library, dtype: torch.dtype, k: int, g: int, side: int) -> None:
    keys = kernels.image_keys(1, 2, torch.arange(8), ["here"])[0]
    values = (torch.rand(8, k * k * g, side, side) + 1).to(dtype)
    expected = values.clone()
    dropout.dropout_(expected, keys, k, g, 0.1)
    for given in (values.cuda(), values.cuda().contiguous(memory_format=torch.channels_last)):
        way.dropout_(given, keys.cuda(), k, g, 0.1)
        assert torch.equal(given.cpu(), expected)
        part = values[5:].cuda()
        way.dropout_(part, keys[5:], k, g, 0.1)  # keys on the CPU
        assert torch.equal(part, given[5:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 8, 15, 676), (4, 5), (4, 3, 7, 11)])
def test_elements_are_dropped_as_on_the_cpu(way: cuda.Library, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    keys = kernels.image_keys(1, 2, torch.arange(4), ["here"])[0]
    values = (torch.rand(shape) + 1).to(dtype)
    expected = dropout.dropout(values, keys, 0.1)
    assert torch.equal(way.dropout(values.cuda(), keys.cuda(), 0.1).cpu(), expected)
    assert torch.equal(kernels.keyed_dropout(values.cuda(), keys, 0.1).cpu(), expected)


def test_dropout_in_training_has_one_mask() -> None:
    """Where a filter value is dropped in the forward pass, the gradient that reaches the projection is zero too."""
    torch.manual_seed(0)
    x = torch.randn(2, 8, 9, 9, device="cuda")
    cond = torch.randn(2, 6, 9, 9, device="cuda")
    weight, bias = torch.randn(36, 6, device="cuda"), torch.randn(36, device="cuda", requires_grad=True)

    def out(value: Tensor) -> Tensor:
        return kernels.laconv(x, cond, weight, value, 3, 4, dropout_p=0.5, keys=torch.tensor([11, 12]))

    direction = torch.randn_like(bias)
    upper = torch.randn(2, 8, 9, 9, device="cuda")
    (slope,) = torch.autograd.grad(out(bias), bias, upper)
    # The output is linear in the bias: a difference is exact but for rounding, with the very mask of the forward pass.
    difference = ((out(bias + direction) - out(bias)) * upper).sum()
    torch.testing.assert_close((slope * direction).sum(), difference, rtol=1e-3, atol=1e-2)


def test_contracts_of_pytorch() -> None:
    x, filters = (t.requires_grad_() for t in inputs((2, 8, 5, 6, 3, 2), torch.float32)[1:])
    torch.library.opcheck(torch.ops.laconv.dynamic_conv.default, (x, filters, 3, 2, False))
    plain = x.detach().contiguous().requires_grad_()
    torch.library.opcheck(torch.ops.laconv.dynamic_conv.default, (plain, filters, 3, 2, True))
    cond, weight, bias = (
        torch.randn(*side, device="cuda", requires_grad=True) for side in ((2, 4, 5, 6), (18, 4), (18,))
    )
    for keys in (torch.tensor([3, 4]), torch.tensor([3, 4], device="cuda")):
        torch.library.opcheck(torch.ops.laconv.laconv.default, (x, cond, weight, bias, 3, 2, 0.1, keys, False))
        torch.library.opcheck(torch.ops.laconv.keyed_dropout.default, (x, keys, 0.1))


def test_compiled() -> None:
    def step(x: Tensor, filters: Tensor) -> Tensor:
        return kernels.dynamic_conv(x * 2, filters, 7, 4).relu().float().sum()

    compiled = torch.compile(step, fullgraph=True, dynamic=True)
    for side in (13, 26):
        given = [t.requires_grad_() for t in inputs((2, 64, side, side, 7, 4), torch.bfloat16)[1:]]
        wanted, found = (torch.autograd.grad(way(*given), given) for way in (step, compiled))
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_exported() -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor, filters: Tensor) -> Tensor:
            return kernels.dynamic_conv(x, filters, 3, 2)

    given = inputs((2, 8, 5, 6, 3, 2), torch.float32)[1:]
    exported = torch.export.export(Module(), given)
    assert torch.equal(exported.module()(*given), Module()(*given))


def test_autocast() -> None:
    x, filters = inputs((2, 64, 13, 13, 7, 4), torch.float32)[1:]
    with torch.autocast("cuda", torch.bfloat16):
        out = kernels.dynamic_conv(x, filters, 7, 4)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, kernels.dynamic_conv(x.bfloat16(), filters.bfloat16(), 7, 4))


def test_the_operator_takes_the_kernels(way: cuda.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that fell back in silence would pass every other test of values."""
    asked: list[str] = []
    launch = cuda.Library._launch

    def watched(self: cuda.Library, name: str, *rest: Any) -> None:
        asked.append(name)
        launch(self, name, *rest)

    monkeypatch.setattr(cuda.Library, "_launch", watched)
    x, filters = (t.requires_grad_() for t in inputs((2, 64, 13, 13, 7, 4), torch.bfloat16)[1:])
    kernels.dynamic_conv(x, filters, 7, 4).sum().backward()
    assert [name.removeprefix("laconv_dynamic_conv_") for name in asked] == [
        "forward_bf16_k7",
        "grad_x_bf16_k7",
        "grad_filters_bf16_k7",
    ]


def test_errors_are_told(way: cuda.Library) -> None:
    x, filters = torch.zeros(1, 4, 3, 3, device="cuda"), torch.zeros(1, 18, 3, 3, device="cuda")
    with pytest.raises(RuntimeError, match=r"x \(1, 4, 3, 3\) float32 on cuda:0 .* do not fit"):
        way.dynamic_conv(x, filters[:, :9], 3, 2, False)
    arguments = cuda.library.ConvArguments(batch=1, height=3, width=3, channels=4, groups=2, kernel_size=4)
    with pytest.raises(RuntimeError, match=r"forward_f32_k3 on cuda:0 .*: the kernel size is not odd"):
        way._launch("laconv_dynamic_conv_forward_f32_k3", arguments, x)


SANITIZED = """
import torch
from laconvnet.kernels import cuda, dropout
way = cuda.ready(torch.device("cuda", 0))
assert way is not None
for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
    for c, h, w, k, g in ((16, 5, 9, 7, 2), (8, 4, 6, 3, 2), (12, 3, 5, 5, 2), (5, 1, 1, 7, 5), (16, 6, 11, 9, 4)):
        for interleaved in (False, True):
            x = torch.randn(2, h, w, c, device="cuda").to(dtype).permute(0, 3, 1, 2)
            filters = torch.randn(2, h, w, k * k * g, device="cuda").to(dtype).permute(0, 3, 1, 2)
            way.dropout_(filters, torch.tensor([1, 2]), k, g, 0.1)
            way.dropout(x, torch.tensor([1, 2]), 0.1)
            way.dynamic_conv(x, filters, k, g, interleaved)
            way.dynamic_conv_backward(x, x, filters, k, g, interleaved)
torch.cuda.synchronize()
print("done")
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_no_access_out_of_bounds_and_no_race(way: cuda.Library, tool: str, tmp_path: Path) -> None:
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(sanitizer).is_file():
        pytest.skip("compute-sanitizer is not installed")
    script = tmp_path / "small.py"
    script.write_text(SANITIZED)
    # Memory straight from CUDA: in PyTorch's pool a neighbour's memory would answer for what lies out of bounds.
    done = subprocess.run(
        [sanitizer, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all", sys.executable, str(script)],
        cwd=ROOT,
        env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    message = done.stdout + done.stderr
    if "Device not supported" in message or "not supported on this" in message:
        pytest.skip("compute-sanitizer refuses this machine's device")
    assert done.returncode == 0, message[-3000:]
    assert "done" in done.stdout
