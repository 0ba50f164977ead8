"""What is exchanged for batch norm: the same result in small worlds as ever, and the same cost in any larger one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from laconvnet.pipeline.model import batch_statistics
from laconvnet.pipeline.model.batch_statistics import GATHERED, from_sums, to_sums
from laconvnet.pipeline.model.norm import BatchNorm

CHANNELS = 6


@pytest.fixture
def joined() -> Iterator[Callable[[int], None]]:
    """Join a world of any size by itself: what is exchanged stays as it was, as if the others had nothing to add."""
    yield lambda world: dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    dist.destroy_process_group()


@pytest.fixture
def exchanged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The collectives that were called, and the bytes that each of them has come back with."""
    found: list[tuple[str, int]] = []
    gather, reduce = dist.all_gather, dist.all_reduce

    def gathered(every: list[Tensor], own: Tensor) -> None:
        found.append(("gather", sum(one.nbytes for one in every)))
        gather(every, own)
        for one in every:
            one.copy_(own)

    def reduced(value: Tensor, *arguments: Any, **options: Any) -> Any:
        found.append(("reduce", value.nbytes))
        return reduce(value, *arguments, **options)

    monkeypatch.setattr(dist, "all_gather", gathered)
    monkeypatch.setattr(dist, "all_reduce", reduced)
    return found


def step(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    x = torch.randn(4, CHANNELS, 5, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    out = norm(x)
    out.square().sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad


@pytest.mark.parametrize("world", [GATHERED + 1, 512, 8000])
def test_what_a_norm_exchanges_is_the_same_in_any_large_world(
    world: int, joined: Callable[[int], None], exchanged: list[tuple[str, int]]
) -> None:
    joined(world)
    out, grad = step(norm := BatchNorm(CHANNELS))
    assert exchanged == [("reduce", 8 * (2 * CHANNELS + 1)), ("reduce", 8 * 2 * CHANNELS)]
    alone = torch.nn.BatchNorm2d(CHANNELS)
    wanted, of_x = step(alone)  # type: ignore[arg-type]
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(grad, of_x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.running_var, alone.running_var)


def test_small_worlds_gather_in_the_order_of_their_ranks(
    joined: Callable[[int], None], exchanged: list[tuple[str, int]]
) -> None:
    joined(GATHERED)
    step(BatchNorm(CHANNELS))
    assert exchanged == [("gather", GATHERED * 4 * (2 * CHANNELS + 1)), ("gather", GATHERED * 4 * 2 * CHANNELS)]


@pytest.mark.parametrize("mean", [0.0, 1.0, 3e4])
def test_sums_are_as_near_as_what_was_gathered(mean: float) -> None:
    """512 processes of different counts, one of them without a value: against exact arithmetic of the same input."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 50, (512, 1), generator=generator).float()
    counts[7] = 0
    means = mean + torch.randn(512, CHANNELS, generator=generator)
    every = torch.cat([means, torch.rand(512, CHANNELS, generator=generator), counts], 1)
    exact = torch.ops.laconv.norm_combine(every.double())
    found = from_sums(torch.stack([to_sums(own) for own in every]).sum(0))
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0.0)
    gathered = torch.ops.laconv.norm_combine(every).double()
    assert ((found.float() - exact).abs() <= (gathered - exact).abs() + exact.abs() * torch.finfo().eps).all()
    if mean <= 1:
        other_order = from_sums(torch.stack([to_sums(own) for own in every.flip(0)]).sum(0))
        assert torch.equal(other_order.float(), found.float())


def test_what_is_not_finite_on_one_process_is_so_on_all() -> None:
    own = torch.ones(3, 2 * CHANNELS + 1)
    own[1, 0], own[1, 1] = torch.nan, torch.inf
    found = from_sums(torch.stack([to_sums(one) for one in own]).sum(0))
    assert not found[[0, 1, CHANNELS, CHANNELS + 1]].isfinite().any()
    assert found[2:CHANNELS].isfinite().all()


def test_equal_values_have_no_negative_variance() -> None:
    own = torch.tensor([0.1] * CHANNELS + [0.0] * CHANNELS + [3.0])
    found = from_sums(torch.stack([to_sums(own)] * 4).sum(0))
    assert (found[CHANNELS:-1] >= 0).all()


def test_sums_alone_of_one_process_are_its_own() -> None:
    own = torch.randn(4)
    assert batch_statistics.global_sums(own) is own
