"""The CUDA kernels on a CPU: the very source, compiled by g++ under an emulation, against sums in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from laconvnet.kernels import dropout
from laconvnet.kernels.cuda.library import ConvArguments, DropoutArguments
from laconvnet.kernels.plain import taps
from tests.kernels.cuda_emulated import OnCpu
from tests.kernels.mask_reference import of_filters
from tests.kernels.tensors import Shape, agree, amid_nan, each, one_further, random_inputs

HALVES = (torch.float16, torch.bfloat16)
ALL = (torch.float32, torch.float64, *HALVES)


SHAPES = [  # B, C, H, W, k, g; the kernels' ways in the comment, a group's channels together and filters together
    (2, 16, 5, 9, 7, 2),  # 8 of a half
    (1, 8, 4, 6, 3, 2),  # 4
    (2, 12, 3, 5, 5, 2),  # 6 of a group: one by one; interleaved groups one by one
    (1, 16, 7, 3, 3, 4),  # interleaved: 4 filters at once
    (1, 16, 5, 6, 5, 8),  # interleaved: 4 filters at once; two channels a group
    (3, 5, 1, 1, 7, 5),  # one channel a group, one pixel
    (1, 4, 1, 13, 7, 4),  # one row
    (2, 8, 11, 1, 5, 1),  # one column
    (1, 8, 3, 7, 1, 2),  # no neighbours
    (1, 16, 6, 11, 9, 2),  # a size without code of its own
    (1, 64, 2, 3, 7, 64),  # a pixel's filters exceed shared memory
]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_gradients(library: OnCpu, shape: Shape, dtype: torch.dtype, interleaved: bool) -> None:
    grad, x, filters = random_inputs(shape, dtype)
    k, g = shape[4:]
    exact = each(Tensor.double, (grad, x, filters))
    wanted = taps.forward(*exact[1:], k, g, interleaved), *taps.backward(*exact, k, g, interleaved)
    grad, x, filters = (amid_nan(t) for t in (grad, x, filters))
    found = (
        library.dynamic_conv(x, filters, k, g, interleaved),
        *library.dynamic_conv_backward(grad, x, filters, k, g, interleaved),
    )
    for ours, theirs, terms in zip(found, wanted, (k * k, k * k, shape[1] // g), strict=True):
        assert ours.dtype == dtype
        assert ours.is_contiguous(memory_format=torch.channels_last)
        agree(ours, theirs, terms)


def test_many_strips_and_blocks(library: OnCpu) -> None:
    """More work than one round of the grid, rows that end inside a block of strips."""
    shape = (3, 8, 23, 18, 3, 2)
    grad, x, filters = random_inputs(shape, torch.float32)
    exact = each(Tensor.double, (grad, x, filters))
    agree(library.dynamic_conv(x, filters, 3, 2, False), taps.forward(*exact[1:], 3, 2, False), 9)
    found = library.dynamic_conv_backward(grad, x, filters, 3, 2, False)
    for ours, theirs in zip(found, taps.backward(*exact, 3, 2, False), strict=True):
        agree(ours, theirs, 9)


@pytest.mark.parametrize("dtype", HALVES)
def test_addresses_that_are_not_aligned(library: OnCpu, dtype: torch.dtype) -> None:
    """A view may begin anywhere: then one number at a time."""
    tensors = each(amid_nan, random_inputs((1, 16, 3, 5, 3, 4), dtype))
    grad, x, filters = tensors
    for interleaved in (False, True):
        wanted = library.dynamic_conv(x, filters, 3, 4, interleaved)
        grads = library.dynamic_conv_backward(grad, x, filters, 3, 4, interleaved)
        moved = each(one_further, tensors)
        assert moved[1].data_ptr() % 4 == 2
        torch.testing.assert_close(library.dynamic_conv(*moved[1:], 3, 4, interleaved), wanted)
        found = library.dynamic_conv_backward(*moved, 3, 4, interleaved)
        for ours, theirs in zip(found, grads, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("channels", [4, 1])
@pytest.mark.parametrize("side", [(5, 6), (1, 1), (1, 4)])
def test_memory_formats(library: OnCpu, channels: int, side: tuple[int, int]) -> None:
    """Results have the strides that the operator promises: those of torch.empty_like of the input."""
    tensors = tuple(
        t[..., :1].expand(t.shape).clone() for t in random_inputs((2, channels, *side, 3, 1), torch.float32)
    )

    def everything(grad: Tensor, x: Tensor, filters: Tensor) -> tuple[Tensor, ...]:
        return library.dynamic_conv(x, filters, 3, 1, False), *library.dynamic_conv_backward(
            grad, x, filters, 3, 1, False
        )

    wanted = everything(*tensors)
    layouts = (
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t.mT.contiguous().mT,
        lambda t: torch.cat([t, t], dim=1)[:, : t.shape[1]],
        lambda t: t[..., :1].expand(t.shape),
    )
    for layout in layouts:
        other = tuple(layout(t) for t in tensors)
        for ours, theirs, like in zip(everything(*other), wanted, (other[1], other[1], other[2]), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
            assert ours.stride() == torch.empty_like(like).stride()


def test_nothing_at_all(library: OnCpu) -> None:
    for shape in ((0, 4, 3, 3, 3, 2), (2, 4, 0, 3, 3, 2), (2, 4, 3, 0, 3, 2)):
        grad, x, filters = random_inputs(shape, torch.float32)
        assert library.dynamic_conv(x, filters, 3, 2, False).shape == x.shape
        found = library.dynamic_conv_backward(grad, x, filters, 3, 2, False)
        assert [t.shape for t in found] == [x.shape, filters.shape]
    grad, x, filters = random_inputs((2, 0, 3, 3, 3, 2), torch.float32)
    assert not library.dynamic_conv_backward(grad, x, filters, 3, 2, False)[1].any()


def test_what_lies_outside_is_never_multiplied(library: OnCpu) -> None:
    """A filter whose tap leaves the image may be infinite, and so may a gradient at the border."""
    grad, x, filters = random_inputs((1, 4, 3, 5, 3, 1), torch.float32)
    wanted = library.dynamic_conv(x, filters, 3, 1, False)
    grad_x, _ = library.dynamic_conv_backward(grad, x, filters, 3, 1, False)
    filters[:, :3, 0], filters[:, 6:, -1] = torch.inf, torch.inf
    filters[:, ::3, :, 0], filters[:, 2::3, :, -1] = torch.inf, torch.inf
    assert torch.equal(library.dynamic_conv(x, filters, 3, 1, False), wanted)
    assert torch.equal(library.dynamic_conv_backward(grad, x, filters, 3, 1, False)[0], grad_x)
    grad[:, :, 0, 0] = torch.inf
    assert (library.dynamic_conv_backward(grad, x, filters, 3, 1, False)[1][:, :3, 0] == 0).all()


KEYS = torch.tensor([0, -1, 2**62 + 12345])


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(
    ("k", "g", "height", "width"),
    [
        (1, 3, 4, 5),
        (3, 2, 7, 5),
        (3, 4, 40, 41),  # more tiles than blocks, which begin and end amid images
        (5, 2, 3, 9),
        (7, 3, 5, 7),
        (7, 1, 1, 1),
        (9, 2, 3, 5),  # more rows of taps than a block has
        (7, 24, 3, 2),  # a pixel's filters are many: no tile fits
    ],
)
def test_filters_are_dropped_by_the_rule(
    library: OnCpu, dtype: torch.dtype, k: int, g: int, height: int, width: int
) -> None:
    torch.manual_seed(0)
    values = (torch.rand(3, k * k * g, height, width) + 1).to(dtype)
    expected = values.clone()
    dropout.dropout_(expected, KEYS, k, g, 0.1)
    assert torch.equal(
        expected == 0, torch.stack([of_filters(int(key), height, width, k, g, 0.1) for key in KEYS]) == 0
    )
    for given in (amid_nan(values), values.clone(), one_further(values)):
        library.dropout_(given, KEYS, k, g, 0.1)
        assert torch.equal(given, expected)


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 32), (3, 4, 50, 16), (3, 7, 11, 13), (3, 0)])
def test_elements_are_dropped_by_the_rule(library: OnCpu, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = (torch.rand(shape) + 1).to(dtype)
    assert torch.equal(library.dropout(values, KEYS, 0.1), dropout.dropout(values, KEYS, 0.1))
    moved = torch.empty(values.numel() + 1, dtype=dtype)[1:].view(shape).copy_(values)
    assert torch.equal(library.dropout(moved, KEYS, 0.1), dropout.dropout(values, KEYS, 0.1))


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("do not fit kernel_size 3, groups 3", lambda lib, x, f: lib.dynamic_conv(x, f, 3, 3, False)),
        ("do not fit kernel_size 2", lambda lib, x, f: lib.dynamic_conv(x, f[:, :8], 2, 2, False)),
        ("no kernel for torch.int32", lambda lib, x, f: lib.dynamic_conv(x.int(), f.int(), 3, 2, False)),
        ("grad: expected the like of x", lambda lib, x, f: lib.dynamic_conv_backward(x[:, :2], x, f, 3, 2, False)),
        ("laconv_drop_filters_f32: p: .*1.0", lambda lib, x, f: lib.dropout_(f, KEYS[:1], 3, 2, 1.0)),
        ("laconv_drop_filters_f32: expected p > 0", lambda lib, x, f: lib.dropout_(f, KEYS[:1], 3, 2, 0.0)),
        ("laconv_drop_filters_f32: .*keys .1,. int64", lambda lib, x, f: lib.dropout_(f, KEYS[:2], 3, 2, 0.1)),
        ("do not fit kernel_size 3, groups 3", lambda lib, x, f: lib.dropout_(f, KEYS[:1], 3, 3, 0.1)),
        ("laconv_drop_elements_f32: .*int32", lambda lib, x, f: lib.dropout(f, KEYS[:1].int(), 0.1)),
        ("keys: expected the CPU", lambda lib, x, f: lib.dropout(f, KEYS[:1].to("meta"), 0.1)),
    ],
)
def test_what_does_not_fit_is_reported(
    library: OnCpu, words: str, call: Callable[[OnCpu, Tensor, Tensor], object]
) -> None:
    with pytest.raises(RuntimeError, match=words):
        call(library, torch.zeros(1, 4, 3, 3), torch.zeros(1, 18, 3, 3))


def test_an_error_code_names_kernel_and_sizes(library: OnCpu) -> None:
    x = torch.zeros(1, 4, 3, 3)
    arguments = ConvArguments(batch=1, height=3, width=3, channels=4, groups=3, kernel_size=3)
    with pytest.raises(RuntimeError, match=r"forward_f32_k3 on cpu \(batch 1, .*groups 3.*divide the channels"):
        library._launch("laconv_dynamic_conv_forward_f32_k3", arguments, x)
    arguments.kernel_size = 4
    with pytest.raises(RuntimeError, match="the kernel size is not odd"):
        library._launch("laconv_dynamic_conv_grad_filters_f16_any", arguments, x)
    dropping = DropoutArguments(images=1, elements=9, groups=1, kernel_size=3, threshold=256)
    with pytest.raises(RuntimeError, match=r"drop_filters_f32 on cpu \(images 1, .*threshold 256\): .*1 to 255"):
        library._launch("laconv_drop_filters_f32", dropping, x)
    dropping.elements = 10
    with pytest.raises(RuntimeError, match="a size"):
        library._launch("laconv_drop_filters_f32", dropping, x)


def test_not_a_library_of_ours(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"none\.so"):
        OnCpu(tmp_path / "none.so")
