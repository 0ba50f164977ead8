"""Bytes that operators move: counted exactly, of a norm and of a whole step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from laconvnet.pipeline.bench import moved as bench
from laconvnet.pipeline.bench.ids import row_id
from laconvnet.pipeline.bench.moved import DEAREST, LEAST, MOVED, TERMS, Moved, _pretended, _step, step_rows
from laconvnet.pipeline.bench.speed import Network
from laconvnet.pipeline.model import ModelConfig, build_model
from laconvnet.pipeline.model.blocks.base import BlockConfig
from laconvnet.pipeline.model.blocks.laconv import ConditionGenerator, LaConvBlock
from laconvnet.pipeline.model.norm import BatchNorm

CPU = torch.device("cpu")
BYTES_OF_A_STEP = 48.8e9  # preset s, size 416, batch 64, bf16
TINY = Network(ModelConfig("tiny"), 32, 6, 2, "bf16", 1)


# Of their input these read the shape alone.
mean_back, max_back = torch.ops.aten.avg_pool2d_backward, torch.ops.aten.max_pool2d_with_indices_backward
PLACES = torch.zeros(1, 5, 5, dtype=torch.int64)


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
        (
            lambda x, y: torch.ops.aten.avg_pool2d_backward(x[:5, :5][None], x[None], [2], [2], [0], False, True, None),
            1.25,
        ),
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


STAGES = {  # of preset s: block of k 3 that is read packed, block of k 7, block without packing
    "read packed": BlockConfig(dim=16, condition=64, groups=4, packing=8, kernel_size=3, words=8),
    "unpacked": BlockConfig(dim=64, condition=128, groups=4, packing=4, kernel_size=7, words=8),
    "not packed": BlockConfig(dim=128, condition=256, groups=8, packing=1, kernel_size=7, words=8),
}


@pytest.mark.parametrize("name", STAGES)
def test_passes_over_the_condition(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """How often its size is read and written: forward 3 times with merge (5 where it is unpacked), which were 12."""
    config = STAGES[name]
    with FakeTensorMode():
        block = LaConvBlock(config)
        assert isinstance(block.generator, ConditionGenerator)
        block.generator.norm.as_on_gpu = True
        x = torch.empty(3, config.dim, 32, 32, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        words, mask = torch.empty(3, 3, 8, dtype=torch.bfloat16), torch.ones(3, 3, dtype=torch.bool)
        size = x[:, 0].numel() * config.condition
        monkeypatch.setattr(bench, "_bytes", lambda tensor: int(tensor.numel() == size))
        with Moved() as forward, torch.autocast("cpu", torch.bfloat16):
            out = block._convolved(x.requires_grad_(), words, mask)
        with Moved() as backward:
            out.backward(torch.empty_like(out))
    taken = {"laconv::laconv_packed": 1} if name == "read packed" else {"laconv::unpack": 2, "laconv::laconv": 1}
    again = {"laconv::unpack": 2} if name == "read packed" else {}
    of_norm = {"laconv::unpack_backward_reduce": 2, "laconv::unpack_backward_apply": 3}
    found = [{key: value for key, value in one.by_operator.items() if value} for one in (forward, backward)]
    ours = [{key: value for key, value in one.items() if key.startswith("laconv::")} for one in found]
    assert ours[0] == {"laconv::norm_statistics": 1} | taken
    assert ours[1] == {"laconv::laconv_backward": 2} | again | of_norm
    if config.packing > 1:  # else what the affinity works on is as large
        others = [{key: value for key, value in one.items() if key not in ours[0] | ours[1]} for one in found]
        assert others == [{"aten::convolution": 1}, {"aten::convolution_backward": 1}], "merge, and nothing else"


def test_a_step_of_the_small_network_stays_within_its_bytes() -> None:
    """On the way to 45 GB, counted as of a GPU."""
    moved = _step(Network(ModelConfig("s"), 416, 15, 64, "bf16", 1), 1, False)
    assert moved.total < BYTES_OF_A_STEP


def test_where_in_the_network() -> None:
    """Forward by the module, backward by that of the forward call; passes by the largest tensor of each call."""
    with FakeTensorMode():
        block = LaConvBlock(STAGES["not packed"])
        x = torch.empty(2, 128, 8, 8, requires_grad=True)
        words, mask = torch.empty(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)
        with Moved() as moved, moved.places:
            block(x, words, mask).sum().backward()
    expand = {key[1:]: term for key, term in moved.by_term.items() if key[0].startswith("aten::convolution")}
    assert {("forward", "mlp.expand"), ("backward", "mlp.expand"), ("backward", "generator.merge")} <= set(expand)
    term = expand["forward", "mlp.expand"]
    size = 4 * 2 * 128 * 8 * 8
    assert (term.calls, term.largest) == (1, 4 * size)
    assert term.passes == (5 * size + 4 * 512 * 128) / (4 * size)
    assert sum(term.moved for term in moved.by_term.values()) == moved.total


def test_rows_of_a_step() -> None:
    found = list(step_rows(TINY, CPU))
    rows = {(row["world"], row["name"]): row for row in found if row["measure"] == MOVED}
    assert set(rows) == {(world, name) for world in (1, 8) for name in ("unfold", "laconv")}
    assert not dist.is_initialized()
    for (world, name), row in rows.items():
        assert (row["bench"], row["measure"], row["unit"], row["baseline"]) == ("bytes", MOVED, "bytes", "unfold")
        assert (row["preset"], row["size"], row["batch"], row["dtype"]) == ("tiny", 32, 2, "bf16")
        assert row["ratio"] == rows[world, "unfold"]["median"] / row["median"]
        assert 0 < row["of_norms"] == rows[world, "laconv"]["of_norms"], "as many in each way"
        assert row["of_norms"] + row["of_laconv"] + row["of_convolutions"] < row["median"]
        assert (row["of_laconv"] > 0) == (name == "laconv")
    assert rows[8, "laconv"]["median"] < rows[8, "unfold"]["median"]
    (least,) = (row for row in found if row["measure"] == LEAST)
    dearest = [row for row in found if row["measure"] == DEAREST]
    moved = rows[1, "laconv"]["median"]
    assert rows[1, "laconv"]["of_convolutions"] + rows[1, "laconv"]["of_laconv"] < least["median"] < moved
    assert sorted(dearest, key=lambda row: -row["median"]) == dearest
    assert len(dearest) == TERMS
    assert sum(row["median"] for row in dearest) < moved
    assert len({row_id(row) for row in found}) == len(found)
    alone, joined = (rows[world, "laconv"]["of_norms"] for world in (1, 8))
    channels = sum(len(norm.weight) for norm in build_model(TINY.model, 10).modules() if isinstance(norm, BatchNorm))
    norms = sum(isinstance(norm, BatchNorm) for norm in build_model(TINY.model, 10).modules())
    assert joined - alone == 4 * (8 + 1) * (2 * channels + norms), "what was exchanged, and what it is combined to"
