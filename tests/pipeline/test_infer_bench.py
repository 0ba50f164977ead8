"""A network that answers: both ways on the same images with the same weights, and what a row says."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from laconvnet.kernels.bench import timing
from laconvnet.pipeline.bench import infer
from laconvnet.pipeline.bench.speed import Network, Unfolded
from laconvnet.pipeline.model import ModelConfig
from laconvnet.pipeline.model.model import Model

CPU = torch.device("cpu")


@pytest.mark.parametrize("task", ["rec", "vqa"])
def test_rows_by_a_clock_that_steps_move(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    seen: list[tuple[int, bool, bool]] = []
    usual = Model.forward
    outputs: dict[bool, torch.Tensor] = {}

    def forward(model: Model, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        reference = any(isinstance(module, Unfolded) for module in model.modules())
        clock[0] += (0.04 if reference else 0.01) * len(images)
        seen.append((len(images), model.training, torch.is_grad_enabled()))
        outputs[reference] = usual(model, images, tokens)
        return outputs[reference]

    monkeypatch.setattr(Model, "forward", forward)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    latency, throughput = infer.rows(Network(ModelConfig("tiny", task), 32, 6, 3, "fp32"), CPU, 2)
    assert seen == [(batch, False, False) for batch in (*itertools.repeat(1, 6), *itertools.repeat(3, 6))]
    torch.testing.assert_close(outputs[True], outputs[False], rtol=1e-4, atol=1e-4)
    for found, measure, batch in ((latency, "latency", 1), (throughput, "throughput", 3)):
        unfold, ours = found
        assert [row["name"] for row in found] == ["unfold", "laconv"]
        assert ours["median"] == pytest.approx(10 * batch)
        assert ours["ratio"] == pytest.approx(4)
        assert (unfold["ratio"], ours["baseline"], ours["unit"], ours["rounds"]) == (1, "unfold", "ms", 2)
        assert ours["pictures_per_s"] == pytest.approx(100)
        assert (ours["bench"], ours["measure"], ours["batch"], ours["task"]) == ("infer", measure, batch, task)
        assert (ours["preset"], ours["size"], ours["precision"]) == ("tiny", 32, "fp32")
        assert ours["device"].endswith("threads")


def test_a_way_without_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Unfolded, "forward", full)
    latency, _ = infer.rows(Network(ModelConfig("tiny"), 32, 6, 2, "fp32"), CPU, 1)
    assert [(row["note"], row["ratio"], row["pictures_per_s"] is None) for row in latency] == [
        ("out of memory", None, True),
        (None, None, False),
    ]


def test_what_else_answers_is_timed_in_turn_and_drawn(tmp_path: Path) -> None:
    """ONNX Runtime, a plug-in of MCN's make and ViLT run what they are given, and each is a point of the figure."""
    others = ["onnxruntime", "film-over-darknet", "vilt"]
    table = [
        row
        for rows in infer.rows(Network(ModelConfig("tiny", block="film"), 32, 6, 2, "fp32"), CPU, 1, others)
        for row in rows
    ]
    assert [row["name"] for row in table] == 2 * ["unfold", "laconv", *others]
    assert all(row["median"] > 0 and row["peak_mb"] is not None and row["note"] is None for row in table)
    infer.plot(table, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert all(drawn.count(f"<!-- {name} -->") == 2 for name in others)


def test_a_way_whose_package_is_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    latency, _ = infer.rows(Network(ModelConfig("tiny", block="film"), 32, 6, 1, "fp32"), CPU, 1, ["onnxruntime"])
    assert [row["note"] for row in latency] == [None, None, "failed: onnxruntime is not installed here"]


def test_memory_that_ran_before_does_not_hide_what_is_taken() -> None:
    clock = timing._ProcessorClock(False)
    many = {"many": lambda _: [torch.ones(2**16) for _ in range(200)]}  # 50 MB in pieces that an allocator keeps
    assert min(clock.prepare(many) or 0, clock.prepare(many) or 0) > 40
