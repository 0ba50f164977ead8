"""Dropout is the run's: the same on any number of processes, for any cut of the batch, in a resume and in a replay.

And `engine.compile` changes nothing but rounding, and leaves no trace in checkpoints.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.model import draws
from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.training import checkpoint
from laconvnet.pipeline.training.start import start
from tests.pipeline.training.ranks import run
from tests.rounding import SEEDS, apart, assert_rounding, nudge

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
DROPOUTS = [
    *("--model.filter_dropout", "0.1", "--model.affinity_dropout", "0.1", "--model.language.dropout", "0.1"),
    *("--data.size", "32", "--schedule.epochs", "0.7", "--checkpoint.every", "2", "--checkpoint.keep", "9"),
]
# What batch norm sees depends on the cut: without it nothing else does.
WITHOUT_BATCH_STATISTICS = ["--optimizer.freeze_norms", "true"]
CLOSE = 1e-4  # of the first step's loss; other masks are a hundred times farther
MASKS_OF_THE_PROCESS = "Session.drawn = lambda self, step, number, batch: __import__('contextlib').nullcontext()"
_MUTANT = """
import sys
from laconvnet.launch import cli
from laconvnet.pipeline.training.session import Session
{change}
sys.exit(cli.main(sys.argv[1:]))
"""


def trained(folder: Path, refcoco: Path, world: int, *keys: str, mutant: str = "", by: str = "") -> list[float]:
    """The losses of a run on so many processes."""
    script = ["-c", _MUTANT.format(change=mutant)] if mutant else [str(HERE.parents[1] / "rounding.py")]
    given = ["--config", str(HERE / "tiny.yaml"), "--data.folder", str(refcoco), *DROPOUTS, *keys]
    run(world, [*script, "train", "--run", str(folder), *given], NUDGE=by)
    return losses(folder)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("draws")


@pytest.fixture(scope="module")
def alone(folder: Path, refcoco: Path) -> list[float]:
    return trained(folder / "alone", refcoco, 1)


@pytest.fixture(scope="module")
def nudged(folder: Path, refcoco: Path) -> list[list[float]]:
    return [trained(folder / f"nudged-{seed}", refcoco, 1, by=nudge(seed)) for seed in SEEDS]


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_processes_draws_the_same(
    folder: Path, refcoco: Path, alone: list[float], nudged: list[list[float]], world: int
) -> None:
    found = trained(folder / f"world-{world}", refcoco, world)
    assert len(found) >= 4
    assert apart(found[:1], alone[:1])[0] < CLOSE
    assert_rounding(found, alone, nudged)


@pytest.mark.parametrize(
    "mutant",
    [
        "Session.first_place = property(lambda self: 0)",  # each process counts its own part
        MASKS_OF_THE_PROCESS,
    ],
)
def test_the_comparison_sees_masks_that_follow_the_process(
    tmp_path: Path, refcoco: Path, alone: list[float], mutant: str
) -> None:
    found = trained(tmp_path / "run", refcoco, 2, "--schedule.epochs", "0.3", mutant=mutant)
    assert apart(found[:1], alone[:1])[0] > 10 * CLOSE


def test_any_cut_into_micro_batches_draws_the_same(tmp_path: Path, refcoco: Path) -> None:
    keys = [*WITHOUT_BATCH_STATISTICS, "--schedule.epochs", "0.3"]
    whole = trained(tmp_path / "whole", refcoco, 1, *keys)[:1]

    def distance(world: int, parts: int, mutant: str = "") -> float:
        place = tmp_path / f"{world}-{parts}{'-mutant' if mutant else ''}"
        cut = trained(place, refcoco, world, *keys, "--engine.accumulate", str(parts), mutant=mutant)
        return apart(cut[:1], whole)[0]

    # The masks of a step move this network's loss by little, rounding by less.
    anew = "drawn = Session.drawn; Session.drawn = lambda self, step, number, batch: drawn(self, step, 0, batch)"
    assert max(distance(1, 4), distance(2, 2)) < distance(1, 4, anew) / 10


def test_steps_that_are_computed_again_draw_the_same(
    tmp_path: Path, refcoco: Path, alone: list[float], nudged: list[list[float]]
) -> None:
    found = trained(tmp_path / "run", refcoco, 1, "--engine.recompute", "[1, 2, 3, 4, 5]")
    assert_rounding(found, alone, nudged)


def compiled(folder: Path, refcoco: Path, *keys: str, **environment: str) -> int:
    """How many graphs a start compiles; not by inductor, which takes minutes and whose work is not ours to test."""
    watched = folder.with_name(f"{folder.name}-watched")
    watched.mkdir(exist_ok=True)
    given = ["--run", str(folder), "--config", str(HERE / "tiny.yaml"), "--data.folder", str(refcoco), *DROPOUTS]
    environment |= {"WATCHED": str(watched), "BACKEND": "aot_eager"}
    expected = 130 if "STOP_AFTER" in environment else 0
    run(1, [str(HERE / "watched.py"), "train", *given, *keys], expected, **environment)
    return int(json.loads((watched / "rank-0.jsonl").read_text().splitlines()[-1])["graphs"])


def test_a_compiled_run_is_the_eager_one_goes_on_without_it_and_is_compiled_once(
    folder: Path, tmp_path: Path, refcoco: Path, alone: list[float], nudged: list[list[float]]
) -> None:
    """The keys of dropout are other tensors in every step."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    graphs = compiled(cut, refcoco, "--engine.compile", "true", STOP_AFTER="2:SIGTERM")
    assert compiled(whole, refcoco, "--engine.compile", "true") == graphs > 0
    assert_rounding(losses(whole), alone, nudged)
    ours, theirs = (checkpoint.read(checkpoint.folder_of(place, 2))[0] for place in (folder / "alone", cut))
    for part in ("model", "ema", "moments"):
        assert ours[part].keys() == theirs[part].keys()
    assert compiled(cut, refcoco) == 0
    assert_rounding(losses(cut), alone, nudged)


def test_a_replay_on_one_process_draws_what_two_have_drawn(tmp_path: Path, refcoco: Path) -> None:
    whole = trained(tmp_path / "run", refcoco, 2)

    def distance(mutant: str) -> float:
        script = ["-c", _MUTANT.format(change=mutant)]
        output = run(1, [*script, "replay", str(tmp_path / "run"), "3", "--json"])[0]
        found = json.loads(output[output.index("{") :])
        return apart([sum(found["terms"].values())], whole[3:4])[0]

    # Sums over the batch are in another order, and other masks are far from that.
    assert distance("") < distance(MASKS_OF_THE_PROCESS) / 10


def test_a_checkpoint_of_other_draws_is_resumed_and_told(folder: Path, refcoco: Path, alone: list[float]) -> None:
    config = configuration.load(HERE / "tiny.yaml", ["--data.folder", str(refcoco), *DROPOUTS])
    examples = Examples.open(refcoco, "expression", config.data.split)
    (newest, *_) = checkpoints.published(folder / "alone")
    state, vocabulary = checkpoint.read(newest)
    assert state["draws"] == draws.VERSION
    assert "dropout" not in start(config, checkpoint.Saved.read(newest), examples).summary
    earlier = folder / "earlier" / newest.name
    checkpoint.save(earlier, {name: value for name, value in state.items() if name != "draws"}, vocabulary)
    resumed = start(config, checkpoint.Saved.read(earlier), examples)
    assert resumed.step == state["step"]
    assert "\n" not in resumed.summary
    for word in (str(earlier), "dropout", "rule 1", f"rule {draws.VERSION}"):
        assert word in resumed.summary
    shutil.rmtree(folder / "earlier")
