"""Where the fused kernels serve: beside the dependable path, on the library under the emulation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from laconvnet.kernels import chunks, fused
from laconvnet.kernels.backend import KernelsMissing, choose
from laconvnet.kernels.cuda.fused import PACKED_SHAPES, Fused, reads_packed
from laconvnet.kernels.recipe import PackedNorm, Recipe
from tests.kernels.cuda_emulated import OnCpu
from tests.kernels.fused_emulated import Problem, error, problem

BF16, FP16 = torch.bfloat16, torch.float16
STAGE1, STAGE2 = (16, 64, 4, 3), (32, 64, 2, 7)  # channels, condition, groups, k
DROPPED = 26  # of 256
ROUNDING = 4 * torch.finfo(BF16).eps  # how near is near: the tests of each kernel


@pytest.fixture(autouse=True)
def _nothing_is_trusted_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fused, "_trusted", {})
    yield
    choose("auto")


def recipe(given: Problem) -> Recipe:
    p = given.threshold / 256
    return Recipe(given.weight, given.bias, given.kernel_size, given.groups, p, given.keys, False)


def inputs(given: Problem, last: bool = True) -> tuple[Tensor, Tensor, Recipe]:
    layout = torch.channels_last if last else torch.contiguous_format
    return given.x.contiguous(memory_format=layout), given.cond.contiguous(memory_format=layout), recipe(given)


def spoiled(monkeypatch: pytest.MonkeyPatch, name: str, to: Tensor | None) -> list[None]:
    """Replaces a function of the fused kernels; counts its calls."""
    calls: list[None] = []
    true = getattr(Fused, name)

    def counted(self: Fused, *inputs: Any) -> Any:
        calls.append(None)
        found = true(self, *inputs)
        return found if to is None or found is None else to

    monkeypatch.setattr(Fused, name, counted)
    return calls


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("threshold", [0, DROPPED])
@pytest.mark.parametrize("shape", [STAGE1, STAGE2])
def test_both_ways_give_the_same(
    library: OnCpu, shape: tuple[int, int, int, int], threshold: int, last: bool, caplog: pytest.LogCaptureFixture
) -> None:
    given = problem(BF16, 2, 9, 13, *shape, threshold)
    x, cond, made = inputs(given, last)
    with caplog.at_level(logging.INFO):
        out = fused.forward(library, x, cond, made)
        grads = fused.backward(library, given.grad, x, cond, made)
    assert out.stride() == torch.empty_like(x).stride()
    assert error(out, given.forward()) < ROUNDING
    for ours, exact in zip(grads, given.gradients(), strict=True):
        assert ours is not None
        assert error(ours, exact) < ROUNDING
    told = [record.message for record in caplog.records]
    assert all(f"k {given.kernel_size}" in line and "serves" in line for line in told)
    assert any("forward" in line for line in told)
    assert all(("dropout" in line) == bool(threshold) for line in told)


def test_a_kernel_is_tried_once_on_one_image(library: OnCpu, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(BF16, 3, 5, 6, *STAGE1)
    x, cond, made = inputs(given)
    sizes: list[int] = []
    dependable = chunks.forward

    def watched(implementation: Any, x: Tensor, *rest: Any) -> Tensor:
        sizes.append(len(x))
        return dependable(implementation, x, *rest)

    monkeypatch.setattr(chunks, "forward", watched)
    calls = spoiled(monkeypatch, "forward", None)
    first = fused.forward(library, x, cond, made)
    assert (len(calls), sizes) == (2, [1])
    assert torch.equal(fused.forward(library, x, cond, made), first)
    assert (len(calls), sizes) == (3, [1])
    fused.forward(library, x, cond, made._replace(dropout_p=0.5, keys=torch.arange(3)))
    assert (len(calls), sizes) == (5, [1, 1])


def test_only_what_is_wanted_is_computed(library: OnCpu, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(BF16, 1, 5, 6, *STAGE1)
    x, cond, made = inputs(given)
    whole = fused.backward(library, given.grad, x, cond, made)
    asked: list[tuple[bool, bool]] = []
    true: Any = Fused.grad_filters

    def watched(self: Fused, *inputs: Any, of_cond: bool, of_weight: bool) -> Any:
        asked.append((of_cond, of_weight))
        return true(self, *inputs, of_cond, of_weight)

    monkeypatch.setattr(Fused, "grad_filters", watched)
    calls = spoiled(monkeypatch, "grad_x", None)
    cases: list[tuple[tuple[int, ...], list[tuple[bool, bool]]]] = [
        ((1, 0, 0, 0), []),
        ((0, 1, 0, 0), [(True, False)]),
        ((0, 0, 0, 1), [(False, True)]),
    ]
    for wanted, kernels in cases:
        asked.clear()
        calls.clear()
        found = fused.backward(library, given.grad, x, cond, made, [bool(one) for one in wanted])
        assert (len(calls), asked) == (wanted[0], kernels)
        for one, theirs, is_wanted in zip(found, whole, wanted, strict=True):
            assert (one is not None) == bool(is_wanted)
            assert one is None or (theirs is not None and torch.equal(one, theirs))


@pytest.mark.parametrize("step", ["forward", "grad_x"])
def test_a_kernel_that_is_wrong_is_not_used(library: OnCpu, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(BF16, 1, 5, 6, *STAGE1)
    x, cond, made = inputs(given)
    calls = spoiled(monkeypatch, step, torch.zeros_like(x))

    def run() -> Tensor | None:
        if step == "forward":
            return fused.forward(library, x, cond, made)
        return fused.backward(library, given.grad, x, cond, made)[0]

    told = r"fused LaConv kernel, .*k 3, 16 channels in 4 groups, condition 64: differs"
    with pytest.warns(RuntimeWarning, match=told):
        found = run()
    exact = given.forward() if step == "forward" else given.gradients()[0]
    assert found is not None
    assert error(found, exact) < 0.05
    run()
    assert len(calls) == 1
    fused._trusted.clear()
    choose("require")
    with pytest.raises(KernelsMissing, match="differs from the dependable path"):
        run()


def test_numbers_that_say_nothing_try_nothing(library: OnCpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dependable path serves until a kernel can be tried on finite numbers that are not all zero."""
    given = problem(BF16, 1, 5, 6, *STAGE1)
    calls = spoiled(monkeypatch, "forward", None)
    for spoil in (torch.zeros_like(given.x), torch.full_like(given.x, torch.inf)):
        x, cond, made = inputs(replace(given, x=spoil))
        wanted = chunks.forward(library, x, cond, made)
        torch.testing.assert_close(fused.forward(library, x, cond, made), wanted, rtol=0, atol=0, equal_nan=True)
    assert not calls
    fused.forward(library, *inputs(given))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("dtype", "shape", "interleaved"),
    [
        (torch.float32, STAGE1, False),
        (BF16, STAGE1, True),
        (BF16, (16, 64, 4, 5), False),
        (FP16, (16, 48, 4, 3), False),
        (FP16, (24, 64, 2, 7), False),
    ],
)
def test_other_shapes_and_types_take_the_dependable_path(
    library: OnCpu, dtype: torch.dtype, shape: tuple[int, int, int, int], interleaved: bool
) -> None:
    given = problem(dtype, 1, 4, 5, *shape)
    x, cond, made = inputs(given)
    made = made._replace(interleaved=interleaved)
    assert Fused(library).forward(x, cond, made) is None
    assert torch.equal(fused.forward(library, x, cond, made), chunks.forward(library, x, cond, made))
    assert not fused._trusted


def test_an_empty_batch_needs_no_kernel(library: OnCpu) -> None:
    given = problem(BF16, 0, 4, 5, *STAGE1)
    x, cond, made = inputs(given)
    assert fused.forward(library, x, cond, made).shape == x.shape
    grads = fused.backward(library, given.grad, x, cond, made)
    assert grads[2] is not None
    assert not grads[2].any()


def packed_problem(dtype: torch.dtype, packing: int, threshold: int = 0) -> tuple[Problem, Tensor, PackedNorm]:
    """Stage 1 with a condition that is unpacked from the map that comes with it, by the norm."""
    given = problem(dtype, 2, 16, 24, *STAGE1, threshold)
    some = torch.Generator().manual_seed(3)
    sides = (16 // packing, 24 // packing)
    packed = torch.randn(2, packing**2 * 64, *sides, generator=some).to(dtype)
    packed = packed.contiguous(memory_format=torch.channels_last)
    mean, weight, bias = (torch.randn(64, generator=some) for _ in range(3))
    norm = PackedNorm(mean, torch.rand(64, generator=some) + 0.1, weight, bias, 1e-5, packing)
    return replace(given, cond=torch.ops.laconv.unpack(packed, *norm)), packed, norm


@pytest.mark.parametrize("threshold", [0, DROPPED])
@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_the_condition_is_taken_packed(
    library: OnCpu, dtype: torch.dtype, threshold: int, caplog: pytest.LogCaptureFixture
) -> None:
    given, packed, norm = packed_problem(dtype, 8, threshold)
    x, _, made = inputs(given)
    assert reads_packed(dtype, x.shape[1], 64, 8, 3, 4, False)
    assert Fused(library).forward(x, packed, made, norm) is not None
    with caplog.at_level(logging.INFO):
        out = fused.forward(library, x, packed, made, norm)
    assert error(out, given.forward()) < 4 * torch.finfo(dtype).eps
    assert [("packed 8 x 8" in line, "serves" in line) for line in caplog.messages] == [(True, True)]
    assert torch.equal(fused.forward(library, x, packed.contiguous(), made, norm), out)


def test_what_no_kernel_takes_packed_is_unpacked(library: OnCpu) -> None:
    given, packed, norm = packed_problem(BF16, 4)
    x, cond, made = inputs(given)
    assert Fused(library).forward(x, packed, made, norm) is None
    assert torch.equal(fused.forward(library, x, packed, made, norm), chunks.forward(library, x, cond, made))
    (kernel_size, channels, condition, groups, packing) = PACKED_SHAPES[0]
    assert not reads_packed(BF16, channels, condition, 4, kernel_size, groups, False)
    assert not reads_packed(BF16, channels, condition, packing, kernel_size, groups, True)
    assert not reads_packed(torch.float32, channels, condition, packing, kernel_size, groups, False)
