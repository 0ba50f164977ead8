"""The CUDA kernels on a CPU: the very source, compiled by g++ under an emulation, against sums in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from laconvnet.kernels.plain import taps
from tests.kernels.cuda_emulated import OnCpu, build_emulated
from tests.kernels.tensors import Shape, Three, each

HALVES = (torch.float16, torch.bfloat16)
ALL = (torch.float32, torch.float64, *HALVES)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> OnCpu:
    return OnCpu(build_emulated(tmp_path_factory.mktemp("emulated")))


def amid_nan(values: Tensor) -> Tensor:
    """The same values, channels last, with NaN before and behind: what is read there spoils a result."""
    last = values.permute(0, 2, 3, 1).contiguous()
    room = torch.full((last.numel() + 128,), torch.nan, dtype=values.dtype)
    inner = room[64 : 64 + last.numel()].view(last.shape).copy_(last)
    return inner.permute(0, 3, 1, 2)


def inputs(shape: Shape, dtype: torch.dtype) -> Three:
    b, c, h, w, k, g = shape
    torch.manual_seed(h * w + k)
    x, grad = torch.randn(b, c, h, w).to(dtype), torch.randn(b, c, h, w).to(dtype)
    return grad, x, torch.randn(b, k * k * g, h, w).to(dtype)


def agree(found: Tensor, exact: Tensor, terms: int) -> None:
    """Accumulated in float32 and rounded once: the error of a sum of `terms` products, and half a unit of the type."""
    wide = 1e-13 if found.dtype == torch.float64 else 1e-6
    allowed = exact.abs() * torch.finfo(found.dtype).eps / 2 + wide * terms**0.5 * 4
    error = (found.double() - exact).abs()
    assert (error <= allowed).all(), f"{error.max()} at {error.argmax()}"


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
    grad, x, filters = inputs(shape, dtype)
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
    grad, x, filters = inputs(shape, torch.float32)
    exact = each(Tensor.double, (grad, x, filters))
    agree(library.dynamic_conv(x, filters, 3, 2, False), taps.forward(*exact[1:], 3, 2, False), 9)
    found = library.dynamic_conv_backward(grad, x, filters, 3, 2, False)
    for ours, theirs in zip(found, taps.backward(*exact, 3, 2, False), strict=True):
        agree(ours, theirs, 9)


def one_further(tensor: Tensor) -> Tensor:
    """The same values, channels last, one number behind an aligned address."""
    last = tensor.permute(0, 2, 3, 1)
    room = torch.full((last.numel() + 1,), torch.nan, dtype=tensor.dtype)
    return room[1:].view(last.shape).copy_(last).permute(0, 3, 1, 2)


@pytest.mark.parametrize("dtype", HALVES)
def test_addresses_that_are_not_aligned(library: OnCpu, dtype: torch.dtype) -> None:
    """A view may begin anywhere: then one number at a time."""
    tensors = each(amid_nan, inputs((1, 16, 3, 5, 3, 4), dtype))
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
    tensors = tuple(t[..., :1].expand(t.shape).clone() for t in inputs((2, channels, *side, 3, 1), torch.float32))

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
        grad, x, filters = inputs(shape, torch.float32)
        assert library.dynamic_conv(x, filters, 3, 2, False).shape == x.shape
        found = library.dynamic_conv_backward(grad, x, filters, 3, 2, False)
        assert [t.shape for t in found] == [x.shape, filters.shape]
    grad, x, filters = inputs((2, 0, 3, 3, 3, 2), torch.float32)
    assert not library.dynamic_conv_backward(grad, x, filters, 3, 2, False)[1].any()


def test_what_lies_outside_is_never_multiplied(library: OnCpu) -> None:
    """A filter whose tap leaves the image may be infinite, and so may a gradient at the border."""
    grad, x, filters = inputs((1, 4, 3, 5, 3, 1), torch.float32)
    wanted = library.dynamic_conv(x, filters, 3, 1, False)
    grad_x, _ = library.dynamic_conv_backward(grad, x, filters, 3, 1, False)
    filters[:, :3, 0], filters[:, 6:, -1] = torch.inf, torch.inf
    filters[:, ::3, :, 0], filters[:, 2::3, :, -1] = torch.inf, torch.inf
    assert torch.equal(library.dynamic_conv(x, filters, 3, 1, False), wanted)
    assert torch.equal(library.dynamic_conv_backward(grad, x, filters, 3, 1, False)[0], grad_x)
    grad[:, :, 0, 0] = torch.inf
    assert (library.dynamic_conv_backward(grad, x, filters, 3, 1, False)[1][:, :3, 0] == 0).all()


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("side", [8, 5])  # whole octets an image, and a rest
def test_dropout(library: OnCpu, dtype: torch.dtype, side: int) -> None:
    filters = torch.full((5, 18, side, side), 1.5, dtype=dtype)
    whole = filters.clone(memory_format=torch.channels_last)
    library.dropout_(whole, torch.tensor(7), 0, 0.25)
    kept = whole != 0
    assert whole[kept].unique().tolist() == [2.0]
    count = whole.numel()
    assert abs(kept.sum().item() / count - 0.75) < 4 * (0.25 * 0.75 / count) ** 0.5
    per_image = kept.flatten(1)
    assert not any(torch.equal(per_image[0], per_image[i]) for i in range(1, 5))

    parts = [filters[:2].clone(), filters[2:].clone(memory_format=torch.channels_last)]
    library.dropout_(parts[0], torch.tensor(7), 0, 0.25)
    library.dropout_(parts[1], torch.tensor(7), 2, 0.25)
    assert torch.equal(torch.cat(parts), whole)
    other = filters.clone()
    library.dropout_(other, torch.tensor(8), 0, 0.25)
    assert not torch.equal(other, whole)
    library.dropout_(other, torch.tensor(8), 0, 0.0)
    assert (other != 0).sum() < count


def test_dropout_bits_are_philox(library: OnCpu) -> None:
    """The known answer of Philox4x32-10 for counter and key of zeros (Salmon et al., kat_vectors), in 16-bit pieces."""
    words = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    pieces = [word >> shift & 0xFFFF for word in words for shift in (0, 16)]
    for i, piece in enumerate(pieces):
        for p, kept in ((piece / 65536, True), ((piece + 1) / 65536, False)):
            values = torch.ones(1, 8, 1, 1)
            library.dropout_(values, torch.tensor(0), 0, p)
            assert bool(values[0, i, 0, 0] != 0) == kept


def test_dropout_takes_wide_seeds_and_image_numbers(library: OnCpu) -> None:
    masks = []
    for seed, image in ((1, 0), (1 + 2**32, 0), (-1, 0), (1, 1), (1, 2**32), (1, 2**33)):
        values = torch.ones(1, 64, 2, 2)
        library.dropout_(values, torch.tensor(seed), image, 0.5)
        masks.append(tuple(values.flatten().tolist()))
    assert len(set(masks)) == len(masks)


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("do not fit kernel_size 3, groups 3", lambda lib, x, f: lib.dynamic_conv(x, f, 3, 3, False)),
        ("do not fit kernel_size 2", lambda lib, x, f: lib.dynamic_conv(x, f[:, :8], 2, 2, False)),
        ("no kernel for torch.int32", lambda lib, x, f: lib.dynamic_conv(x.int(), f.int(), 3, 2, False)),
        ("grad: expected the like of x", lambda lib, x, f: lib.dynamic_conv_backward(x[:, :2], x, f, 3, 2, False)),
        ("laconv_dropout_f32: expected p in", lambda lib, x, f: lib.dropout_(f, torch.tensor(1), 0, 1.0)),
        ("laconv_dropout_f32: expected p in", lambda lib, x, f: lib.dropout_(f, torch.zeros(2).long(), 0, 0.1)),
        ("seed: expected the CPU", lambda lib, x, f: lib.dropout_(f, torch.zeros(1).long().to("meta"), 0, 0.1)),
    ],
)
def test_what_does_not_fit_is_reported(
    library: OnCpu, words: str, call: Callable[[OnCpu, Tensor, Tensor], object]
) -> None:
    with pytest.raises(RuntimeError, match=words):
        call(library, torch.zeros(1, 4, 3, 3), torch.zeros(1, 18, 3, 3))


def test_an_error_code_names_kernel_and_sizes(library: OnCpu) -> None:
    x = torch.zeros(1, 4, 3, 3)
    from laconvnet.kernels.cuda.library import ConvArguments

    arguments = ConvArguments(batch=1, height=3, width=3, channels=4, groups=3, kernel_size=3)
    with pytest.raises(RuntimeError, match=r"forward_f32_k3 on cpu \(batch 1, .*groups 3.*divide the channels"):
        library._launch("laconv_dynamic_conv_forward_f32_k3", arguments, x)
    arguments.kernel_size = 4
    with pytest.raises(RuntimeError, match="the kernel size is not odd"):
        library._launch("laconv_dynamic_conv_grad_filters_f16_any", arguments, x)


def test_not_a_library_of_ours(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"none\.so"):
        OnCpu(tmp_path / "none.so")
