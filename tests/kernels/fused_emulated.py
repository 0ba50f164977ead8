"""The fused kernels on a CPU: one unit at a time compiled by g++ under the emulation, and what they must compute."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from laconvnet.kernels.cuda.compiler import units
from laconvnet.kernels.cuda.fused import FusedArguments
from laconvnet.kernels.cuda.library import TYPES
from laconvnet.kernels.plain import taps
from tests.kernels.compiled import emulated
from tests.kernels.mask_reference import of_filters


def in_halves(cases: Sequence[tuple[int, ...]]) -> list[ParameterSet]:
    """`case, dtype`: each in bfloat16 and every third in float16 too, the others of it as variants."""
    return [
        pytest.param(case, dtype, marks=[pytest.mark.variant] if dtype == torch.float16 and number % 3 else [])
        for number, case in enumerate(cases)
        for dtype in (torch.float16, torch.bfloat16)
    ]


def sizes(given: Problem) -> FusedArguments:
    """The arguments of a call but for its addresses."""
    batch, channels, height, width = given.x.shape
    return FusedArguments(
        batch=batch, height=height, width=width, channels=channels, condition=given.cond.shape[1],
        groups=given.groups, kernel_size=given.kernel_size, threshold=given.threshold,
    )  # fmt: skip


class Counts(NamedTuple):
    """Bytes of device memory read and written, wavefronts of shared memory and what they would be without conflicts."""

    read: int
    written: int
    wavefronts: int
    phases: int


def build(source: str, folder: Path) -> Fused:
    """The units of the kernel library that are made of a source, such as fused/k3.cu, compiled for the CPU."""
    libraries = []
    for unit in (unit for unit in units() if unit.source == source):
        place = folder / unit.name
        place.mkdir()
        libraries.append(ctypes.CDLL(str(emulated(place, unit.__eq__))))
    return Fused(*libraries)


@dataclass(frozen=True)
class Problem:
    """Inputs of one call, in `dtype`, and its exact results (each over all steps in float64)."""

    x: Tensor  # (B, C, H, W)
    cond: Tensor  # (B, M, H, W)
    weight: Tensor  # (k*k*g, M)
    bias: Tensor | None  # (k*k*g,)
    grad: Tensor  # (B, C, H, W)
    kernel_size: int
    groups: int
    keys: Tensor | None = None  # int64 (B,)
    threshold: int = 0

    def mask(self) -> Tensor | float:
        """What filters are multiplied by, float64 (B, k*k*g, H, W): 0 or the scale of those that are kept."""
        if self.keys is None:
            return 1.0
        (height, width), k = self.x.shape[2:], self.kernel_size
        masks = [of_filters(int(key), height, width, k, self.groups, self.threshold / 256) for key in self.keys]
        return torch.stack(masks)

    def double(self) -> Problem:
        """The same numbers in float64."""
        wide = {name: getattr(self, name).double() for name in ("x", "cond", "weight", "grad")}
        return replace(self, bias=None if self.bias is None else self.bias.double(), **wide)

    def filters(self) -> Tensor:
        """Before dropout, (B, k*k*g, H, W)."""
        product = torch.einsum("bmhw,fm->bfhw", self.cond, self.weight)
        return product if self.bias is None else product + self.bias[:, None, None]

    def forward(self) -> Tensor:
        """The result, float64 (B, C, H, W)."""
        exact = self.double()
        return taps.forward(exact.x, exact.filters() * self.mask(), self.kernel_size, self.groups, False)

    def gradients(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of x, cond, weight and bias, float64."""
        exact, mask = self.double(), self.mask()
        shape = (self.kernel_size, self.groups, False)
        grad_x, grad_filters = taps.backward(exact.grad, exact.x, exact.filters() * mask, *shape)
        grad_filters = grad_filters * mask
        grad_cond = torch.einsum("bfhw,fm->bmhw", grad_filters, exact.weight)
        grad_weight = torch.einsum("bfhw,bmhw->fm", grad_filters, exact.cond)
        return grad_x, grad_cond, grad_weight, grad_filters.sum((0, 2, 3))


def problem(
    dtype: torch.dtype,
    batch: int,
    height: int,
    width: int,
    channels: int,
    condition: int,
    groups: int,
    kernel_size: int,
    threshold: int = 0,
    bias: bool = True,
) -> Problem:
    """Random inputs; `threshold` > 0 drops that many of 256 filter values."""
    torch.manual_seed(height * width + kernel_size)
    filters = kernel_size**2 * groups
    x, grad = (torch.randn(batch, channels, height, width).to(dtype) for _ in range(2))
    cond = torch.randn(batch, condition, height, width).to(dtype)
    weight = (torch.randn(filters, condition) / condition**0.5).to(dtype)
    keys = torch.randint(-(2**63), 2**63 - 1, (batch,)) if threshold else None
    offset = torch.randn(filters).to(dtype) if bias else None
    return Problem(x, cond, weight, offset, grad, kernel_size, groups, keys, threshold)


def amid_nan(values: Tensor) -> Tensor:
    """The same values with NaN before and behind, images channels last: what is read there spoils a result."""
    dense = values.permute(0, 2, 3, 1).contiguous() if values.dim() == 4 else values.contiguous()
    room = torch.full((dense.numel() + 128,), torch.nan, dtype=values.dtype)
    inner = room[64 : 64 + dense.numel()].view(dense.shape).copy_(dense)
    return inner.permute(0, 3, 1, 2) if values.dim() == 4 else inner


class Guarded:
    """A result that begins as NaN (image: channels last), with room around it that must stay as it is."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.last = len(shape) == 4
        lies = (shape[0], *shape[2:], shape[1]) if self.last else shape
        count = int(np.prod(lies))
        self.room = torch.full((count + 128,), torch.nan, dtype=dtype)
        self.inner = self.room[64 : 64 + count].view(lies)

    def address(self) -> int:
        return self.inner.data_ptr()

    def value(self) -> Tensor:
        """The result; AssertionError where something beside it was written."""
        edges = torch.cat([self.room[:64], self.room[64 + self.inner.numel() :]])
        assert edges.isnan().all(), "written beside the result"
        return self.inner.permute(0, 3, 1, 2) if self.last else self.inner


class Packed(NamedTuple):
    """A condition as the convolution before leaves it: relu(scale * relu(cond) + shift) is the condition."""

    cond: Tensor  # (B, ceil(H/s), ceil(W/s), s, s, M)
    scale: Tensor  # float32 (M,)
    shift: Tensor  # float32 (M,)


class Fused:
    """The entry points of emulated units, on tensors."""

    def __init__(self, *libraries: ctypes.CDLL) -> None:
        self.libraries = libraries

    def code(
        self,
        what: str,
        kernel: str,
        given: Problem,
        workspace: Tensor | None,
        packed: Packed | None = None,
        **results: Guarded,
    ) -> int:
        """What an entry point answers."""
        held = {name: amid_nan(getattr(given, name)) for name in ("x", "cond", "weight", "grad")}
        arguments = sizes(given)
        for name, tensor in held.items():
            setattr(arguments, name, tensor.data_ptr())
        for name, result in results.items():
            setattr(arguments, name, result.address())
        offset = None if given.bias is None else amid_nan(given.bias)
        arguments.bias = None if offset is None else offset.data_ptr()
        arguments.keys = None if given.keys is None else given.keys.data_ptr()
        if packed is not None:
            held["cond"], scale, shift = (amid_nan(tensor.flatten()) for tensor in packed)
            arguments.cond, arguments.scale, arguments.shift = (t.data_ptr() for t in (held["cond"], scale, shift))
            arguments.packing = packed.cond.shape[3]
        if workspace is not None:
            arguments.workspace, arguments.workspace_bytes = workspace.data_ptr(), workspace.numel()
        return int(self._entry(what, kernel, given)(ctypes.byref(arguments), None))

    def workspace_bytes(self, kernel: str, given: Problem) -> int:
        """What `grad_filters` asks for where the weight's gradient is wanted."""
        entry = self._entry("workspace", kernel, given)
        entry.restype = ctypes.c_int64
        return int(entry(ctypes.byref(sizes(given))))

    def _entry(self, what: str, kernel: str, given: Problem) -> Any:
        name = f"laconv_fused_{what}_{TYPES[given.x.dtype]}_{kernel}"
        found = [getattr(library, name) for library in self.libraries if hasattr(library, name)]
        assert found, f"no entry point {name}"
        return found[0]

    def _call(
        self,
        what: str,
        kernel: str,
        given: Problem,
        workspace: Tensor | None,
        packed: Packed | None = None,
        **results: Guarded,
    ) -> None:
        code = self.code(what, kernel, given, workspace, packed, **results)
        assert code == 0, f"{what} {kernel}: code {code}"

    def forward(self, kernel: str, given: Problem, packed: Packed | None = None) -> Tensor:
        """(B, C, H, W), of the entry point whose name ends in `kernel`; `packed` takes the place of the condition."""
        result = Guarded(tuple(given.x.shape), given.x.dtype)
        self._call("forward", kernel, given, None, packed, result=result)
        return result.value()

    def grad_x(self, kernel: str, given: Problem) -> Tensor:
        """(B, C, H, W)."""
        result = Guarded(tuple(given.x.shape), given.x.dtype)
        self._call("grad_x", kernel, given, None, result=result)
        return result.value()

    def grad_filters(
        self, kernel: str, given: Problem, workspace_bytes: int, wanted: tuple[str, ...] = ("cond", "weight")
    ) -> dict[str, Tensor]:
        """The gradients that are wanted, by name; `bias` comes with `weight`."""
        shapes = {"cond": given.cond.shape, "weight": given.weight.shape, "bias": given.weight.shape[:1]}
        names = [name for name in shapes if name in wanted or (name == "bias" and "weight" in wanted)]
        results = {
            f"grad_{name}": Guarded(tuple(shapes[name]), given.x.dtype if name == "cond" else torch.float32)
            for name in names
        }
        workspace = torch.full((workspace_bytes,), 0xFF, dtype=torch.uint8)
        self._call("grad_filters", kernel, given, workspace, None, **results)
        return {name: results[f"grad_{name}"].value() for name in names}

    def counted(self, run: object) -> Counts:
        """What `run()`, a call of one of the above, moved."""
        for library in self.libraries:
            library.laconv_emulation_count()
        assert callable(run)
        run()
        totals = np.zeros(4, np.int64)
        for library in self.libraries:
            numbers = (ctypes.c_int64 * 4)()
            library.laconv_emulation_counted(numbers)
            totals += np.array(numbers[:])
        return Counts(*map(int, totals))


def error(found: Tensor, exact: Tensor) -> float:
    """The largest deviation, as a share of the largest exact value."""
    assert found.shape == exact.shape
    assert not found.isnan().any()
    return float((found.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-30))
