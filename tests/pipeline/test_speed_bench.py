"""The networks whose steps `bench train` times: the same network in both ways, and what a row says of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from laconvnet.pipeline.bench import speed
from laconvnet.pipeline.bench.speed import Network, Unfolded, Way, unfolded
from laconvnet.pipeline.model import ModelConfig, build_model
from laconvnet.pipeline.model.blocks.laconv import Filters
from laconvnet.pipeline.training import hardware

CPU = torch.device("cpu")
TINY = Network(ModelConfig("tiny"), 32, 6, 4, "fp32", 1)


@pytest.fixture
def from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "missing", lambda: ["nvidia.dali"])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("side", [5, 1])
def test_the_textbooks_filters_are_the_blocks(interleaved: bool, side: int) -> None:
    torch.manual_seed(0)
    config = SimpleNamespace(kernel_size=3, groups=2, interleaved=interleaved, filter_dropout=0.0)
    filters = Filters(config, 7)  # type: ignore[arg-type]
    x, condition = torch.randn(2, 8, 5, 5, requires_grad=True), torch.randn(2, 7, side, side)
    found = [way(x, condition) for way in (filters, Unfolded(filters))]
    torch.testing.assert_close(*found)
    gradients = [torch.autograd.grad(out.square().sum(), (x, filters.weight, filters.bias)) for out in found]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_both_ways_are_the_same_network() -> None:
    models = []
    for reference in (False, True):
        torch.manual_seed(0)
        model = build_model(ModelConfig("tiny"), 50).eval()
        models.append(unfolded(model) if reference else model)
    images, tokens = torch.rand(2, 3, 64, 64), torch.randint(2, 50, (2, 6))
    with torch.inference_mode():
        torch.testing.assert_close(models[0](images, tokens), models[1](images, tokens), rtol=1e-4, atol=1e-4)
    kinds = [{type(module).__name__ for module in model.modules()} for model in models]
    assert "Unfolded" in kinds[1] - kinds[0]


def test_a_step_trains() -> None:
    way = Way(TINY, CPU, False)
    before = [weight.clone() for weight in way.weights]
    way.step(torch.rand(4, 3, 32, 32), torch.randint(2, 50, (4, 6)))
    assert sum(not torch.equal(old, new) for old, new in zip(before, way.weights, strict=True)) > len(before) / 2


@pytest.mark.usefixtures("from_memory")
def test_rows_by_a_clock_that_steps_move(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(hardware, "peak", lambda device, precision: 1e12)

    def step(way: Way, images: Any, tokens: Any) -> None:
        reference = any(isinstance(module, Unfolded) for module in way.model.modules())
        clock[0] += 0.4 if reference else 0.1

    monkeypatch.setattr(Way, "step", step)
    output: list[None] = []
    found = speed.rows(TINY, CPU, 3, 2, lambda: output.append(None))
    unfold, ours = found
    assert len(output) == 6
    assert (unfold["name"], ours["name"], ours["baseline"]) == ("unfold", "laconv", "unfold")
    assert (unfold["median"], ours["median"]) == (pytest.approx(100), pytest.approx(25))  # ms an image, of four
    assert ours["ratio"] == pytest.approx(4)
    assert ours["over_percent"] == pytest.approx(-75)
    assert ours["samples_per_s"] == pytest.approx(40)
    assert ours["data_wait"] == 0
    assert ours["mfu"] == pytest.approx(40 * speed._operations(TINY) / 1e12)
    assert ours["data"] == "memory: without nvidia.dali"


@pytest.mark.usefixtures("from_memory")
def test_waiting_for_data_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def advance(*_: Any) -> None:
        clock[0] += 0.3

    class Slow:
        def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
            clock[0] += 0.1
            return torch.zeros(4), torch.zeros(4)

    monkeypatch.setattr(Way, "step", advance)
    monkeypatch.setattr(speed, "repeat", lambda batch: Slow())
    assert [row["data_wait"] for row in speed.rows(TINY, CPU, 1, 2, lambda: None)] == [pytest.approx(0.25)] * 2


@pytest.mark.usefixtures("from_memory")
@pytest.mark.parametrize(("room", "images"), [(2, 2), (0, None)])
def test_unfold_takes_what_it_has_room_for(room: int, images: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Way.step

    def step(way: Way, images: torch.Tensor, tokens: torch.Tensor) -> None:
        if any(isinstance(module, Unfolded) for module in way.model.modules()) and way.pictures > room:
            raise torch.OutOfMemoryError("no room")
        usual(way, images, tokens)

    monkeypatch.setattr(Way, "step", step)
    found = {row["name"]: row for row in speed.rows(TINY, CPU, 1, 1, lambda: None)}
    assert found["laconv"]["pictures"] == 4
    assert found["laconv"]["note"] is None
    if images:
        assert found["unfold"]["pictures"] == images
        assert found["unfold"]["note"] == "2 of 4 images: no room for more"
        assert found["laconv"]["ratio"] == pytest.approx(found["unfold"]["median"] / found["laconv"]["median"])
    else:
        assert found["unfold"]["note"] == "out of memory"
        assert found["unfold"]["median"] is None
        assert found["laconv"]["baseline"] == "laconv"
