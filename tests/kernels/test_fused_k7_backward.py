"""The fused backward kernels of k = 7 on a CPU: the very source under the emulation, against sums in float64."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.kernels.plain import taps
from tests.kernels.fused_emulated import Fused, Guarded, Problem, build, error, in_halves, problem, sizes

pytestmark = pytest.mark.slow

BAD_SIZE, NO_FUSED_KERNEL = -1, -3
KB = 1024


@pytest.fixture(scope="session")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Fused:
    return build("fused/k7_backward.cu", tmp_path_factory.mktemp("k7_backward"))


def torch_path(given: Problem) -> dict[str, Tensor]:
    """The gradients in the problem's own type: every tensor between operations rounded, every sum in float32."""
    dtype = given.x.dtype
    mask = given.mask() if given.keys is not None else torch.ones(1)
    assert isinstance(mask, Tensor)
    cond = given.cond.permute(0, 2, 3, 1)
    filters = F.linear(cond, given.weight, given.bias).permute(0, 3, 1, 2)
    dropped = (filters.float() * mask.float()).to(dtype)
    wide = (given.grad.float(), given.x.float(), dropped.float())
    grad_x, grad_filters = taps.backward(*wide, given.kernel_size, given.groups, False)
    grad_filters = (grad_filters.to(dtype).float() * mask.float()).to(dtype)
    rows = grad_filters.permute(0, 2, 3, 1).reshape(-1, len(given.weight))
    grad_cond = (rows @ given.weight).reshape(cond.shape).permute(0, 3, 1, 2)
    return {
        "x": grad_x.to(dtype),
        "cond": grad_cond,
        "weight": rows.T @ cond.reshape(-1, cond.shape[-1]),
        "bias": rows.float().sum(0).to(dtype),
    }


@functools.cache
def exact_of(*arguments: object) -> tuple[Problem, dict[str, Tensor], dict[str, Tensor]]:
    """A problem, its exact gradients and those of the path through PyTorch."""
    given = problem(*arguments)  # type: ignore[arg-type]
    exact = dict(zip(("x", "cond", "weight", "bias"), given.gradients(), strict=True))
    return given, exact, torch_path(given)


def near(found: Tensor, exact: Tensor, theirs: Tensor) -> None:
    """Of a few values PyTorch's error may happen to be small: nothing is better than the exact one, rounded."""
    assert error(found, exact) <= 3 * max(error(theirs, exact), error(exact.to(theirs.dtype), exact))


CASES = [  # B, H, W, channels, condition, groups, threshold, bias
    (1, 1, 1, 16, 64, 1, 0, True),
    (2, 3, 5, 32, 64, 2, 26, True),
    (2, 13, 11, 48, 64, 3, 128, False),
    (1, 26, 17, 16, 128, 1, 0, True),
    (1, 7, 53, 64, 128, 4, 26, True),
    (1, 4, 25, 128, 128, 8, 0, False),
    (1, 1, 1, 32, 256, 1, 26, True),
    (2, 3, 5, 64, 256, 2, 0, False),
    (1, 26, 26, 32, 256, 1, 0, True),
    (1, 13, 29, 96, 256, 3, 26, True),
    (1, 7, 53, 32, 256, 1, 128, True),
    (1, 5, 13, 256, 256, 8, 26, True),
    # More strips than blocks: they go on to others.
    (270, 2, 3, 16, 64, 1, 0, True),
    (34, 1, 17, 256, 256, 8, 26, True),
]
WIDER = [  # of these grad_x alone
    (2, 3, 5, 32, 512, 1, 0, True),
    (2, 13, 13, 64, 512, 2, 26, False),
    (1, 4, 53, 96, 512, 3, 0, True),
]


@pytest.mark.parametrize(("case", "dtype"), in_halves(CASES + WIDER))
def test_gradient_of_x(fused: Fused, dtype: torch.dtype, case: tuple[int, ...]) -> None:
    b, h, w, channels, condition, groups, threshold, bias = case
    given, exact, theirs = exact_of(dtype, b, h, w, channels, condition, groups, 7, threshold, bias)
    near(fused.grad_x("k7", given), exact["x"], theirs["x"])


@pytest.mark.parametrize(("case", "dtype"), in_halves(CASES))
def test_gradients_of_condition_weight_and_bias(fused: Fused, dtype: torch.dtype, case: tuple[int, ...]) -> None:
    b, h, w, channels, condition, groups, threshold, bias = case
    given, exact, theirs = exact_of(dtype, b, h, w, channels, condition, groups, 7, threshold, bias)
    found = fused.grad_filters("k7", given, fused.workspace_bytes("k7", given))
    for name in ("cond", "weight", "bias"):
        near(found[name], exact[name], theirs[name])


SIZES = [  # B, H, W, channels, condition, groups, threshold: one of each kernel
    (1, 16, 24, 64, 128, 4, 26),
    (1, 16, 28, 128, 64, 8, 0),
    (1, 16, 28, 64, 256, 2, 0),
]


def made(dtype: torch.dtype, *arguments: int) -> Problem:
    b, h, w, channels, condition, groups, threshold = arguments
    return exact_of(dtype, b, h, w, channels, condition, groups, 7, threshold, True)[0]


@pytest.mark.parametrize("case", SIZES)
def test_two_launches_and_each_gradient_alone_agree_in_every_bit(fused: Fused, case: tuple[int, ...]) -> None:
    given = made(torch.bfloat16, *case)
    size = fused.workspace_bytes("k7", given)
    both = fused.grad_filters("k7", given, size)
    again = fused.grad_filters("k7", given, size)
    alone = fused.grad_filters("k7", given, 0, ("cond",)) | fused.grad_filters("k7", given, size, ("weight",))
    assert both.keys() == alone.keys() == {"cond", "weight", "bias"}
    for name, found in both.items():
        assert torch.equal(found, again[name]), name
        assert torch.equal(found, alone[name]), name
    assert torch.equal(fused.grad_x("k7", given), fused.grad_x("k7", given))


def test_no_images(fused: Fused) -> None:
    given = problem(torch.bfloat16, 0, 5, 7, 32, 64, 2, 7)
    assert fused.grad_x("k7", given).shape == (0, 32, 5, 7)
    found = fused.grad_filters("k7", given, fused.workspace_bytes("k7", given))
    assert not found["weight"].any()
    assert not found["bias"].any()


def bytes_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("case", SIZES)
def test_bytes_and_banks_of_grad_x(fused: Fused, case: tuple[int, ...]) -> None:
    given = made(torch.bfloat16, *case)
    counts = fused.counted(lambda: fused.grad_x("k7", given))
    _, height, width, channels, condition, groups, _ = case
    bands, of_block = height // 8, min(groups, 2 if condition > 128 else 4)
    assert counts.written == bytes_of(given.x)  # no filters
    rows = height + 3 * 2 * (bands - 1)  # of two bands both read three rows of the other
    assert given.bias is not None
    wide = 1 if condition > 128 or width == 24 else 1.3  # strips read 8 columns of each other
    condition_bytes = rows * width * condition * 2 * (groups // of_block)
    expected = wide * (condition_bytes + rows * width * channels * 2) + bands * bytes_of(given.weight) * (
        1 if wide == 1 else 2
    )
    assert expected * 0.8 <= counts.read <= 1.1 * expected
    handed = rows * 4 if condition > 128 else 0  # the last kernel row, 8 bytes in 16: a warp's store and load
    assert counts.wavefronts - counts.phases == 4 * handed


@pytest.mark.parametrize("case", SIZES)
def test_bytes_and_banks_of_the_gradient_of_the_condition(fused: Fused, case: tuple[int, ...]) -> None:
    given = made(torch.bfloat16, *case)
    counts = fused.counted(lambda: fused.grad_filters("k7", given, 0, ("cond",)))
    _, height, width, channels, condition, groups, _ = case
    bands, strips, slices = height // 8, -(-width // 16), max(condition // 128, 1)
    assert counts.written == bytes_of(given.cond)  # no gradients of filters
    x_rows, x_columns = height + 6 * (bands - 1), width + 6 * (strips - 1)
    pixels = x_rows * x_columns + height * width
    expected = slices * pixels * channels * 2 + bands * strips * bytes_of(given.weight)
    assert expected * 0.8 <= counts.read <= 1.1 * expected
    warps = 4 if groups <= 4 and condition <= 128 else 8
    # The last kernel row of two patches, 8 bytes in 16, takes two wavefronts a phase.
    assert counts.wavefronts - counts.phases == 2 * 2 * warps * slices * strips * height // 2


@pytest.mark.parametrize("case", SIZES)
def test_bytes_and_banks_of_the_gradient_of_the_weight(fused: Fused, case: tuple[int, ...]) -> None:
    given = made(torch.bfloat16, *case)
    size = fused.workspace_bytes("k7", given)
    counts = fused.counted(lambda: fused.grad_filters("k7", given, size, ("weight",)))
    _, height, width, channels, condition, groups, _ = case
    bands, strips, slices = height // 8, -(-width // 16), max(condition // 128, 1)
    results = 4 * 49 * groups * (condition + 1)
    assert size // (bands * strips) - results in range(128)
    assert counts.written == results * (bands * strips + 1)  # no gradients of filters
    x_rows, x_columns = height + 6 * (bands - 1), width + 6 * (2 * strips - 1)
    pixels = x_rows * x_columns + height * width
    group_blocks = -(-groups // 2)
    of_pixels = slices * pixels * channels * 2 + group_blocks * height * width * condition * 2
    expected = of_pixels + results * bands * strips
    assert expected * 0.8 <= counts.read <= 1.1 * expected
    # Of the last kernel row, 8 bytes in 16, a store and a load of every warp take two wavefronts a phase.
    assert counts.wavefronts - counts.phases == 2 * 2 * 4 * group_blocks * slices * strips * height // 2


def code_of(
    fused: Fused, what: str, sides: tuple[int, int, int], kernel_size: int = 7, threshold: int = 0, workspace: int = 0
) -> int:
    """What an entry point answers for so many channels, conditions and groups; none of the results is looked at."""
    given = problem(torch.bfloat16, 1, 3, 5, *sides, 7)
    given = replace(given, kernel_size=kernel_size, threshold=threshold)
    room = torch.empty(workspace, dtype=torch.uint8)
    if what == "grad_x":
        return fused.code(what, "k7", given, room, None, result=Guarded(tuple(given.x.shape), torch.bfloat16))
    cond, weight = (tuple(tensor.shape) for tensor in (given.cond, given.weight))
    results = {"grad_cond": Guarded(cond, torch.bfloat16), "grad_weight": Guarded(weight, torch.float32)}
    return fused.code(what, "k7", given, room, None, **results)


@pytest.mark.parametrize("what", ["grad_x", "grad_filters"])
def test_what_is_left_to_other_kernels(fused: Fused, what: str) -> None:
    assert code_of(fused, what, (32, 96, 2)) == NO_FUSED_KERNEL  # condition
    assert code_of(fused, what, (32, 64, 4)) == NO_FUSED_KERNEL  # channels a group
    assert code_of(fused, what, (32, 256, 2)) == NO_FUSED_KERNEL
    assert code_of(fused, what, (32, 64, 2), kernel_size=5) == NO_FUSED_KERNEL
    assert code_of(fused, what, (32, 64, 2), threshold=256) == BAD_SIZE
    assert code_of(fused, what, (32, 64, 3)) == BAD_SIZE


def test_sums_that_have_no_kernel_or_no_room(fused: Fused) -> None:
    assert code_of(fused, "grad_filters", (144, 64, 9)) == NO_FUSED_KERNEL  # groups
    assert code_of(fused, "grad_filters", (64, 512, 2)) == NO_FUSED_KERNEL
    assert fused.workspace_bytes("k7", problem(torch.bfloat16, 1, 3, 5, 64, 512, 2, 7)) == 0
    needed = fused.workspace_bytes("k7", problem(torch.bfloat16, 1, 3, 5, 32, 64, 2, 7))
    assert code_of(fused, "grad_filters", (32, 64, 2), workspace=needed - 1) == BAD_SIZE


@pytest.mark.parametrize(("shared", "groups", "served"), [(163, 8, True), (99, 8, False), (99, 4, True)])
def test_a_device_with_little_shared_memory(fused: Fused, shared: int, groups: int, served: bool) -> None:
    given = problem(torch.bfloat16, 1, 3, 5, 16 * groups, 128, groups, 7)
    size = fused.workspace_bytes("k7", given)
    for library in fused.libraries:
        library.laconv_emulation_device(108, shared * KB)
    try:
        room = torch.empty(size, dtype=torch.uint8)
        result = Guarded(tuple(given.cond.shape), given.cond.dtype)
        code = fused.code("grad_filters", "k7", given, room, grad_cond=result)
    finally:
        for library in fused.libraries:
            library.laconv_emulation_device(132, 227 * KB)
    assert code == (0 if served else NO_FUSED_KERNEL)


def test_pictures_that_32_bits_do_not_number_and_odd_addresses(fused: Fused) -> None:
    given = problem(torch.bfloat16, 1, 3, 5, 32, 64, 2, 7)
    library = fused.libraries[1]
    for changes, expected in (
        ({"height": 2**14, "width": 2**10 - 1}, 0),
        ({"height": 2**14, "width": 2**10}, NO_FUSED_KERNEL),
        ({"x": 8}, NO_FUSED_KERNEL),
        ({"grad_cond": 8}, NO_FUSED_KERNEL),
        ({"packing": 8}, NO_FUSED_KERNEL),
    ):
        arguments = sizes(given)
        arguments.batch = 0  # nothing is read
        for name, value in changes.items():
            setattr(arguments, name, value)
        for what in ("grad_x", "grad_filters"):
            assert getattr(library, f"laconv_fused_{what}_bf16_k7")(ctypes.byref(arguments), None) == expected


def test_the_workspace_is_bounded_and_does_not_grow_with_the_batch(fused: Fused) -> None:
    for channels, condition, groups in ((64, 128, 4), (128, 128, 8), (256, 256, 8), (16, 64, 1)):
        given = problem(torch.bfloat16, 1, 1, 1, channels, condition, groups, 7)
        sizes_of = []
        for batch in (64, 1024):
            arguments = sizes(given)
            arguments.batch, arguments.height, arguments.width = batch, 104, 104
            sizes_of.append(fused.libraries[1].laconv_fused_workspace_bf16_k7(ctypes.byref(arguments)))
        assert sizes_of[0] == sizes_of[1] <= 14e6
