"""Bytes that are kept for backward: counted exactly."""

from __future__ import annotations

import pytest
import torch

from laconvnet.kernels.bench import Case
from laconvnet.pipeline.bench import held
from laconvnet.pipeline.bench.held import OPERATOR, PEAK, STEP, operator_rows, saved_bytes, step_rows
from laconvnet.pipeline.bench.speed import Network, Way, made_input
from laconvnet.pipeline.model import ModelConfig

CPU = torch.device("cpu")
TINY = Network(ModelConfig("tiny"), 32, 6, 2, "fp32", 1)


def layer() -> Case:
    return Case("x", 32, 1, batch=1, unfold_batch=1, channels=8, condition=5, side=6, kernel_size=3, groups=2)


def test_storages_count_once_and_whole() -> None:
    x, y = torch.ones(10, 10, requires_grad=True), torch.ones(10, 10, requires_grad=True)
    assert saved_bytes(lambda: x * x) == 400
    assert saved_bytes(lambda: x * y) == 800
    assert saved_bytes(lambda: x * y, [y]) == 400
    assert saved_bytes(lambda: x[:1] * y[:1]) == 800, "a view keeps all of it"
    assert saved_bytes(lambda: x + y) == 0
    assert saved_bytes(lambda: x.exp()) == 400, "the result is what its gradient is made of"


def test_what_is_let_go_before_the_end_does_not_count() -> None:
    x = torch.ones(10, 10, requires_grad=True)

    def work() -> torch.Tensor:
        (x * 2).exp()  # nobody keeps it
        return x * x

    assert saved_bytes(work) == 400


def test_rows_of_a_layer() -> None:
    rows = {(row["operation"], row["name"]): row for row in operator_rows([layer()], "fp32", 3, CPU, 2)}
    pixels = 3 * 36
    given = {"dynamic_conv": 4 * pixels * (8 + 18), "laconv": 4 * (pixels * (8 + 5) + 18 * 6)}
    for (operation, name), row in rows.items():
        assert (row["bench"], row["measure"], row["unit"], row["baseline"]) == ("bytes", OPERATOR, "bytes", "unfold")
        assert (row["batch"], row["stage"], row["kernel_size"], row["rounds"], row["spread"]) == (3, 1, 3, 2, 0)
        assert row["input_bytes"] == given[operation]
        assert row["ratio"] == rows[operation, "unfold"]["median"] / row["median"]
        if name == "laconv":
            assert row["median"] == given[operation], "the operator keeps its inputs and nothing else"
        else:
            assert row["median"] > 4 * pixels * 8 * 9, "the tensor of unfold"


def test_rows_of_a_step() -> None:
    rows = {(row["measure"], row["name"]): row for row in step_rows(TINY, CPU, 2)}
    assert set(rows) == {(measure, name) for measure in (STEP, PEAK) for name in ("unfold", "laconv")}
    ours, theirs = rows[STEP, "laconv"], rows[STEP, "unfold"]
    assert 0 < ours["median"] < theirs["median"]
    assert ours["spread"] == 0
    assert ours["ratio"] == theirs["median"] / ours["median"]
    assert (ours["preset"], ours["size"], ours["batch"], ours["dtype"]) == ("tiny", 32, 2, "fp32")
    assert "left out" in rows[PEAK, "laconv"]["note"]
    assert rows[PEAK, "laconv"]["median"] is None


def test_a_step_without_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Way.loss

    def loss(way: Way, *inputs: torch.Tensor) -> torch.Tensor:
        if any(type(module).__name__ == "Unfolded" for module in way.model.modules()):
            raise torch.OutOfMemoryError("no room")
        return usual(way, *inputs)

    monkeypatch.setattr(Way, "loss", loss)
    rows = {row["name"]: row for row in step_rows(TINY, CPU, 1) if row["measure"] == STEP}
    assert (rows["unfold"]["note"], rows["unfold"]["median"]) == ("out of memory", None)
    assert rows["laconv"]["median"] > 0
    assert rows["laconv"]["baseline"] == "laconv"


def test_the_peak_of_a_gpus_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a pretended one: the optimizer's state is made before, and what stays is taken off."""
    way = Way(TINY, CPU, False)
    states: list[int] = []
    answers = {"memory_allocated": 100, "max_memory_allocated": 350, "synchronize": None}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: states.append(len(way.optimizer.state)))
    inputs = made_input(TINY, 2, CPU)
    assert held._peak(way, inputs) == 250
    assert states[0] > 0
