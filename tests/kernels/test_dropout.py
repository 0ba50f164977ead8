"""The mask of dropout by itself: one rule, the same bits from every backend on the CPU."""

from __future__ import annotations

import ctypes
import math
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest
import torch
from torch import Tensor

from laconvnet import kernels
from laconvnet.kernels import cpu, dropout, plain
from laconvnet.kernels.backend import Backend
from laconvnet.kernels.cpu import build, native
from laconvnet.kernels.keys import layer_number
from tests.kernels import compilers, mask_reference

KEYS = torch.tensor([0, -1, 2**62 + 12345, 7 + 2**32])
OPERATOR = torch.ops.laconv.keyed_dropout.default
# k, g, H, W: both layouts of the taps, more rows than a block has, pixels that fill no vector
SHAPES = [(1, 3, 4, 5), (3, 2, 7, 5), (3, 1, 1, 1), (5, 2, 3, 9), (7, 3, 5, 7), (7, 1, 17, 19), (9, 2, 3, 5)]


@pytest.fixture(params=["plain", "compiled"])
def backend(request: pytest.FixtureRequest) -> Backend:
    found: ModuleType | None = plain if request.param == "plain" else cpu.ready()
    if found is None:
        compilers.missing("the compiled kernel of the CPU is not there")
    return cast(Backend, found)


def test_the_generator_has_its_published_bits() -> None:
    """Philox4x32-7, counter and key of zeros (Random123's kat_vectors)."""
    known = [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]
    assert [int(word) for word in dropout.philox((0, 0, 0, 0), torch.tensor(0))] == known
    assert mask_reference.philox((0, 0, 0, 0), 0).view("<u4").tolist() == known


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("p", [0.1, 0.5, 1 / 256, 255 / 256])
def test_filters_are_dropped_by_the_rule(backend: Backend, shape: tuple[int, int, int, int], p: float) -> None:
    k, g, height, width = shape
    expected = torch.stack([mask_reference.of_filters(int(key), height, width, k, g, p) for key in KEYS])
    torch.manual_seed(0)
    values = torch.rand(len(KEYS), k * k * g, height, width) + 1
    for laid_out in (
        values.clone(),
        values.transpose(0, 1).clone(memory_format=torch.contiguous_format).transpose(0, 1),
        values.clone(memory_format=torch.channels_last),
    ):
        backend.dropout_(laid_out, KEYS, k, g, p)
        assert torch.equal(laid_out, values * expected.float())


def test_many_pixels_are_dropped_by_the_rule() -> None:
    """More of them than the compiled kernel takes at once."""
    if cpu.ready() is None:
        compilers.missing("the compiled kernel of the CPU is not there")
    for k, g in ((3, 2), (7, 1)):
        found, expected = (torch.ones(2, k * k * g, 29, 31) for _ in range(2))
        native.dropout_(found, KEYS[:2], k, g, 0.3)
        dropout.dropout_(expected, KEYS[:2], k, g, 0.3)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 5), (4, 16), (4, 3, 7, 11), (4, 0), (0, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_elements_are_dropped_by_the_rule(backend: Backend, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values, keys = (torch.rand(shape) + 1).to(dtype), KEYS[: shape[0]]
    elements = math.prod(shape[1:])
    masks = [mask_reference.of_elements(int(key), elements, 0.1) for key in keys if elements]
    wanted = torch.stack(masks).view(shape) if masks and elements else torch.zeros(shape, dtype=torch.float64)
    exact = (values.double() * wanted).to(dtype) if dtype == torch.float64 else (values.float() * wanted.float())
    assert torch.equal(backend.dropout(values, keys, 0.1), exact.to(dtype))


def test_many_elements_are_dropped_by_the_rule() -> None:
    if cpu.ready() is None:
        compilers.missing("the compiled kernel of the CPU is not there")
    values = torch.rand(3, 5, 13, 1009) + 1
    last = values.contiguous(memory_format=torch.channels_last)
    expected = dropout.dropout(values, KEYS[:3], 0.2)
    for found in (native.dropout(values, KEYS[:3], 0.2), native.dropout(last, KEYS[:3], 0.2)):
        assert torch.equal(found, expected)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these are instructions of x86")
@pytest.mark.parametrize("instructions", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_every_processors_way_to_multiply_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instructions: str
) -> None:
    program = compilers.cxx()
    if instructions == "x86-64-v4" and not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        pytest.skip("this processor lacks them")
    target = tmp_path / "kernel.so"
    flags = [*(flag for flag in build.FLAGS if flag != "-O3"), "-O1", f"-march={instructions}"]
    subprocess.run([program, *flags, build.SOURCES / "dynamic_conv.cpp", "-o", target], check=True)
    monkeypatch.setattr(build, "library", lambda: ctypes.CDLL(str(target)))
    made = native.library.__wrapped__()
    monkeypatch.setattr(native, "library", lambda: made)
    values = torch.rand(3, 49, 5, 11) + 1
    assert torch.equal(native.dropout(values, KEYS[:3], 0.2), dropout.dropout(values, KEYS[:3], 0.2))
    found = values.clone()
    native.dropout_(found, KEYS[:3], 7, 1, 0.2)
    dropout.dropout_(values, KEYS[:3], 7, 1, 0.2)
    assert torch.equal(found, values)


def test_what_is_dropped_is_zero_whatever_it_was(backend: Backend) -> None:
    filters = torch.full((1, 9, 8, 8), torch.inf)
    filters[:, :, ::2] = torch.nan
    kept = torch.ones(1, 9, 8, 8)
    backend.dropout_(kept, KEYS[:1], 3, 1, 0.5)
    backend.dropout_(filters, KEYS[:1], 3, 1, 0.5)
    assert torch.equal(filters == 0, kept == 0)
    assert (backend.dropout(filters, KEYS[:1], 0.5) == 0).sum() > (kept == 0).sum()


def test_dropout_keeps_and_scales(backend: Backend) -> None:
    keys = kernels.image_keys(0, 0, torch.arange(4), ["here"])[0]
    filters = torch.ones(4, 49, 40, 40)
    backend.dropout_(filters, keys, 7, 1, 0.1)
    rate = 1 - 26 / 256  # the nearest step
    for values in (filters, backend.dropout(torch.ones(4, 49, 40, 40), keys, 0.1)):
        kept = values != 0
        n = kept.numel()
        assert kept.float().mean().item() == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / n))
        assert values[kept].unique().tolist() == [pytest.approx(1 / rate)]
        # Independent between neighbours, planes and images: as often together as by chance.
        dropped, chance = (~kept).float(), (1 - rate) ** 2
        for a, b in (
            (dropped[..., 1:], dropped[..., :-1]),
            (dropped[:, 1:], dropped[:, :-1]),
            (dropped[1:], dropped[:-1]),
        ):
            assert (a * b).mean().item() == pytest.approx(chance, abs=4 * math.sqrt(chance / a.numel()))


# Keys


def test_every_part_of_a_key_makes_another() -> None:
    base = (7, 11, torch.arange(3), ["first", "second"])
    seeds = [(seed, *base[1:]) for seed in (7, 8, 7 + 2**40, -7)]
    steps = [(7, step, *base[2:]) for step in (0, 7, 12, 11 + 2**33)]
    places = [(7, 11, torch.arange(3) + 3, base[3])]
    names = [(7, 11, base[2], ["First", "second."])]
    tables = [kernels.image_keys(*given) for given in (*seeds, *steps, *places, *names)]
    assert all(table.dtype == torch.int64 and table.shape == (2, 3) for table in tables)
    values = torch.stack(tables).flatten().tolist()
    assert len(set(values)) == len(values)
    masks = [dropout.dropout(torch.ones(1, 64), torch.tensor([key]), 0.5).flatten().tolist() for key in values[:12]]
    assert len({tuple(mask) for mask in masks}) == len(masks)


def test_keys_are_those_of_any_machine_and_of_their_place_alone() -> None:
    """The numbers are written into every run; splitmix64 in Python's integers beside them."""
    word = 2**64 - 1

    def mixed(state: int, value: int) -> int:
        state = (state ^ value & word) + 0x9E3779B97F4A7C15 & word
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & word
        state = (state ^ state >> 27) * 0x94D049BB133111EB & word
        return state ^ state >> 31

    # echo -n visual.filters | sha256sum | cut -c 1-16, its bytes turned
    number = 0x4F29F6B52521E066
    assert layer_number("visual.filters") & word == number
    expected = [mixed(mixed(mixed(mixed(0, 3), 5), place), number) for place in (0, 1, 9)]
    found = kernels.image_keys(3, 5, torch.tensor([0, 1, 9]), ["other", "visual.filters"])[1]
    assert [key & word for key in found.tolist()] == expected


# The operator


def test_one_mask_forward_and_backward_and_only_keys_are_kept() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    values, keys = torch.rand(4, 3, 37, requires_grad=True), KEYS.clone()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = kernels.keyed_dropout(values, keys, 0.4)
    assert [t.data_ptr() for t in kept] == [keys.data_ptr()]
    out.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad * values.detach(), out.detach())
    assert 0 < (out == 0).sum() < out.numel()


def test_dropout_of_nothing_is_nothing() -> None:
    values = torch.rand(4, 3)
    assert kernels.keyed_dropout(values, None, 0.0) is values


def test_what_pytorch_demands() -> None:
    values = torch.rand(4, 3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: kernels.keyed_dropout(v, KEYS, 0.3), values)
    torch.library.opcheck(OPERATOR, (values, KEYS, 0.3))
    torch.library.opcheck(OPERATOR, (torch.rand(4, 3, 5, 6).contiguous(memory_format=torch.channels_last), KEYS, 0.3))
    on_meta = kernels.keyed_dropout(torch.empty(4, 3, device="meta"), KEYS, 0.3)
    assert (on_meta.shape, on_meta.device.type) == ((4, 3), "meta")


def test_compiles_into_one_graph_of_any_batch() -> None:
    def step(values: Tensor, keys: Tensor) -> Tensor:
        return kernels.keyed_dropout(values * 2, keys, 0.3).relu()

    compiled: Callable[..., Tensor] = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (4, 3):
        values = torch.rand(batch, 5, requires_grad=True)
        torch.testing.assert_close(compiled(values, KEYS[:batch]), step(values, KEYS[:batch]))


def test_autocast_leaves_types_alone() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        values = torch.rand(4, 9).to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            found = kernels.keyed_dropout(values, KEYS, 0.3)
        assert torch.equal(found, kernels.keyed_dropout(values, KEYS, 0.3))
        assert found.dtype == dtype


@pytest.mark.parametrize(
    ("argument", "values", "keys", "p"),
    [
        ("values", torch.ones(()), KEYS, 0.1),
        ("values", torch.ones(4, dtype=torch.int64), KEYS, 0.1),
        ("keys", torch.ones(4), None, 0.1),
        ("keys", torch.ones(4), KEYS[:3], 0.1),
        ("keys", torch.ones(4), KEYS.int(), 0.1),
        ("keys", torch.ones(4), KEYS.to("meta"), 0.1),
        ("p", torch.ones(4), KEYS, 1.0),
        ("p", torch.ones(4), KEYS, -0.1),
        ("p", torch.ones(4), KEYS, math.nan),
        ("p", torch.ones(4), KEYS, 0.001),
        ("p", torch.ones(4), KEYS, 0.999),
    ],
)
def test_what_does_not_fit_is_named(argument: str, values: Tensor, keys: Tensor | None, p: float) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: "):
        kernels.keyed_dropout(values, keys, p)


def test_a_probability_between_the_steps_is_named_with_those_that_are_allowed() -> None:
    for p in (0.001, 0.999, 1.5):
        with pytest.raises(ValueError, match=rf"dropout_p: .*1/256 to 255/256.*{p}"):
            kernels.check_probability(p)
    for p in (0.0, 1 / 256, 0.1, 255 / 256):
        kernels.check_probability(p)
