"""Bytes that operators move: counted exactly, of a norm and of a whole step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from laconvnet.pipeline.bench.moved import MOVED, Moved, _pretended, step_rows
from laconvnet.pipeline.bench.speed import Network
from laconvnet.pipeline.model import ModelConfig
from laconvnet.pipeline.model.norm import BatchNorm

CPU = torch.device("cpu")
TINY = Network(ModelConfig("tiny"), 32, 6, 2, "bf16", 1)


@pytest.mark.parametrize(
    ("work", "tensors"),
    [
        (lambda x, y: x + y, 3),
        (lambda x, y: x + x, 3),
        (lambda x, y: x.add_(y), 3),
        (lambda x, y: x.copy_(y), 2),
        (lambda x, y: x.fill_(1), 1),
        (lambda x, y: torch.zeros_like(x), 1),
        (lambda x, y: x.new_zeros(10, 10), 1),
        (lambda x, y: torch.add(x, y, out=torch.empty(10, 10)), 3),
        (lambda x, y: torch.cat([x, y]), 4),
        (lambda x, y: x.T.reshape(100), 2),
        (lambda x, y: x.view(100)[3:].detach(), 0),
        (lambda x, y: torch.empty_like(x), 0),
        (lambda x, y: x[:1].expand(10, 10) + y, 2.1),
        (lambda x, y: x.bfloat16(), 1.5),
        (lambda x, y: x.sum(1), 1.1),
    ],
)
def test_what_an_operator_moves(work: Callable[[Tensor, Tensor], Tensor], tensors: float) -> None:
    x, y = torch.ones(10, 10), torch.ones(10, 10)
    with Moved() as moved:
        work(x, y)
    assert moved.total == round(400 * tensors)


def bytes_a_value(dtype: torch.dtype, with_sum: bool, relu: bool, world: int) -> float:
    """Of a norm, forward and backward, by the values of its map, as a GPU's operators move them."""
    with _pretended(world), FakeTensorMode():
        norm = BatchNorm(64)
        norm.as_on_gpu = True
        maps = [torch.empty(8, 64, 104, 104, dtype=dtype).to(memory_format=torch.channels_last) for _ in range(3)]
        x, beside, grad = (each.requires_grad_(number < 2) for number, each in enumerate(maps))
        inputs = [x, *norm.parameters(), *([beside] if with_sum else [])]
        with Moved() as moved:
            torch.autograd.grad(norm(x, beside if with_sum else None, relu=relu), inputs, grad)
    return float(moved.total / x.numel())


@pytest.mark.parametrize("world", [1, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("with_sum", "relu", "passes"), [(False, False, 8), (False, True, 8), (True, False, 9), (True, True, 11)]
)
def test_a_norm_moves_a_map_so_many_times(
    world: int, dtype: torch.dtype, with_sum: bool, relu: bool, passes: int
) -> None:
    """2 bytes a value for each: statistics 1, output 2, sums 2, gradient 3. What is added is read once more; with the
    ReLU behind it the output is read and the gradient of what is added is written.
    """
    found = bytes_a_value(dtype, with_sum, relu, world)
    assert passes * dtype.itemsize <= found <= passes * dtype.itemsize * 1.001


def test_a_map_that_is_not_channels_last_is_laid_so_once() -> None:
    with FakeTensorMode():
        norm = BatchNorm(64)
        norm.as_on_gpu = True
        x = torch.empty(8, 64, 104, 104, dtype=torch.bfloat16).requires_grad_()
        with Moved() as moved:
            torch.autograd.grad(norm(x, relu=True), x, torch.empty_like(x))
    assert 16 + 2 * 4 <= moved.total / x.numel() <= 1.001 * (16 + 2 * 4), "the input and the gradient, once each"


def test_rows_of_a_step() -> None:
    rows = {(row["world"], row["name"]): row for row in step_rows(TINY, CPU)}
    assert set(rows) == {(world, name) for world in (1, 8) for name in ("unfold", "laconv")}
    assert not dist.is_initialized()
    for (world, name), row in rows.items():
        assert (row["bench"], row["measure"], row["unit"], row["baseline"]) == ("bytes", MOVED, "bytes", "unfold")
        assert (row["preset"], row["size"], row["batch"], row["dtype"]) == ("tiny", 32, 2, "bf16")
        assert row["ratio"] == rows[world, "unfold"]["median"] / row["median"]
        assert 0 < row["of_norms"] == rows[1, "laconv"]["of_norms"], "as many in each way and each number of processes"
        assert row["of_norms"] + row["of_laconv"] + row["of_convolutions"] < row["median"]
        assert (row["of_laconv"] > 0) == (name == "laconv")
    assert rows[8, "laconv"]["median"] < rows[8, "unfold"]["median"]
