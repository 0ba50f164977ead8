"""A session in this process, without DeepSpeed: what it hands over to the next one, and what a step draws and counts.

What DeepSpeed makes of it is held by the runs on several processes, see test_elastic_resume.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import draws
from laconvnet.pipeline.training.engine import Engine
from laconvnet.pipeline.training.session import Outcome, Session, Source, report_start
from laconvnet.pipeline.training.start import start
from laconvnet.pipeline.training.state import scatter_optimizer_state

HERE = Path(__file__).parent
CPU = torch.device("cpu")
STEPS = 3
DROPOUTS = ["--model.affinity_dropout", "0.1", "--model.language.dropout", "0.1", "--data.size", "32"]


class Wrapped:
    """What DeepSpeed's engine does with a micro-batch on one process, under ZeRO 0."""

    def __init__(self, model: nn.Module, optimizer: Any, accumulate: int) -> None:
        self.model, self.optimizer, self._accumulate, self._counted = model, optimizer, accumulate, 0

    def __call__(self, *inputs: Any) -> Any:
        return self.model(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        (loss / self._accumulate).backward()

    def step(self) -> None:
        self._counted += 1
        if self._counted % self._accumulate == 0:
            self.optimizer.step()
            self.model.zero_grad()


class Alone(Engine):
    """The engine of one process of ``world``, which joins no group."""

    def __init__(self, config: TrainConfig, rank: int = 0, world: int = 1) -> None:
        self.config = config.engine
        self.rank, self.world, self.device = rank, world, CPU

    def wrap(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        if self.config.precision != "fp16":
            return Wrapped(model, optimizer, self.config.accumulate)
        scaler = SimpleNamespace(cur_scale=2.0**16, cur_iter=0, last_overflow_iter=-1, dynamic=True)
        return SimpleNamespace(optimizer=SimpleNamespace(loss_scaler=scaler))

    def agree(self, signal: int) -> int:
        return signal


@pytest.fixture(scope="module")
def folder(refcoco: Path) -> Path:
    return refcoco


def configured(folder: Path, *keys: str) -> TrainConfig:
    return configuration.load(HERE / "tiny.yaml", ["--data.folder", str(folder), *DROPOUTS, *keys])


def session_of(config: TrainConfig, state: dict[str, Any] | None = None, rank: int = 0, world: int = 1) -> Session:
    source = Source.open(config)
    begun = start(config, None, source.examples)
    if state:
        begun.model.load_state_dict(state["model"])
    return Session(config, source, Alone(config, rank, world), dataclasses.replace(begun, state=state))


def trained(session: Session, first: int, last: int) -> list[Outcome]:
    """The steps from ``first`` until before ``last``."""
    accumulate = session.config.engine.accumulate
    stream = session.stream(first)
    outcomes = [session.step(step, list(islice(stream, accumulate))) for step in range(first, last)]
    stream.close()
    return outcomes


def kept(session: Session, done: int) -> dict[str, Any]:
    """The state as a checkpoint has it: copied, for the next step writes over it."""

    def copied(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: copied(part) for name, part in value.items()}
        return value.clone() if isinstance(value, torch.Tensor) else value

    with session.state(done) as state:
        return dict(copied(state))


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of what differs, through all levels."""
    assert one.keys() == other.keys()
    names = []
    for name, value in one.items():
        if isinstance(value, dict):
            names += [f"{name}.{below}" for below in differing(value, other[name])]
        elif not (torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]):
            names.append(name)
    return names


@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_a_session_goes_on_from_the_state_of_another_to_the_same_weights(folder: Path, accumulate: str) -> None:
    config = configured(folder, "--engine.accumulate", accumulate, "--optimizer.lr", "0.01")
    undisturbed = session_of(config)
    first = trained(undisturbed, 0, STEPS)
    state = kept(undisturbed, STEPS)
    second = trained(undisturbed, STEPS, STEPS + 2)
    assert [outcome.updates for outcome in (*first, *second)] == [1, 2, 3, 4, 5]
    assert not any(outcome.skipped or outcome.bad for outcome in (*first, *second))
    assert (state["step"], state["updates"], state["loss_scale"]) == (STEPS, STEPS, None)
    assert (state["task"], state["data"]) == ("rec", undisturbed.source.examples.fingerprint)
    assert state["draws"] == draws.VERSION
    resumed = session_of(config, state)
    assert (resumed.first_step, resumed.updates) == (STEPS, STEPS)
    assert differing(kept(resumed, STEPS), state) == []
    assert {int(one["step"]) for one in resumed.wrapped.optimizer.state.values()} == {STEPS}
    again = trained(resumed, STEPS, STEPS + 2)
    for one, other in zip(again, second, strict=True):
        assert (one.updates, one.rate) == (other.updates, other.rate)
        assert differing(one.terms, other.terms) == []
    assert differing(kept(resumed, STEPS + 2), kept(undisturbed, STEPS + 2)) == []


def test_a_state_before_the_first_update_holds_no_moments_and_is_gone_on_from(folder: Path) -> None:
    config = configured(folder)
    state = kept(session_of(config), 0)
    assert (state["updates"], state["moments"]) == (0, {})
    assert state["ema"].keys() <= state["model"].keys()
    resumed = session_of(config, state)
    assert trained(resumed, 0, 1)[0].updates == 1
    assert kept(session_of(configured(folder, "--optimizer.ema", "0")), 0)["ema"] is None


def test_the_loss_scale_goes_on_where_it_was_and_not_at_that_of_the_configuration(folder: Path) -> None:
    """Under fp32 there is none, and that of an earlier start under fp16 is left alone."""
    half = configured(folder, "--engine.zero", "1", "--engine.precision", "fp16")
    fresh = session_of(half)
    fresh.wrapped.optimizer.loss_scaler.__dict__.update(cur_scale=32.0, cur_iter=7, last_overflow_iter=4)
    state = kept(fresh, 7)
    assert state["loss_scale"] == {"cur_scale": 32.0, "cur_iter": 7, "last_overflow_iter": 4}
    resumed = session_of(half, state)
    scaler = resumed.wrapped.optimizer.loss_scaler
    assert (scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter) == (32.0, 7, 4)
    assert session_of(half, {**state, "loss_scale": None}).wrapped.optimizer.loss_scaler.cur_scale == 2.0**16
    assert session_of(configured(folder), state).first_step == 7


def test_a_step_that_is_skipped_is_not_counted_and_undoes_the_statistics(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(configured(folder))
    trained(session, 0, 1)
    before = kept(session, 1)
    loss = session.task.loss
    monkeypatch.setattr(
        session.task, "loss", lambda *given: {name: value * float("nan") for name, value in loss(*given).items()}
    )
    monkeypatch.setattr(session.wrapped, "step", lambda: None)
    (outcome,) = trained(session, 1, 2)
    assert (outcome.skipped, outcome.bad, outcome.updates) == (True, True, 1)
    assert differing(kept(session, 1), before) == []


def test_what_a_process_tells_of_a_bad_step_is_its_part_of_it_and_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(configured(folder), rank=1, world=2)
    monkeypatch.setattr(Alone, "autocast", lambda _: nullcontext())
    stream = session.stream(3)
    batches = [next(stream)]
    stream.close()
    before = kept(session, 3)
    outcome = Outcome({"loss": torch.tensor(2.0)}, torch.tensor(7.0), 0.1, 3)
    record = session.examine(3, batches, outcome)
    assert {name: record[name] for name in ("rank", "world", "step", "terms", "gradient_norm")} == {
        **{"rank": 1, "world": 2, "step": 3, "terms": {"loss": 2.0}, "gradient_norm": 7.0},
    }
    assert record["first_not_finite"] is None
    assert [example["place"] for example in record["examples"]] == [4, 5, 6, 7]
    with torch.no_grad():
        next(session.model.visual.parameters()).fill_(torch.nan)
    spoiled = session.examine(3, batches, outcome)
    assert spoiled["first_not_finite"].startswith("visual.")
    assert [name for name in differing(before, kept(session, 3)) if "running" in name] == []


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_dropout_counts_the_examples_of_the_global_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, world: int, accumulate: int
) -> None:
    config = configured(folder, "--engine.accumulate", str(accumulate))
    found: list[int] = []

    def asked(step: int, places: torch.Tensor, device: torch.device) -> Any:
        assert (step, device) == (9, CPU)
        found.extend(places.tolist())
        return nullcontext()

    micro_batch = config.data.batch // world // accumulate
    for rank in range(world):
        session = session_of(config, rank=rank, world=world)
        monkeypatch.setattr(session.draws, "of", asked)
        for number in range(accumulate):
            batch: Any = SimpleNamespace(rows=range(micro_batch))
            with session.drawn(9, number, batch):
                pass
    assert found == list(range(config.data.batch))


def test_random_numbers_are_those_of_the_step_and_the_rank(folder: Path) -> None:
    def numbers(step: int, rank: int, seed: int = 0) -> float:
        session = session_of(configured(folder, "--seed", str(seed)), rank=rank, world=2)
        session.seed_step(step)
        return float(torch.rand(()))

    assert numbers(3, 0) == numbers(3, 0)
    assert len({numbers(3, 0), numbers(4, 0), numbers(3, 1), numbers(3, 0, 1)}) == 4


def test_what_draws_from_torch_draws_the_same_in_a_step_whatever_came_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(before: int, *steps: int) -> list[float]:
        session, numbers = session_of(configured(folder)), list[float]()
        loss = session.task.loss

        def drawing(*given: Any) -> Any:
            numbers.append(float(torch.rand(())))
            return loss(*given)

        monkeypatch.setattr(session.task, "loss", drawing)
        torch.manual_seed(before)
        trained(session, *steps)
        return numbers

    first, second = drawn(1, 0, 2), drawn(2, 1, 2)
    assert first[1:] == second
    assert first[0] != first[1]


def test_frozen_norms_keep_their_statistics(folder: Path) -> None:
    def moved(*keys: str) -> list[str]:
        session = session_of(configured(folder, *keys))
        before = kept(session, 0)["model"]
        trained(session, 0, 1)
        return [name for name in differing(before, kept(session, 1)["model"]) if "running" in name]

    assert moved()
    assert moved("--optimizer.freeze_norms", "true") == []


def test_only_questions_whose_answer_is_known_are_trained_on(sets: dict[str, Path], monkeypatch: Any) -> None:
    config = configured(sets["clevr"], "--model.task", "vqa")
    every = Source.open(config).examples
    some = dataclasses.replace(every, rows=every.rows[1::2])
    monkeypatch.setattr(Examples, "answered", lambda _: some)
    source = Source.open(config)
    assert source.examples is some
    assert len(source.items.first) < len(every.rows)
    assert Source.open(configured(sets["refcoco"])).examples.kind == "expression"


def test_a_set_that_lacks_what_the_task_is_taught_by_is_refused(sets: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="have no mask"):
        Source.open(configured(sets["visual_genome"], "--model.task", "res"))


def test_stages_are_computed_again_by_their_numbers(folder: Path) -> None:
    session = session_of(configured(folder, "--engine.recompute", "[1, 4]"))
    assert [stage.recompute for stage in session.model.visual.stages] == [True, False, False, True, False]


@pytest.mark.parametrize(
    ("precision", "loss", "bad"),
    [("fp32", 1.0, True), ("fp32", float("nan"), True), ("fp16", 1.0, False), ("fp16", float("inf"), True)],
)
def test_a_step_that_is_left_out_is_bad_but_for_an_overflow_of_fp16(
    folder: Path, precision: str, loss: float, bad: bool
) -> None:
    session = session_of(configured(folder, "--engine.zero", "1", "--engine.precision", precision))
    assert session._is_bad(torch.tensor(loss)) == bad


def test_the_start_is_told_with_what_was_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(folder)
    source = Source.open(config)
    begun = dataclasses.replace(start(config, None, source.examples), summary="begun anew")
    report_start(source, Alone(config, world=2), config, begun)
    told = capsys.readouterr().err
    for part in ("begun anew", f"{source.total} steps", "8 examples", "2 process", "step 0"):
        assert part in told
    assert "left out" not in told
    silent = dataclasses.replace(
        source, examples=dataclasses.replace(source.examples, empty_rows=source.examples.rows[:3])
    )
    report_start(silent, Alone(config), config, dataclasses.replace(begun, state={"step": 7}))
    told = capsys.readouterr().err
    assert "3 expressions" in told
    assert "step 7" in told


def test_the_rate_of_a_step_is_the_optimizers(folder: Path) -> None:
    session = session_of(configured(folder))
    for outcome in trained(session, 0, 2):
        assert outcome.rate > 0
    assert {group["lr"] for group in session.wrapped.optimizer.param_groups} == {outcome.rate}


class _CountsInItsState(torch.optim.Optimizer):
    """As DeepSpeed's Adam, which hands the count in its state to a kernel that takes no tensor."""

    def __init__(self, weights: Iterator[nn.Parameter]) -> None:
        super().__init__(weights, {"lr": 1e-3})


def test_the_step_count_is_put_back_where_each_adam_looks_for_it() -> None:
    model = nn.Linear(2, 1)
    moments = {
        name: {"exp_avg": torch.full_like(weight, 2.0), "exp_avg_sq": torch.full_like(weight, 3.0)}
        for name, weight in model.named_parameters()
    }
    for adam, kind in (
        (torch.optim.Adam(model.parameters()), torch.Tensor),
        (_CountsInItsState(model.parameters()), int),
    ):
        scatter_optimizer_state(model, SimpleNamespace(optimizer=adam), 0, moments, 17)
        for name, weight in model.named_parameters():
            found = adam.state[weight]
            assert isinstance(found["step"], kind)
            assert int(found["step"]) == 17
            for key, value in moments[name].items():
                assert torch.equal(found[key], value)
                assert found[key] is not value
        if kind is int:
            assert [group["step"] for group in adam.param_groups] == [17]


def test_what_a_process_asks_for_are_its_micro_batches_of_every_step(folder: Path) -> None:
    config = configured(folder, "--engine.accumulate", "2")
    ranks = [session_of(config, rank=rank, world=2) for rank in range(2)]
    whole = session_of(configured(folder))
    for first in (0, 2):
        asked = [[request.rows.tolist() for request in session.requests(first)] for session in ranks]
        alone = [request.rows.tolist() for request in whole.requests(first)]
        assert len(alone) == whole.source.total - first
        cut = [asked[0][at] + asked[0][at + 1] + asked[1][at] + asked[1][at + 1] for at in range(0, len(asked[0]), 2)]
        assert cut == alone
