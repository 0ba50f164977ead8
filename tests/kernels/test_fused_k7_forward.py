"""The fused forward kernels of k = 7 on a CPU: the very source under the emulation, against sums in float64."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.kernels.cuda.fused import FusedArguments
from laconvnet.kernels.cuda.library import TYPES
from laconvnet.kernels.plain import taps
from tests.kernels.fused_emulated import Fused, Problem, build, error, in_halves, problem
from tests.kernels.mask_reference import of_filters

pytestmark = pytest.mark.slow

HALVES = (torch.float16, torch.bfloat16)
KB = 1024
H100 = (132, 227 * KB)
ONE_PROCESSOR = (1, 227 * KB)  # strips as high as the picture: the kernels walk
A100 = (108, 163 * KB)
RTX4090 = (128, 99 * KB)
NO_FUSED_KERNEL, BAD_SIZE = -3, -1


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Fused:
    return build("fused/k7_forward.cu", tmp_path_factory.mktemp("k7_forward"))


@pytest.fixture
def fused(_built: Fused) -> Iterator[Fused]:
    on(_built, H100)
    yield _built
    on(_built, H100)


def on(fused: Fused, device: tuple[int, int]) -> None:
    """Launches from now on are for a device of so many processors and bytes of shared memory a block."""
    for library in fused.libraries:
        library.laconv_emulation_device(*device)


def torch_path(given: Problem) -> Tensor:
    """The result of PyTorch in the problem's own type: filters rounded, sums in float32, the result rounded."""
    filters = F.linear(given.cond.permute(0, 2, 3, 1), given.weight, given.bias).permute(0, 3, 1, 2)
    mask = given.mask()
    dropped = (filters.float() * (mask.float() if isinstance(mask, Tensor) else mask)).to(given.x.dtype)
    wide = taps.forward(given.x.float(), dropped.float(), given.kernel_size, given.groups, False)
    return wide.to(given.x.dtype)


@functools.cache
def exact_of(*arguments: object) -> tuple[Problem, Tensor, Tensor]:
    """A problem, its exact result, and that of the path through PyTorch."""
    given = problem(*arguments)  # type: ignore[arg-type]
    return given, given.forward(), torch_path(given)


CASES = [  # B, H, W, condition, groups, threshold, bias; 16 channels a group up to a condition of 128, else 32
    (1, 1, 1, 128, 1, 0, True),
    (2, 3, 5, 64, 2, 26, True),
    (2, 13, 13, 128, 3, 26, False),
    (1, 13, 11, 64, 8, 128, True),
    (1, 26, 17, 128, 4, 0, True),
    (1, 26, 26, 64, 5, 26, True),
    (1, 7, 53, 128, 1, 128, True),
    (1, 1, 1, 256, 1, 26, True),
    (2, 3, 5, 512, 2, 0, True),
    (2, 13, 13, 512, 3, 26, True),
    (1, 13, 11, 256, 8, 0, False),
    (1, 26, 17, 256, 2, 128, True),
    (1, 26, 26, 256, 4, 26, True),
    (1, 7, 53, 512, 1, 26, False),
    (1, 4, 18, 256, 5, 0, True),
]


def channels_of(condition: int, groups: int) -> int:
    return groups * (16 if condition <= 128 else 32)


@pytest.mark.parametrize("device", [ONE_PROCESSOR, H100], ids=["one-strip", "low-strips"])
@pytest.mark.parametrize(("case", "dtype"), in_halves(CASES))
def test_result(fused: Fused, device: tuple[int, int], dtype: torch.dtype, case: tuple[int, ...]) -> None:
    b, h, w, condition, groups, threshold, bias = case
    shape = (b, h, w, channels_of(condition, groups), condition, groups, 7, threshold, bias)
    given, exact, theirs = exact_of(dtype, *shape)
    on(fused, device)
    found = fused.forward("k7", given)
    # Of a few values the path's error may happen to be small: no result is better than the exact one, rounded.
    assert error(found, exact) <= 2 * max(error(theirs, exact), error(exact.to(dtype), exact))
    assert torch.equal(found, fused.forward("k7", given))


@pytest.mark.parametrize("condition", [64, 256, 512])
def test_results_do_not_depend_on_how_pictures_are_cut(fused: Fused, condition: int) -> None:
    given = problem(torch.bfloat16, 3, 13, 18, channels_of(condition, 2), condition, 2, 7, threshold=26)
    results = []
    for processors in (1, 3, 132):
        on(fused, (processors, 227 * KB))
        results.append(fused.forward("k7", given))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("condition", [128, 256])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("threshold", [26, 255])
def test_mask_is_the_rule_bit_for_bit(fused: Fused, condition: int, dtype: torch.dtype, threshold: int) -> None:
    """Filters 2^dx of one kernel row at a time, over x of ones: a result counts which taps are kept."""
    height, width, groups = 11, 18, 2
    per_group = channels_of(condition, 1)
    given = problem(dtype, 2, height, width, groups * per_group, condition, groups, 7, threshold)
    keys = given.keys
    assert keys is not None
    given = replace(given, x=torch.ones_like(given.x), weight=torch.zeros_like(given.weight))
    scale = 256 / (256 - threshold)
    masks = torch.stack([of_filters(int(key), height, width, 7, groups, threshold / 256) != 0 for key in keys])
    assert 0 < masks.double().mean() < 1
    for row in range(7):
        powers = torch.zeros(7, 7, groups, dtype=dtype)
        powers[row] = (2.0 ** torch.arange(7))[:, None]
        bias = powers.flatten()
        found = fused.forward("k7", replace(given, bias=bias)).double() / scale
        wanted = taps.forward(given.x.double(), masks * bias.double()[:, None, None], 7, groups, False)
        assert torch.equal(found.round(), wanted)


def with_number(values: Tensor, place: tuple[int, ...], number: float) -> Tensor:
    values = values.clone()
    values[place] = number
    return values


@pytest.mark.parametrize("condition", [64, 256])
@pytest.mark.parametrize("number", [float("inf"), float("nan")])
@pytest.mark.parametrize("column", [0, 8, 13, 14, 20, 29])
def test_x_that_is_not_finite(fused: Fused, condition: int, number: float, column: int) -> None:
    """It spoils patches of 8 pixels that read its column, in its channel and 7 rows, and nothing else changes a bit."""
    on(fused, ONE_PROCESSOR)
    groups, row, channel = 2, 6, 17
    given = problem(torch.bfloat16, 1, 13, 30, channels_of(condition, groups), condition, groups, 7)
    found = fused.forward("k7", replace(given, x=with_number(given.x, (0, channel, row, column), number)))
    spoilt = torch.zeros_like(found, dtype=torch.bool)
    for patch in range(0, 30, 8):
        read = 16 if patch % 16 == 0 else 14
        if patch - 3 <= column < patch - 3 + read:
            spoilt[0, channel, row - 3 : row + 4, patch : patch + 8] = True
    by_definition = slice(max(0, column - 3), column + 4)
    assert spoilt[0, channel, row - 3 : row + 4, by_definition].all()
    assert torch.equal(~found.isfinite(), spoilt)
    assert torch.equal(found[~spoilt], fused.forward("k7", given)[~spoilt])


@pytest.mark.parametrize("condition", [64, 256, 512])
@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_condition_that_is_not_finite(fused: Fused, condition: int, number: float) -> None:
    """It spoils the results of its pixel, and nothing else changes a bit; at the picture's corner, which is read again
    in place of what lies outside."""
    on(fused, ONE_PROCESSOR)
    given = problem(torch.bfloat16, 1, 5, 19, channels_of(condition, 2), condition, 2, 7)
    for y, x in ((4, 18), (2, 7)):
        found = fused.forward("k7", replace(given, cond=with_number(given.cond, (0, 3, y, x), number)))
        assert not found[0, :, y, x].isfinite().any()
        spoilt = torch.zeros_like(found, dtype=torch.bool)
        spoilt[0, :, y, x] = True
        assert torch.equal(found[~spoilt], fused.forward("k7", given)[~spoilt])


@pytest.mark.parametrize("condition", [64, 256])
def test_bias_that_is_not_finite(fused: Fused, condition: int) -> None:
    """It spoils all results of its group, even where its tap is outside of the picture, and no other's."""
    per_group = channels_of(condition, 1)
    given = problem(torch.bfloat16, 1, 3, 9, 3 * per_group, condition, 3, 7)
    assert given.bias is not None
    tap, group = 0, 1
    found = fused.forward("k7", replace(given, bias=with_number(given.bias, (tap * 3 + group,), float("inf"))))
    spoilt = found.unflatten(1, (3, per_group)).isfinite().logical_not()
    assert spoilt[:, group].all()
    assert not spoilt[:, [0, 2]].any()


def weight_bytes(condition: int, groups: int) -> int:
    """What a block of all groups reads of weight and bias, in whole sectors."""
    return 49 * groups * condition * 2 + -(-49 * groups * 2 // 32) * 32


@pytest.mark.parametrize(("condition", "groups"), [(64, 4), (128, 4), (256, 2), (512, 2)])
@pytest.mark.parametrize("threshold", [0, 26])
def test_bytes_and_banks(fused: Fused, condition: int, groups: int, threshold: int) -> None:
    """A block's groups read condition and x once, x with what is beside its strips, and the weight: no filters."""
    on(fused, ONE_PROCESSOR)
    height, width, channels = 25, 26, channels_of(condition, groups)
    given = problem(torch.bfloat16, 1, height, width, channels, condition, groups, 7, threshold)
    counts = fused.counted(lambda: fused.forward("k7", given))
    x_bytes, condition_bytes = (2 * height * width * numbers for numbers in (channels, condition))
    # Two strips as high as the picture: two blocks with 3 columns of each other's, or one block.
    blocks, columns_beside = (2, 6) if condition <= 128 else (1, 0)
    beside = 2 * height * columns_beside * channels
    key = 32 if threshold else 0
    assert counts.read == condition_bytes + x_bytes + beside + blocks * (weight_bytes(condition, groups) + key)
    assert counts.written == x_bytes
    assert counts.wavefronts == counts.phases > 0


@pytest.mark.parametrize("condition", [128, 512])
def test_no_more_steps_than_a_picture_has_pairs_of_rows(fused: Fused, condition: int) -> None:
    """Tiles of 16 x 2 pixels: 1.23 times the pixels of 26 x 26, 1.33 times those of 13 x 13."""
    on(fused, ONE_PROCESSOR)

    def phases(height: int) -> int:
        given = problem(torch.bfloat16, 4, height, 13, channels_of(condition, 1), condition, 1, 7)
        return fused.counted(lambda: fused.forward("k7", given)).phases

    first, step = phases(2), phases(4) - phases(2)
    assert phases(13) == first + 6 * step
    assert phases(26) == first + 12 * step


@pytest.mark.parametrize(("condition", "groups", "batch", "strips_a_block"), [(64, 4, 2, 1), (256, 2, 1, 4)])
def test_strips_are_high_where_processors_are_few(
    fused: Fused, condition: int, groups: int, batch: int, strips_a_block: int
) -> None:
    """A block reads the condition of its rows, of x 3 rows more above and below, and the weight."""
    height, width, channels = 25, 13, channels_of(condition, groups)
    given = problem(torch.bfloat16, batch, height, width, channels, condition, groups, 7)

    def read(rows_a_block: int) -> int:
        first = range(0, height, rows_a_block)
        rows = sum(min(height, y + rows_a_block + 3) - max(0, y - 3) for y in first)
        pixels = 2 * width * (height * condition + rows * channels)
        return batch * (pixels + len(first) * weight_bytes(condition, groups))

    for device, rows_a_block in ((ONE_PROCESSOR, height), (H100, 2 * strips_a_block)):
        on(fused, device)
        assert fused.counted(lambda: fused.forward("k7", given)).read == read(rows_a_block)


def code(fused: Fused, dtype: torch.dtype, changed: dict[str, int]) -> int:
    """The answer to a call whose memory must not be touched."""
    arguments = {
        "x": 256, "cond": 256, "weight": 256, "bias": 256, "result": 256, "keys": 256, "threshold": 26, "batch": 1,
        "height": 13, "width": 13, "channels": 64, "condition": 128, "groups": 4, "kernel_size": 7,
    } | changed  # fmt: skip
    name = f"laconv_fused_forward_{TYPES[dtype]}_k7"
    (entry,) = (getattr(library, name) for library in fused.libraries if hasattr(library, name))
    return int(entry(ctypes.byref(FusedArguments(**arguments)), None))


@pytest.mark.parametrize("dtype", HALVES)
def test_calls_that_have_no_fused_kernel(fused: Fused, dtype: torch.dtype) -> None:
    for changed in (
        {"channels": 32},  # 8 a group
        {"channels": 128},  # 32 a group, with a short condition
        {"condition": 256},  # 16 a group, with a long one
        {"condition": 96},
        {"kernel_size": 5},
        {"x": 264},
        {"cond": 258},
        {"weight": 264},
        {"result": 260},
        {"height": 1 << 12, "width": 1 << 11},  # 2^30 numbers of the condition, and rows beside
        {"height": 1, "width": 1 << 20},
    ):
        assert code(fused, dtype, changed) == NO_FUSED_KERNEL, changed


def test_sizes_that_no_kernel_takes(fused: Fused) -> None:
    for name, value in (("batch", -1), ("width", 1 << 31), ("groups", 0), ("groups", 5), ("threshold", 256)):
        changed = {name: value}
        assert code(fused, torch.bfloat16, changed) == BAD_SIZE, changed


def test_nothing_to_do(fused: Fused) -> None:
    for empty in ({"batch": 0}, {"height": 0}, {"width": 0}):
        assert code(fused, torch.bfloat16, empty) == 0, empty


def test_devices_with_less_shared_memory(fused: Fused) -> None:
    given = problem(torch.bfloat16, 2, 13, 18, 64, 256, 2, 7, threshold=26)
    result = fused.forward("k7", given)
    on(fused, A100)  # three strips a block for four
    assert torch.equal(fused.forward("k7", given), result)
    assert code(fused, torch.bfloat16, {"channels": 128, "condition": 512}) == NO_FUSED_KERNEL
    on(fused, RTX4090)
    for changed in ({}, {"channels": 128, "condition": 256}):
        assert code(fused, torch.bfloat16, changed) == NO_FUSED_KERNEL, changed
    small = problem(torch.bfloat16, 1, 3, 5, 16, 64, 1, 7)
    assert torch.isfinite(fused.forward("k7", small)).all()
