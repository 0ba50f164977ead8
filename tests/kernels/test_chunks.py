"""What the operator computes and where it writes it: gradients only where asked, results in their place, filters in the
order that the kernels want."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from laconvnet import kernels
from laconvnet.kernels import backend as backends
from laconvnet.kernels import chunks, cpu, operator, plain, shared_filters
from laconvnet.kernels.backend import Backend
from laconvnet.kernels.bench.implementations import unfold_laconv
from laconvnet.kernels.filter_layout import FilterLayout
from laconvnet.kernels.recipe import Recipe
from tests.kernels import compilers
from tests.kernels.cuda_emulated import OnCpu

LAST = torch.channels_last
NAMES = ("x", "cond", "weight", "bias")
FUNCTIONS = ("dynamic_conv", "dynamic_conv_backward", "grad_x", "grad_filters")
# For calls with a row of tensors.
textbook: Callable[..., Tensor] = unfold_laconv
laconv: Callable[..., Tensor] = kernels.laconv
dynamic_conv: Callable[..., Tensor] = kernels.dynamic_conv

Tensors = tuple[Tensor, Tensor, Tensor, Tensor]


def inputs(k: int = 3, g: int = 2, channels: int = 8, dtype: torch.dtype = torch.float32) -> Tensors:
    """x, cond, weight, bias of five images of 5 x 6 pixels, the maps channels last."""
    torch.manual_seed(k)
    x, cond = (torch.randn(5, c, 5, 6).to(dtype).contiguous(memory_format=LAST) for c in (channels, 6))
    return x, cond, torch.randn(k * k * g, 6).to(dtype), torch.randn(k * k * g).to(dtype)


def recipe(tensors: Tensors, k: int, g: int, interleaved: bool = False) -> Recipe:
    return Recipe(*tensors[2:], k, g, 0.0, None, interleaved)


def plain_backend() -> Backend:
    return backends.PLAIN


def compiled_cpu() -> Backend:
    native: Any = cpu.ready() or compilers.missing("no C++ compiler here")
    return native  # type: ignore[no-any-return]


@pytest.fixture
def in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images at a time, whatever their size."""
    pairs = (slice(0, 2), slice(2, 4), slice(4, 5))
    monkeypatch.setattr(chunks, "slices", lambda images, size: iter(pairs))


@pytest.fixture
def as_on_a_gpu(library: OnCpu, monkeypatch: pytest.MonkeyPatch) -> OnCpu:
    """The operator takes the emulated CUDA library, and computes in the type of its inputs."""
    monkeypatch.setattr(chunks, "_wide_product", lambda a, b, dtype: a.to(dtype) @ b.to(dtype))
    monkeypatch.setattr(chunks, "FEW_PRODUCTS", 0)
    for module in (operator, chunks):
        monkeypatch.setattr(module, "computing_dtype", lambda backend, device, dtype: dtype)
    monkeypatch.setattr(operator, "backend", lambda device, dtype: library)
    return library


class Operations(TorchDispatchMode):
    """Counts ATen's operations, and lists the sizes of the copies among them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()
        self.copied: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        name = function.overloadpacket.__name__
        self.counts[name] += 1
        if name in ("copy_", "clone", "_to_copy"):
            self.copied.append(result.numel())
        return result


# The CUDA path as a whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("k", "g", "channels"), [(3, 2, 8), (5, 1, 12), (7, 2, 16), (7, 2, 4), (9, 1, 8)])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.usefixtures("in_chunks", "as_on_a_gpu")
def test_projected_filters_meet_the_kernels_in_their_order(
    k: int, g: int, channels: int, dtype: torch.dtype, interleaved: bool
) -> None:
    tensors = inputs(k, g, channels, dtype)
    leaves = [t.detach().requires_grad_() for t in tensors]
    out = laconv(*leaves, k, g, interleaved=interleaved)
    torch.manual_seed(1)
    grad = torch.randn(out.shape).to(dtype).contiguous(memory_format=LAST)
    found = out, *torch.autograd.grad(out, leaves, grad)

    def by_pytorch(*values: Tensor) -> tuple[Tensor, ...]:
        order = torch.arange(channels)
        order = order.view(-1, g).T.flatten() if interleaved else order
        own = [t.detach().requires_grad_() for t in values]
        result = textbook(own[0][:, order], *own[1:], k, g)[:, order.argsort()]
        return result, *torch.autograd.grad(result, own, grad.to(result.dtype))

    exact, theirs = by_pytorch(*(t.double() for t in tensors)), by_pytorch(*tensors)
    for factor, ours, other, wanted in zip((2, 3, 3, 3, 3), found, theirs, exact, strict=True):
        assert ours.dtype == dtype
        assert (ours - wanted).norm() <= factor * (other - wanted).norm() + 1e-6 * wanted.norm()


@pytest.mark.usefixtures("in_chunks")
def test_padded_rows_come_out_of_the_projection(library: OnCpu, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Size, FilterLayout]] = []
    convolve = library.dynamic_conv

    def watched(x: Tensor, filters: Tensor, *rest: Any) -> Tensor:
        assert filters.is_contiguous(memory_format=LAST)
        seen.append((filters.shape, rest[3]))
        return convolve(x, filters, *rest)

    monkeypatch.setattr(library, "dynamic_conv", watched)
    tensors = inputs(7, 2, 16)
    for interleaved in (False, True):
        chunks.forward(library, *tensors[:2], recipe(tensors, 7, 2, interleaved=interleaved))
    assert seen[0] == ((2, 2 * 7 * 8, 5, 6), FilterLayout.PADDED_ROWS)
    assert seen[3] == ((2, 2 * 7 * 7, 5, 6), FilterLayout.PIXELS)


# Nothing is copied


@pytest.mark.parametrize("way", ["cuda", "cpu"])
@pytest.mark.usefixtures("in_chunks")
def test_no_chunk_is_copied(way: str, request: pytest.FixtureRequest) -> None:
    """Neither the results nor the inputs; weights are, once, where their rows are put in order."""
    implementation = request.getfixturevalue("library") if way == "cuda" else compiled_cpu()
    tensors = inputs(7, 2, 16)
    x, cond, *_ = tensors
    smallest = min(x[:1].numel(), cond[:1].numel())  # of the last chunk: one image
    for channels_last in (True, False):
        source = x if channels_last or way == "cuda" else x.contiguous()
        with Operations() as operations:
            chunks.forward(implementation, source, cond, recipe(tensors, 7, 2))
            chunks.backward(implementation, torch.ones_like(source), source, cond, recipe(tensors, 7, 2))
        weights = tensors[2].numel()
        assert [size for size in operations.copied if size >= smallest and size != weights] == []
        assert operations.counts["mm"] + operations.counts["addmm"] >= 6  # it does see what happens


@pytest.mark.usefixtures("in_chunks")
def test_a_copied_chunk_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = inputs()
    with Operations() as operations:
        chunks.forward(plain_backend(), *tensors[:2], recipe(tensors, 3, 2))
    assert operations.copied.count(tensors[0][:2].numel()) >= 2


# Only what is asked for


class Watched:
    """A backend that counts its calls."""

    def __init__(self, implementation: Any) -> None:
        self.implementation, self.calls = implementation, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        if name in FUNCTIONS:
            self.calls[name] += 1
        return getattr(self.implementation, name)


SUBSETS = [set(names) for count in range(1, 5) for names in itertools.combinations(NAMES, count)]


@pytest.mark.parametrize("asked", SUBSETS, ids=lambda names: "+".join(sorted(names)))
@pytest.mark.parametrize("way", ["plain", "cpu", "cuda"])
@pytest.mark.usefixtures("in_chunks")
def test_backends_compute_only_what_is_asked_for(
    way: str, asked: set[str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    implementation = plain_backend() if way == "plain" else compiled_cpu() if way == "cpu" else None
    watched = Watched(implementation or request.getfixturevalue("library"))
    monkeypatch.setattr(operator, "backend", lambda device, dtype: watched)
    projected: list[int] = []
    filters = chunks.Projection.filters

    def counted(self: chunks.Projection, cond: Tensor) -> Tensor:
        projected.append(len(cond))
        return filters(self, cond)

    monkeypatch.setattr(chunks.Projection, "filters", counted)
    tensors = inputs()
    leaves = [t.detach().requires_grad_() for t in tensors]
    everything = torch.autograd.grad(laconv(*leaves, 3, 2).sum(), leaves)
    leaves = [t.detach().requires_grad_(name in asked) for name, t in zip(NAMES, tensors, strict=True)]
    out = laconv(*leaves, 3, 2)
    watched.calls.clear()
    projected.clear()
    out.sum().backward()
    function = "grad_filters" if "x" not in asked else "grad_x" if asked == {"x"} else "dynamic_conv_backward"
    assert watched.calls == {function: 3}
    assert projected == ([2, 2, 1] if "x" in asked else [])
    for name, leaf, wanted in zip(NAMES, leaves, everything, strict=True):
        assert (leaf.grad is not None) == (name in asked)
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, wanted)


@pytest.mark.parametrize(
    ("wanted", "products"),
    [
        ((False, False, False, True), 0),
        ((False, True, False, False), 3),
        ((False, False, True, True), 3),
        ((False, True, True, True), 6),
        ((True, False, False, False), 3),  # the filters
        ((False,) * 4, 0),
    ],
)
@pytest.mark.usefixtures("in_chunks")
def test_matrix_products_only_where_asked(wanted: tuple[bool, ...], products: int) -> None:
    tensors = inputs()
    x, cond = tensors[:2]
    with Operations() as operations:
        grads = chunks.backward(compiled_cpu(), x, x, cond, recipe(tensors, 3, 2), wanted)
    counts = operations.counts
    assert counts["mm"] + counts["addmm"] + counts["addmm_"] == products
    assert [grad is not None for grad in grads] == list(wanted)


@pytest.mark.parametrize("wanted", list(itertools.product((False, True), repeat=4)))
def test_shared_filters_compute_only_what_is_asked_for(
    wanted: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, cond, weight, bias = inputs()
    tensors = x, cond[..., :1, :1].contiguous(), weight, bias
    x, cond = tensors[:2]
    masks: list[list[bool]] = []
    backward = torch.ops.aten.convolution_backward

    def watched(*arguments: Any) -> Any:
        masks.append(arguments[-1])
        return backward(*arguments)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", watched)
    everything = shared_filters.backward(plain_backend(), x, x, cond, recipe(tensors, 3, 2))
    grads = shared_filters.backward(plain_backend(), x, x, cond, recipe(tensors, 3, 2), wanted)
    assert masks[1:] == ([[wanted[0], any(wanted[1:]), False]] if any(wanted) else [])
    for grad, whole, one in zip(grads, everything, wanted, strict=True):
        assert (grad is not None) == one
        if grad is not None and whole is not None:
            torch.testing.assert_close(grad, whole)


@pytest.mark.parametrize("asked", [{"x"}, {"filters"}, {"x", "filters"}], ids=lambda names: "+".join(sorted(names)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_given_filters_too(asked: set[str], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(compiled_cpu())
    monkeypatch.setattr(operator, "backend", lambda device, device_type: watched)
    x, filters = torch.randn(2, 4, 5, 9).to(dtype), torch.randn(2, 18, 5, 9).to(dtype)
    leaves = [t.requires_grad_(name in asked) for name, t in (("x", x), ("filters", filters))]
    out = dynamic_conv(*leaves, 3, 2)
    watched.calls.clear()
    torch.manual_seed(2)
    grad = torch.randn(out.shape).to(dtype)
    out.backward(grad)
    function = "dynamic_conv_backward" if len(asked) == 2 else "grad_x" if "x" in asked else "grad_filters"
    assert watched.calls == {function: 1}
    exact = plain.dynamic_conv_backward(grad.double(), x.detach().double(), filters.detach().double(), 3, 2, False)
    for leaf, wanted in zip(leaves, exact, strict=True):
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, wanted.to(dtype))
