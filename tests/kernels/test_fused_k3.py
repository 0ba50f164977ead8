"""The fused kernels of k = 3 on a CPU: the very source under the emulation, against sums in float64."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.kernels.cuda import cache
from laconvnet.kernels.cuda.fused import FusedArguments
from laconvnet.kernels.plain import taps
from tests.kernels.fused_emulated import Fused, Guarded, Packed, Problem, build, error, problem, sizes

HALVES = (torch.float16, torch.bfloat16)
SHAPE = (16, 64, 4, 3)  # channels, condition, groups, kernel size
PICTURES = [  # B, H, W, threshold, bias
    (1, 1, 1, 0, True),
    (3, 3, 5, 26, True),
    (1, 13, 11, 128, False),
    (3, 26, 17, 0, True),
    (1, 26, 29, 26, False),
    (1, 53, 41, 0, True),
    (1, 53, 41, 26, True),
]
REFUSED, BAD_SIZE = -3, -1


@pytest.fixture(scope="session")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Fused:
    return build("fused/k3.cu", tmp_path_factory.mktemp("fused_k3"))


@functools.cache
def given_of(dtype: torch.dtype, b: int, h: int, w: int, threshold: int = 0, bias: bool = True) -> Problem:
    return problem(dtype, b, h, w, *SHAPE, threshold, bias)


@functools.cache
def exact_gradients(dtype: torch.dtype, *picture: int) -> dict[str, Tensor]:
    return dict(zip(("x", "cond", "weight", "bias"), given_of(dtype, *picture).gradients(), strict=True))


class TorchPath:
    """The same in the problem's own type: what goes from one operation to the next is rounded, sums are not."""

    def __init__(self, given: Problem) -> None:
        self.given, self.dtype = given, given.x.dtype
        self.cond = given.cond.permute(0, 2, 3, 1)
        self.filters = self.dropped(F.linear(self.cond, given.weight, given.bias).permute(0, 3, 1, 2))

    def dropped(self, filters: Tensor) -> Tensor:
        return (filters * self.given.mask()).to(self.dtype)

    def forward(self) -> Tensor:
        return taps.forward(self.given.x, self.filters, 3, 4, False)

    def gradients(self) -> dict[str, Tensor]:
        given = self.given
        grad_x, grad_filters = taps.backward(given.grad, given.x, self.filters, 3, 4, False)
        rows = self.dropped(grad_filters).permute(0, 2, 3, 1).reshape(-1, len(given.weight))
        grad_cond = (rows @ given.weight).view(self.cond.shape).permute(0, 3, 1, 2)
        grad_weight = rows.T @ self.cond.reshape(-1, self.cond.shape[-1])
        return {"x": grad_x, "cond": grad_cond, "weight": grad_weight, "bias": rows.float().sum(0).to(self.dtype)}


def near(found: Tensor, exact: Tensor, theirs: Tensor, times: float) -> None:
    assert error(found, exact) <= times * error(theirs, exact)


def gradients(fused: Fused, given: Problem, wanted: tuple[str, ...] = ("cond", "weight")) -> dict[str, Tensor]:
    return fused.grad_filters("k3", given, fused.workspace_bytes("k3", given), wanted)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("picture", PICTURES)
def test_forward(fused: Fused, dtype: torch.dtype, picture: tuple[int, ...]) -> None:
    given = given_of(dtype, *picture)
    found = fused.forward("k3", given)
    near(found, given.forward(), TorchPath(given).forward(), 2)
    assert torch.equal(found, fused.forward("k3", given))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("picture", PICTURES)
def test_gradient_of_x(fused: Fused, dtype: torch.dtype, picture: tuple[int, ...]) -> None:
    given = given_of(dtype, *picture)
    found = fused.grad_x("k3", given)
    near(found, exact_gradients(dtype, *picture)["x"], TorchPath(given).gradients()["x"], 3)
    assert torch.equal(found, fused.grad_x("k3", given))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("picture", PICTURES)
def test_gradients_of_condition_weight_and_bias(fused: Fused, dtype: torch.dtype, picture: tuple[int, ...]) -> None:
    given = given_of(dtype, *picture)
    exact, theirs, found = exact_gradients(dtype, *picture), TorchPath(given).gradients(), gradients(fused, given)
    assert found.keys() == {"cond", "weight", "bias"}
    for name, tensor in found.items():
        near(tensor, exact[name], theirs[name], 3)
    for alone in ("cond", "weight"), ("cond",), ("weight",):
        again = gradients(fused, given, alone)
        assert all(torch.equal(tensor, found[name]) for name, tensor in again.items())
        assert set(alone) <= again.keys()


def test_more_strips_than_warps(fused: Fused) -> None:
    """The sums of a warp go on from strip to strip; images have their own keys."""
    picture = (1100, 2, 3, 26, True)
    given = given_of(torch.bfloat16, *picture)
    exact, theirs, found = (
        exact_gradients(torch.bfloat16, *picture),
        TorchPath(given).gradients(),
        gradients(fused, given),
    )
    for name, tensor in found.items():
        near(tensor, exact[name], theirs[name], 3)
    most = 264 * (36 * 64 + 36) * 4
    assert fused.workspace_bytes("k3", given) == most
    assert (
        fused.workspace_bytes(
            "k3", replace(given, x=torch.empty(4, 16, 9000, 1000, dtype=torch.bfloat16, device="meta"))
        )
        == most
    )


def test_an_empty_batch(fused: Fused) -> None:
    given = given_of(torch.bfloat16, 0, 5, 7, 26)
    assert fused.forward("k3", given).shape == fused.grad_x("k3", given).shape == (0, 16, 5, 7)
    found = gradients(fused, given)
    assert found["cond"].shape == (0, 64, 5, 7)
    assert not found["weight"].any()
    assert not found["bias"].any()
    assert found["weight"].shape == (36, 64)


def test_only_the_weight_without_the_bias(fused: Fused) -> None:
    given = given_of(torch.bfloat16, 1, 5, 7)
    result, workspace = (
        Guarded((36, 64), torch.float32),
        torch.empty(fused.workspace_bytes("k3", given), dtype=torch.uint8),
    )
    assert fused.code("grad_filters", "k3", given, workspace, grad_weight=result) == 0
    assert torch.equal(result.value(), gradients(fused, given)["weight"])


# The condition as the merge convolution leaves it.


def packed_of(cond: Tensor) -> Packed:
    """Random, of the shape of a plain condition, with NaN where cells reach out of the picture."""
    b, m, h, w = cond.shape
    down, across = divided_up(h, 8), divided_up(w, 8)
    room = torch.full((b, down * 8, across * 8, m), torch.nan, dtype=cond.dtype)
    room[:, :h, :w] = cond.permute(0, 2, 3, 1)
    cells = room.view(b, down, 8, across, 8, m).transpose(2, 3).contiguous()
    return Packed(cells, torch.rand(m) + 0.5, torch.randn(m))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("picture", [(1, 1, 1, 0), (2, 13, 11, 0), (1, 26, 29, 26), (1, 40, 24, 0)])
def test_packed_condition(fused: Fused, dtype: torch.dtype, picture: tuple[int, ...]) -> None:
    """relu, pixel_shuffle, batch norm's scale and shift, relu: a block of stage 1 between two convolutions."""
    given = given_of(dtype, *picture)
    packed = packed_of(given.cond)
    b, down, across, _, _, m = packed.cond.shape
    # A convolution's output: channels (m, 8, 8) of a map an eighth as large.
    merged = packed.cond.permute(0, 5, 3, 4, 1, 2).reshape(b, m * 64, down, across)
    height, width = given.x.shape[2:]
    shuffled = F.pixel_shuffle(F.relu(merged), 8)[:, :, :height, :width]
    affine = packed.scale[:, None, None], packed.shift[:, None, None]
    narrow = F.relu((shuffled.float() * affine[0] + affine[1]).to(dtype))
    wide = F.relu(shuffled.double() * affine[0].double() + affine[1].double())

    found = fused.forward("k3", given, packed)
    exact = replace(given.double(), cond=wide).forward()
    near(found, exact, TorchPath(replace(given, cond=narrow.contiguous())).forward(), 2)


# Numbers that are not finite.

INTERIOR, CORNER = (9, 14), (0, 0)


def spoiled(given: Problem, name: str, *place: int | slice, by: float = torch.inf) -> Problem:
    """The same but for one number, or some, of one tensor."""
    changed: Tensor = getattr(given, name).clone()
    changed[place] = by
    return replace(given, **{name: changed})  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [INTERIOR, CORNER])
@pytest.mark.parametrize("name", ["x", "grad", "cond"])
def test_what_is_not_finite_reaches_only_its_own(fused: Fused, name: str, place: tuple[int, int]) -> None:
    """In x, the condition and the gradient: exactly what they reach in the definition, where taps outside are left out.

    One excess: a gradient that is not finite, at the border, spoils the weight's gradient of taps that lie outside.
    """
    given = spoiled(given_of(torch.bfloat16, 1, 26, 29), name, 0, 5, *place)
    if name != "grad":
        assert torch.equal(~fused.forward("k3", given).isfinite(), ~given.forward().isfinite())
    if name == "x":
        assert int((~given.forward().isfinite()).sum()) == (9 if place == INTERIOR else 4)
    exact = dict(zip(("x", "cond", "weight", "bias"), given.gradients(), strict=True))
    if name != "x":
        assert torch.equal(~fused.grad_x("k3", given).isfinite(), ~exact["x"].isfinite())
    for result, tensor in gradients(fused, given).items():
        lost, due = ~tensor.isfinite(), ~exact[result].isfinite()
        if name == "grad" and place == CORNER and result != "cond":
            assert (lost | ~due).all()
            assert not lost.view(9, 4, -1)[:, [0, 2, 3]].any(), "another group's"
            assert int(lost.sum()) > int(due.sum()), "no excess: the docstring is out of date"
        else:
            assert torch.equal(lost, due)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_filter_that_is_not_finite_reaches_its_group(fused: Fused, name: str) -> None:
    """In a weight or bias: what the definition reaches, and at the border also where this tap lies outside."""
    tap, group = 2, 1  # up and right
    place = (tap * 4 + group, 7)[: 2 if name == "weight" else 1]
    given = spoiled(given_of(torch.bfloat16, 1, 13, 11), name, *place)
    due = {"forward": given.forward(), "grad_x": given.gradients()[0]}
    for what, exact in due.items():
        lost = ~getattr(fused, what)("k3", given).isfinite()
        assert (lost | exact.isfinite()).all()
        assert lost[:, 4 * group : 4 * group + 4].all()
        assert int(lost.sum()) == 4 * 13 * 11
        assert int((~exact.isfinite()).sum()) == 4 * 12 * 10
    exact_cond = given.gradients()[1]
    assert torch.equal(~gradients(fused, given)["cond"].isfinite(), ~exact_cond.isfinite())


def test_what_is_dropped_is_zero_whatever_it_was(fused: Fused) -> None:
    given = given_of(torch.bfloat16, 1, 13, 11, 255)
    kept = given.mask()
    assert isinstance(kept, Tensor)
    empty = (kept.view(9, 4, 13, 11) == 0).all(0)
    y, x = next((y, x) for y in range(13) for x in range(11) if empty[:, y, x].all())
    given = spoiled(given, "cond", 0, slice(None), y, x, by=torch.nan)
    assert not fused.forward("k3", given)[0, :, y, x].any()
    assert fused.grad_x("k3", given).isfinite().all()


# What moves.


def moved(given: Problem) -> tuple[int, int, int, int]:
    """Bytes of the condition, of x, of the weight and of the filters."""
    pixels = given.x[:, 0].numel()
    return pixels * 128, pixels * 32, 36 * 128, pixels * 72


def divided_up(whole: int, part: int) -> int:
    return -(-whole // part)


def rows_of_strips(height: int, together: int) -> int:
    """Of small pictures: eight rows at least, as many in each, walked so many at a time."""
    return divided_up(divided_up(height, max(1, height // 8)), together) * together


@pytest.mark.parametrize("picture", [(3, 26, 17), (1, 53, 41), (1, 64, 64)])
def test_bytes_and_bank_conflicts(fused: Fused, picture: tuple[int, int, int]) -> None:
    """Only inputs, results, the weight once a block and what neighbouring strips share; no filters; no conflicts.

    The halo is at most what strips of 16 (14 inner) or 8 columns read beside their own; a block reads it once.
    """
    given = given_of(torch.bfloat16, *picture)
    height, width = given.x.shape[2:]
    cond, x, weight, filters = moved(given)
    rows, even_rows = rows_of_strips(height, 1), rows_of_strips(height, 2)
    wide, inner, narrow = (divided_up(width, columns) for columns in (16, 14, 8))

    def halo(strips: int, of_rows: int) -> float:
        return (width + 2 * strips) / width * (of_rows + 2) / of_rows - 1

    forward = fused.counted(lambda: fused.forward("k3", given))
    assert forward.read <= 1.1 * (cond + x) + halo(wide, rows) * x + 3 * (weight + 128)
    assert forward.read >= cond + x + weight
    assert forward.written == x
    grad_x = fused.counted(lambda: fused.grad_x("k3", given))
    assert grad_x.read <= 1.1 * (cond + x) + halo(inner, rows) * (cond + x) + 3 * (weight + 128)
    assert grad_x.written == x
    blocks = divided_up(picture[0] * narrow * divided_up(height, even_rows), 4)
    part = 36 * 65 * 4
    assert fused.workspace_bytes("k3", given) == blocks * part
    both = fused.counted(lambda: gradients(fused, given))
    assert both.read <= 1.1 * (cond + 2 * x) + halo(narrow, even_rows) * x + blocks * (weight + 2 * part)
    assert both.written == cond + (blocks + 1) * part
    assert max(forward.written, grad_x.written, both.written - (blocks + 1) * part - cond) < filters
    for counts in forward, grad_x, both:
        assert counts.wavefronts == counts.phases > 0


@pytest.mark.parametrize("threshold", [0, 26])
def test_nothing_else_is_read(fused: Fused, threshold: int) -> None:
    """A picture of one strip, one block: each byte of the inputs, to a sector of 32 bytes, and not one beside them."""
    given = given_of(torch.bfloat16, 1, 13, 7, threshold)
    cond, x, weight, _ = moved(given)
    bias, key, part, affine = 96, 32 if threshold else 0, divided_up(36 * 65 * 4, 32) * 32, 2 * 256
    forward = fused.counted(lambda: fused.forward("k3", given))
    assert forward.read == cond + x + weight + bias + key
    assert fused.counted(lambda: fused.grad_x("k3", given)).read == forward.read
    for wanted, of_weight in ((("cond",), 0), (("cond", "weight"), cond + part), (("weight",), cond + part - weight)):
        counts = fused.counted(functools.partial(gradients, fused, given, wanted))
        assert counts.read == 2 * x + weight + key + of_weight
    packed = fused.counted(lambda: fused.forward("k3", given, packed_of(given.cond)))
    assert packed.read == forward.read + affine
    assert packed.wavefronts == packed.phases + 4 > forward.phases  # once a block, where scale and shift are put down


# What is refused.


def refusal(**changed: object) -> Callable[[Fused, str], int]:
    def code(fused: Fused, what: str) -> int:
        given = given_of(torch.bfloat16, 1, 4, 4)
        room = torch.zeros(1 << 16, dtype=torch.uint8)
        arguments = sizes(given)
        for name in (
            "x",
            "cond",
            "weight",
            "bias",
            "grad",
            "result",
            "grad_cond",
            "grad_weight",
            "grad_bias",
            "workspace",
        ):
            setattr(arguments, name, room.data_ptr())
        arguments.workspace_bytes = len(room)
        for name, value in changed.items():
            setattr(arguments, name, room.data_ptr() + value[0] if isinstance(value, list) else value)
        entry = getattr(fused.libraries[1], f"laconv_fused_{what}_bf16_k3")
        return int(entry(ctypes.byref(arguments), None))

    return code


@pytest.mark.parametrize("what", ["forward", "grad_x", "grad_filters"])
@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, 0),
        ({"channels": 32}, REFUSED),
        ({"groups": 2}, REFUSED),
        ({"condition": 128}, REFUSED),
        ({"kernel_size": 5}, REFUSED),
        ({"cond": [8]}, REFUSED),
        ({"weight": [8]}, REFUSED),
        ({"keys": [4]}, REFUSED),
        ({"packing": 4, "scale": [0], "shift": [0]}, REFUSED),
        ({"packing": 8, "scale": [0]}, REFUSED),
        ({"height": 2**12 + 1, "width": 2**12}, REFUSED),
        ({"height": 1, "width": 2**24 + 1}, REFUSED),
        ({"batch": 2**31 - 1, "width": 40}, REFUSED),
        ({"batch": -1}, BAD_SIZE),
        ({"height": 2**31}, BAD_SIZE),
        ({"threshold": 256}, BAD_SIZE),
        ({"batch": 0}, 0),
        ({"height": 0}, 0),
    ],
)
def test_what_is_refused(fused: Fused, what: str, change: dict[str, object], wanted: int) -> None:
    assert refusal(**change)(fused, what) == wanted


def test_refusals_of_one_kernel(fused: Fused) -> None:
    packed = {"packing": 8, "scale": [0], "shift": [0]}
    assert refusal(**packed)(fused, "forward") == 0
    assert refusal(**packed)(fused, "grad_x") == refusal(**packed)(fused, "grad_filters") == REFUSED
    # Filled up to whole cells it is too large: one row of 2^22 pixels is eight.
    assert refusal(**packed, height=1, width=2**22)(fused, "forward") == REFUSED
    for what, name in (("forward", "x"), ("forward", "result"), ("grad_x", "grad"), ("grad_x", "result")):
        assert refusal(**{name: [8]})(fused, what) == REFUSED
    for name in ("x", "grad", "grad_cond", "workspace"):
        assert refusal(**{name: [8]})(fused, "grad_filters") == REFUSED
    assert refusal(workspace_bytes=36 * 65 * 4 - 1)(fused, "grad_filters") == BAD_SIZE
    assert refusal(workspace_bytes=36 * 65 * 4)(fused, "grad_filters") == 0
    assert refusal(workspace_bytes=0, grad_weight=None)(fused, "grad_filters") == 0


def test_arguments_are_those_of_the_header() -> None:
    """Both tell of the same fields in the same order."""
    header = (cache.SOURCES / "laconv.h").read_text()
    body = header[header.index("typedef struct laconv_fused_args {") : header.index("} laconv_fused_args;")]
    code = "".join(part.partition("*/")[2] if i else part for i, part in enumerate(body.split("/*")))
    names = [
        name.strip(" *").split()[-1].strip("*") for line in code.split(";") for name in line.split(",") if name.strip()
    ]
    assert names == [field[0] for field in FusedArguments._fields_]
