"""Filters from the condition, their dropout, and that neither is ever kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from laconvnet import kernels
from laconvnet.kernels import chunks, cpu, dropout, plain
from laconvnet.kernels.bench.implementations import unfold_laconv
from laconvnet.kernels.filter_layout import FilterLayout

K, G = 3, 2
KEYS = torch.tensor([5, -9, 2**40, 3, 2**62])
# For calls with a row of tensors.
laconv: Callable[..., Tensor] = kernels.laconv
textbook_laconv: Callable[..., Tensor] = unfold_laconv
OPERATOR, BACKWARD = torch.ops.laconv.laconv.default, torch.ops.laconv.laconv_backward.default
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def inputs(
    batch: int = 2, height: int = 6, width: int = 6, dtype: torch.dtype = torch.float32, shared: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(batch, 4, height, width, dtype=dtype)
    cond = torch.randn(batch, 5, *((1, 1) if shared else (height, width)), dtype=dtype)
    return x, cond, torch.randn(K * K * G, 5, dtype=dtype), torch.randn(K * K * G, dtype=dtype)


def laid_out(tensors: tuple[Tensor, ...], layout: torch.memory_format) -> tuple[Tensor, ...]:
    """The same with the maps, x and cond, in this memory format."""
    return *(t.contiguous(memory_format=layout) for t in tensors[:2]), *tensors[2:]


def with_gradients(tensors: tuple[Tensor, ...], **options: Any) -> tuple[Tensor, ...]:
    """The output and the gradients of every input."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    out = laconv(*leaves, K, G, **options)
    torch.manual_seed(1)
    return out, *torch.autograd.grad(out, leaves, torch.randn_like(out))


def in_pieces(monkeypatch: pytest.MonkeyPatch, images: int, pixels: int, itemsize: int = 4) -> None:
    monkeypatch.setattr(chunks, "WORKSPACE", images * K * K * G * pixels * itemsize)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_projects_the_condition_and_convolves(dtype: torch.dtype, layout: torch.memory_format) -> None:
    x, cond, weight, bias = inputs(dtype=dtype)
    x, cond = (t.contiguous(memory_format=layout) for t in (x, cond))
    filters = torch.einsum("bmhw,om->bohw", cond, weight) + bias[:, None, None]
    out = kernels.laconv(x, cond, weight, bias, K, G)
    torch.testing.assert_close(out, kernels.dynamic_conv(x, filters, K, G))
    assert out.stride() == torch.empty_like(x).stride()
    without = kernels.laconv(x, cond, weight, None, K, G)
    torch.testing.assert_close(without, kernels.dynamic_conv(x, filters - bias[:, None, None], K, G))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_those_of_the_textbook(interleaved: bool, layout: torch.memory_format) -> None:
    tensors = laid_out(inputs(3, 5, 9), layout)
    found = with_gradients(tensors, interleaved=interleaved)
    # Channel j * g + group of the interleaved layout is channel group * n + j of the contiguous one.
    order = torch.arange(4).view(2, G).T.flatten() if interleaved else torch.arange(4)
    leaves = [t.detach().double().requires_grad_() for t in tensors]
    out = textbook_laconv(leaves[0][:, order], *leaves[1:], K, G)[:, order.argsort()]
    torch.manual_seed(1)
    expected = torch.autograd.grad(out, leaves, torch.randn_like(found[0]).double())
    for a, b in zip(found, (out, *expected), strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-4, atol=1e-4)
    for a, b in zip(found[1:], tensors, strict=True):
        assert a.stride() == torch.empty_like(b).stride()


@pytest.mark.parametrize("interleaved", [False, True])
def test_one_condition_for_all_pixels(interleaved: bool) -> None:
    tensors = inputs(3, 4, 7, torch.float64, shared=True)
    found = with_gradients(tensors, interleaved=interleaved)
    x, cond, *rest = tensors
    spread = with_gradients((x, cond.expand(-1, -1, 4, 7), *rest), interleaved=interleaved)
    expected = list(spread)
    expected[2] = spread[2].sum((2, 3), keepdim=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    # The same filters everywhere make it an ordinary grouped convolution of each image.
    weight, bias = rest
    filters = F.conv2d(cond, weight[:, :, None, None], bias)[0].view(9, G).T.view(G, 1, 3, 3)
    each = filters.repeat(2, 1, 1, 1) if interleaved else filters.repeat_interleave(2, 0)
    torch.testing.assert_close(found[0][:1], F.conv2d(x[:1], each, padding=1, groups=4))


def test_one_condition_for_all_pixels_makes_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "forward", None)
    monkeypatch.setattr(chunks, "backward", None)
    with_gradients(inputs(shared=True), dropout_p=0.2, keys=KEYS[:2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_chunks_of_images_change_nothing(dtype: torch.dtype, p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = inputs(5, 7, 3, dtype)
    whole = with_gradients(tensors, dropout_p=p, keys=KEYS[:5])
    in_pieces(monkeypatch, 2, 21, dtype.itemsize)
    assert [(part.start, part.stop) for part in chunks.slices(5, 18 * 21 * dtype.itemsize)] == [(0, 2), (2, 4), (4, 5)]
    pieces = with_gradients(tensors, dropout_p=p, keys=KEYS[:5])
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(whole[0] == 0, pieces[0] == 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_filters_lie_as_the_device_wants_them(layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes on a CPU, channels-last elsewhere: the backend sees them so, without a copy, and results are the same."""
    tensors = laid_out(inputs(3, 5, 4), layout)
    planes = with_gradients(tensors)
    seen: list[Tensor] = []
    convolve: Callable[..., Tensor] = plain.dynamic_conv

    def watched(x: Tensor, filters: Tensor, *rest: object) -> Tensor:
        seen.append(filters)
        return convolve(x, filters, *rest)

    monkeypatch.setattr(cpu, "ready", lambda: None)
    monkeypatch.setattr(plain, "dynamic_conv", watched)
    laconv(*tensors, K, G)
    assert seen[0].transpose(0, 1).is_contiguous()
    monkeypatch.setattr(plain, "filter_layout", lambda *arguments: FilterLayout.PIXELS)
    for a, b in zip(with_gradients(tensors), planes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert seen[1].is_contiguous(memory_format=torch.channels_last)


def test_filters_of_a_chunk_stay_below_the_workspace() -> None:
    for images, size in ((64, 10_000), (3, 2**30), (7, 2**23), (0, 5), (5, 0)):
        parts = list(chunks.slices(images, size))
        assert [i for part in parts for i in range(images)[part]] == list(range(images))
        assert all(part.stop - part.start == 1 or (part.stop - part.start) * size <= 24 * 2**20 for part in parts)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_gradcheck(shared: bool, interleaved: bool, p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    in_pieces(monkeypatch, 2, 15, 8)
    leaves = tuple(t.requires_grad_() for t in inputs(3, 5, 3, torch.float64, shared))

    def layer(*tensors: Tensor | None) -> Tensor:
        return laconv(*tensors, K, G, p, KEYS[:3], interleaved)

    assert torch.autograd.gradcheck(layer, leaves, fast_mode=True)
    assert torch.autograd.gradcheck(lambda *t: layer(*t[:3], None), leaves[:3], fast_mode=True)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_only_inputs_are_kept_for_backward(p: float) -> None:
    kept: list[Tensor] = []
    leaves = [t.requires_grad_() for t in inputs()]
    keys = KEYS[:2].clone()

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        laconv(*leaves, K, G, p, keys)
    assert [t.data_ptr() for t in kept] == [t.data_ptr() for t in (*leaves, *((keys,) if p else ()))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shared", [False, True])
def test_half_precision_is_no_worse_than_pytorch(dtype: torch.dtype, shared: bool) -> None:
    rounded = tuple(t.to(dtype) for t in inputs(2, 8, 9, shared=shared))
    found = with_gradients(rounded)
    assert all(t.dtype == dtype for t in found)

    def textbook(*tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = [t.detach().requires_grad_() for t in tensors]
        x, cond, weight, bias = leaves
        out = unfold_laconv(x, cond.expand(-1, -1, *x.shape[2:]), weight, bias, K, G)
        torch.manual_seed(1)
        grad = torch.randn_like(found[0])
        return out, *torch.autograd.grad(out, leaves, grad.to(out.dtype))

    exact, pytorchs = textbook(*(t.double() for t in rounded)), textbook(*rounded)
    for factor, ours, theirs, wanted in zip((2, 3, 3, 3, 3), found, pytorchs, exact, strict=True):
        assert (ours - wanted).norm() <= factor * (theirs - wanted).norm() + 1e-3 * wanted.norm()


def test_sums_over_pixels_are_kept_in_float32() -> None:
    """The gradient of the bias is a sum of a thousand ones in every image: bfloat16 would stop counting at 256."""
    x = torch.ones(2, 2, 32, 32, dtype=torch.bfloat16)
    cond, weight = torch.zeros(2, 1, 32, 32, dtype=torch.bfloat16), torch.zeros(1, 1, dtype=torch.bfloat16)
    bias = torch.zeros(1, dtype=torch.bfloat16, requires_grad=True)
    kernels.laconv(x, cond, weight, bias, 1, 1).sum().backward()
    assert bias.grad is not None
    assert bias.grad.item() == 4096


def test_empty_batch() -> None:
    for shared in (False, True):
        tensors = inputs(0, shared=shared)
        out, *grads = with_gradients(tensors, dropout_p=0.1, keys=KEYS[:0])
        assert out.shape == tensors[0].shape
        assert [g.shape for g in grads] == [t.shape for t in tensors]
        assert not grads[2].any()


# Dropout


def test_dropout_follows_the_key_of_the_image_and_nothing_else() -> None:
    tensors = inputs()
    first = laconv(*tensors, K, G, dropout_p=0.3, keys=torch.tensor([5, 6]))
    state = torch.get_rng_state()
    again = laconv(*tensors, K, G, dropout_p=0.3, keys=torch.tensor([5, 0, 6])[::2])
    assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())
    for other in (7, 6 + 2**32, 5):
        changed = laconv(*tensors, K, G, dropout_p=0.3, keys=torch.tensor([5, other]))
        assert torch.equal(first[0], changed[0])
        assert not torch.equal(first[1], changed[1])


@pytest.mark.parametrize("shared", [False, True])
def test_dropout_takes_filters_not_results(shared: bool) -> None:
    """With the mask applied by hand, forward and all gradients are the same."""
    tensors = inputs(3, 5, 4, torch.float64, shared)
    found = with_gradients(tensors, dropout_p=0.3, keys=KEYS[:3])
    mask = torch.ones(3, K * K * G, *tensors[1].shape[2:], dtype=torch.float64)
    dropout.dropout_(mask, KEYS[:3], K, G, 0.3)
    leaves = [t.detach().requires_grad_() for t in tensors]
    x, cond, weight, bias = leaves
    filters = (F.conv2d(cond, weight[:, :, None, None], bias) * mask).expand(-1, -1, *x.shape[2:])
    out = kernels.dynamic_conv(x, filters, K, G)
    torch.manual_seed(1)
    expected = torch.autograd.grad(out, leaves, torch.randn_like(out))
    for a, b in zip(found, (out, *expected), strict=True):
        torch.testing.assert_close(a, b)


def test_a_recomputed_forward_sees_the_same_mask() -> None:
    x, cond, weight, bias = inputs()
    weight.requires_grad_()

    def run() -> Tensor:
        keys = torch.randint(2**62, (2,))
        return kernels.laconv(x, cond, weight, bias, K, G, dropout_p=0.5, keys=keys).square().sum()

    torch.manual_seed(3)
    (plain,) = torch.autograd.grad(run(), weight)
    torch.manual_seed(3)
    (recomputed,) = torch.autograd.grad(checkpoint(run, use_reentrant=False), weight)
    assert torch.equal(plain, recomputed)


# What PyTorch's other parts demand


WITHOUT_COMPILING = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_registered_as_pytorch_demands(layout: torch.memory_format) -> None:
    for shared in (False, True):
        tensors = inputs(2, 5, 6, shared=shared)
        x, cond, weight, bias = (tensors[0].contiguous(memory_format=layout), *tensors[1:])
        leaves = [t.detach().requires_grad_() for t in (x, cond, weight, bias)]
        dropped, plain = (K, G, 0.3, KEYS[:2], False), (None, K, G, 0.0, None, True)
        torch.library.opcheck(OPERATOR, (*leaves, *dropped), test_utils=WITHOUT_COMPILING)
        torch.library.opcheck(OPERATOR, (*leaves[:3], *plain), test_utils=WITHOUT_COMPILING)
        grad = torch.randn_like(x)
        for wanted in ([True] * 4, [False, True, False, True], [True, False, False, False], [False] * 4):
            inputs_of_backward = (grad, x, cond, weight, bias, *dropped, wanted)
            torch.library.opcheck(BACKWARD, inputs_of_backward, test_utils=WITHOUT_COMPILING)
        torch.library.opcheck(BACKWARD, (grad, x, cond, weight, *plain, [True] * 4), test_utils=WITHOUT_COMPILING)


def test_traced_by_the_compiler_as_pytorch_demands() -> None:
    leaves = [t.requires_grad_() for t in inputs(2, 5, 6)]
    torch.library.opcheck(OPERATOR, (*leaves, K, G, 0.3, KEYS[:2], False))


def test_compiles_into_one_graph_of_any_shape() -> None:
    def step(*tensors: Tensor) -> Tensor:
        return laconv(*tensors, K, G, 0.3, KEYS[: len(tensors[0])]).relu().sum()

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 5, 6), (3, 9, 4)):
        leaves = [t.requires_grad_() for t in inputs(*shape)]
        torch.testing.assert_close(compiled(*leaves), step(*leaves))
        expected = torch.autograd.grad(step(*leaves), leaves)
        for got, wanted in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
            torch.testing.assert_close(got, wanted)


def test_exports_as_one_operator() -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, cond: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return kernels.laconv(x, cond, weight, bias, K, G)

    tensors = inputs()
    exported = torch.export.export(Layer(), tensors)
    called = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert called == [OPERATOR]
    torch.testing.assert_close(exported.module()(*tensors), Layer()(*tensors))


def test_autocast_takes_all_inputs_in_its_type() -> None:
    tensors = inputs()
    leaves = [t.requires_grad_() for t in tensors]
    with torch.autocast("cpu", torch.bfloat16):
        out = laconv(leaves[0], leaves[1].bfloat16(), *leaves[2:], K, G)
        grads = torch.autograd.grad(out.sum(), leaves)  # within: nothing inside the operator may be cast again
    halves = tuple(t.detach().bfloat16().requires_grad_() for t in tensors)
    expected = laconv(*halves, K, G)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    for a, b in zip(grads, torch.autograd.grad(expected.sum(), halves), strict=True):
        torch.testing.assert_close(a, b.float(), rtol=0, atol=0)
    assert [g.dtype for g in grads] == [torch.float32] * 4


def test_differentiable_once() -> None:
    leaves = [t.requires_grad_() for t in inputs()]
    (grad,) = torch.autograd.grad(laconv(*leaves, K, G).square().sum(), leaves[2], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(grad.sum(), leaves[0])


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("x", {"x": torch.zeros(4, 6, 6)}),
        ("x", {"x": torch.zeros(2, 4, 6, 6, dtype=torch.int64)}),
        ("cond", {"cond": torch.zeros(5, 6, 6)}),
        ("cond", {"cond": torch.zeros(1, 5, 6, 6)}),
        ("cond", {"cond": torch.zeros(2, 5, 6, 1)}),
        ("cond", {"cond": torch.zeros(2, 5, 6, 6).double()}),
        ("cond", {"cond": torch.zeros(2, 5, 6, 6, device="meta")}),
        ("weight", {"weight": torch.zeros(18, 4)}),
        ("weight", {"weight": torch.zeros(19, 5)}),
        ("weight", {"weight": torch.zeros(18, 5, 1, 1)}),
        ("weight", {"weight": torch.zeros(18, 5).half()}),
        ("weight", {"weight": torch.zeros(18, 5, device="meta")}),
        ("bias", {"bias": torch.zeros(17)}),
        ("bias", {"bias": torch.zeros(18, 1)}),
        ("bias", {"bias": torch.zeros(18).double()}),
        ("bias", {"bias": torch.zeros(18, device="meta")}),
        ("kernel_size", {"kernel_size": 4}),
        ("kernel_size", {"kernel_size": -1}),
        ("groups", {"groups": 3}),
        ("groups", {"groups": 0}),
        ("dropout_p", {"dropout_p": 1.0}),
        ("dropout_p", {"dropout_p": -0.1}),
        ("dropout_p", {"dropout_p": math.nan}),
        ("dropout_p", {"dropout_p": 0.001}),
        ("dropout_p", {"dropout_p": 0.999}),
        ("keys", {"dropout_p": 0.1}),
        ("keys", {"dropout_p": 0.1, "keys": torch.zeros(2)}),
        ("keys", {"dropout_p": 0.1, "keys": torch.zeros(2, dtype=torch.int32)}),
        ("keys", {"dropout_p": 0.1, "keys": torch.zeros(3, dtype=torch.int64)}),
        ("keys", {"dropout_p": 0.1, "keys": torch.zeros((), dtype=torch.int64)}),
        ("keys", {"dropout_p": 0.1, "keys": torch.zeros(2, dtype=torch.int64, device="meta")}),
    ],
)
def test_what_does_not_fit_is_named(argument: str, change: dict[str, Any]) -> None:
    x, cond, weight, bias = inputs()
    arguments: dict[str, Any] = {"x": x, "cond": cond, "weight": weight, "bias": bias, "kernel_size": K, "groups": G}
    with pytest.raises(ValueError, match=f"^{argument}: "):
        kernels.laconv(**arguments | change)
