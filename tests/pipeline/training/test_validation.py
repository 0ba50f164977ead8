"""Validation while training: what `eval` says, and nothing of the training differs for it."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from laconvnet.launch.status import status
from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.runs.checkpoints import read_marker
from laconvnet.pipeline.runs.layout import step_folder, step_of
from laconvnet.pipeline.runs.records import read_lines
from laconvnet.pipeline.runs.scores import validations
from laconvnet.shards.format.manifest import Manifest
from tests.pipeline.training.ranks import run, train
from tests.runs import losses, weights

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
COMMAND = "import sys; from laconvnet.launch import cli; sys.exit(cli.main(sys.argv[1:]))"
TINY = ["--config", str(HERE / "tiny.yaml"), "--schedule.epochs", "1.6", "--model.affinity_dropout", "0.1"]
EACH = ["--validate.every", "0.5", "--validate.metric", "miou", "--validate.examples", "3"]
# As signals reach rank 1 alone while it answers the second batch of the second validation.
CALLED_AWAY = """
import os, signal, sys
from laconvnet.launch import cli
from laconvnet.pipeline.training.validation import Validation
of_state, seen = Validation.of_state, []
def disturbed(self, state, vocabulary, engine, goes_on):
    asked = []
    def asking():
        asked.append(1)
        if os.environ["RANK"] == "1" and len(seen) == 2 and len(asked) == 2:
            signal.raise_signal(signal.SIGTERM)
        return goes_on()
    seen.append(1)
    found = of_state(self, state, vocabulary, engine, asking)
    print("asked", len(asked), flush=True)
    return found
Validation.of_state = disturbed
sys.exit(cli.main(sys.argv[1:]))
"""
# A clock that leaps while it is validated: whatever counts that time is far off.
LEAPING = """
import sys, time
from laconvnet.launch import cli
from laconvnet.pipeline.training.validation import Validation
of_state, clock, leapt = Validation.of_state, time.perf_counter, [0.0]
def slow(*given):
    leapt[0] += 1e6
    return of_state(*given)
Validation.of_state, time.perf_counter = slow, lambda: clock() + leapt[0]
sys.exit(cli.main(sys.argv[1:]))
"""


def scores(run_folder: Path) -> dict[int, bytes]:
    return {step_of(place): (place / "scores.json").read_bytes() for place in run_folder.glob("validations/*")}


def evaluated(place: Path, refcoco: Path, out: Path, *more: str) -> bytes:
    words = ["eval", str(place), "--data", str(refcoco), "--split", "val", "--out", str(out), *more]
    run(1, ["-c", COMMAND, *words])
    return out.read_bytes()


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> Path:
    """A run of two processes that was validated five times, all of its checkpoints kept."""
    folder = tmp_path_factory.mktemp("runs") / "validated"
    keep = ["--checkpoint.keep", "99", "--checkpoint.every", "3"]
    train(2, folder, [*TINY, *EACH, *keep, "--data.folder", str(refcoco), "--engine.zero", "1"])
    return folder


@pytest.mark.parametrize(
    ("world", "zero", "ema"), [(1, "0", "0.0"), pytest.param(2, "1", "0.9", marks=pytest.mark.variant), (2, "3", "0.9")]
)
def test_training_is_the_same_to_the_bit_and_scores_are_those_of_eval(
    tmp_path: Path, refcoco: Path, world: int, zero: str, ema: str
) -> None:
    keys = [*TINY, "--data.folder", str(refcoco), "--engine.zero", zero, "--optimizer.ema", ema]
    train(world, tmp_path / "alone", keys)
    train(world, tmp_path / "run", [*keys, *EACH])
    assert losses(tmp_path / "run") == losses(tmp_path / "alone")
    assert weights(tmp_path / "run") == weights(tmp_path / "alone")
    assert not (tmp_path / "alone" / "validations").exists()
    told = scores(tmp_path / "run")
    assert len(told) == 4
    assert len(set(told.values())) == 4, "each of another step"
    last = evaluated(tmp_path / "run", refcoco, tmp_path / "last.json", "--last")
    assert last == told[max(told)]
    assert json.loads(last)["step"] == max(told)


@pytest.mark.parametrize(("task", "shape"), [("vqa", "true answer: "), ("res", "predicted mask")])
def test_every_kind_of_answer_is_scored_as_eval_does_and_drawn(
    tmp_path: Path, sets: dict[str, Path], task: str, shape: str
) -> None:
    data = sets["clevr" if task == "vqa" else "refcoco"]
    keys = [*TINY, "--data.folder", str(data), "--model.task", task, "--schedule.epochs", "0.25"]
    train(1, tmp_path / "run", [*keys, "--validate.every", "1"])
    ((step, told),) = scores(tmp_path / "run").items()
    assert evaluated(tmp_path / "run", data, tmp_path / "out.json") == told
    assert ("majority" in json.loads(told)) == (task == "vqa")
    page = (tmp_path / "run" / "validations" / f"step-{step:08d}" / "examples.html").read_text()
    assert page.count("<figure ") == 12
    assert shape in page


def test_every_checkpoint_that_was_validated_says_so(validated: Path, tmp_path: Path, refcoco: Path) -> None:
    told = scores(validated)
    rows = {row["step"]: row for row in validations(validated)}
    steps = {step_of(place): read_marker(place) for place in checkpoints.published(validated)}
    total = max(steps)
    assert set(told) == set(rows) == {5, 9, 13, total}, "the first steps behind 0.5, 1 and 1.5 epochs, and the last"
    assert set(steps) == {*told, *range(3, total, 3)}
    for step, marker in steps.items():
        assert (marker.score, marker.metric, marker.split) == (
            (json.loads(told[step])["miou"], "miou", "val") if step in told else (None, None, None)
        )
    for step in sorted(told)[:-1]:
        place = validated / "checkpoints" / f"step-{step:08d}"
        assert evaluated(place, refcoco, tmp_path / "out.json") == told[step]
    best = max(told, key=lambda step: (rows[step]["score"], -step))
    assert rows[total]["best_step"] == best
    assert rows[total]["metrics"] == {name: json.loads(told[total])[name] for name in ("acc@0.5", "miou")}


def test_examples_are_drawn_the_same_ones_every_time(validated: Path) -> None:
    pages = [(place / "examples.html").read_text() for place in sorted(validated.glob("validations/*"))]
    assert all(page.count("<figure ") == 3 for page in pages)
    assert all('class="predicted"' in page for page in pages)
    texts = [[line for line in page.splitlines() if line.startswith('<figcaption><p dir="auto">')] for page in pages]
    assert all(found == texts[0] for found in texts)
    assert pages[0] != pages[1]


def test_the_best_stands_for_the_run(validated: Path, tmp_path: Path, refcoco: Path) -> None:
    rows = validations(validated)
    best, last = rows[-1]["best_step"], rows[-1]["step"]
    assert best != last, "or the test tells nothing"
    assert checkpoints.choose(validated).step == best
    assert json.loads(evaluated(validated, refcoco, tmp_path / "best.json"))["step"] == best
    keys = [*TINY, "--data.folder", str(refcoco), "--schedule.epochs", "0.1", "--schedule.warmup", "0", "--init_from"]
    for place, step in ((validated, best), (validated / "checkpoints" / "last", last)):
        (output,) = train(1, tmp_path / f"next-{step}", [*keys, str(place)])
        assert f"checkpoints/step-{step:08d} (step {step}, " in output


def test_predict_and_export_take_the_best_and_the_last_where_it_is_asked_for(
    validated: Path, tmp_path: Path, refcoco: Path
) -> None:
    rows, manifest = validations(validated), Manifest.open(refcoco)
    (tmp_path / "image").write_bytes(manifest.read_image(0))
    asked = ["--image", str(tmp_path / "image"), "--text", "the red circle", "--json"]
    best, last = (validated / "checkpoints" / step_folder(rows[-1][key]) for key in ("best_step", "step"))
    places: dict[str, list[object]] = {
        "chosen": [validated],
        "best": [best],
        "chosen last": [validated, "--last"],
        "last": [last],
    }
    lines = ["from laconvnet.launch import cli"]
    for name, place in places.items():
        export = ["--format", "safetensors", "--out", str(tmp_path / name), "--json"]
        for words in (["predict", *place, *asked], ["export", *place, *export]):
            lines.append(f"assert cli.main({[str(word) for word in words]!r}) == 0")
    (output,) = run(1, ["-c", "\n".join(lines)])
    answers = [json.loads(line)["box"] for line in output.splitlines() if line.startswith("{") and '"box"' in line]
    assert answers[0] == answers[1] != answers[2] == answers[3]
    tensors = [load_file(tmp_path / name) for name in places]
    same = [all(torch.equal(one[key], other[key]) for key in one) for one, other in pairwise(tensors)]
    assert same == [True, False, True]


def test_a_graph_goes_on_behind_a_run_that_ends_early(
    validated: Path, tmp_path: Path, refcoco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its evaluation is of the best checkpoint; launched again, every stage is found done."""
    rows = {row["step"]: row for row in validations(validated)}
    ends = next(step for step in rows if rows[step]["waited"] == 1)
    keys = [*TINY, *EACH, "--data.folder", str(refcoco), "--engine.zero", "1", "--validate.patience", "1", "--json"]
    stages = {
        "train": {"run": ["train", "--run", "{here}", *keys], "processes": 2, "threads": 1},
        "eval": {"run": ["eval", "{train}", "--data", str(refcoco), "--split", "val", "--out", "{here}/val.json"]},
    }
    file = tmp_path / "stages.yaml"
    file.write_text(yaml.safe_dump({"name": "early", "folder": str(tmp_path / "out"), "stages": stages}))
    for _ in range(2):
        run(1, ["-m", "laconvnet.launch.cli", "launch", str(file), "--json"])
    (stage,), (result,) = tmp_path.glob("out/train-*"), tmp_path.glob("out/eval-*/val.json")
    assert max(losses(stage)) == ends < max(rows)
    assert json.loads(result.read_text())["step"] == rows[ends]["best_step"]
    assert [entry["event"] for entry in read_lines(stage / "starts.jsonl")] == ["start", "end"]
    (log,) = stage.glob("jobs/*_0_log.out")
    (told,) = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert (told["step"], told["validation"]["step"]) == (ends, ends)


def test_only_the_best_and_the_newest_stay(validated: Path, tmp_path: Path, refcoco: Path) -> None:
    keys = [*TINY, *EACH, "--checkpoint.keep", "1", "--checkpoint.every", "3", "--data.folder", str(refcoco)]
    train(2, tmp_path / "run", [*keys, "--engine.zero", "1"])
    rows = validations(validated)
    assert [step_of(place) for place in checkpoints.published(tmp_path / "run")] == sorted(
        {rows[-1]["best_step"], rows[-1]["step"]}
    )
    assert [row["score"] for row in validations(tmp_path / "run")] == [row["score"] for row in rows]


def test_a_signal_while_it_is_validated_ends_it_at_once_and_the_next_start_validates_again(
    validated: Path, tmp_path: Path, refcoco: Path
) -> None:
    folder = tmp_path / "run"
    keys = ["--run", str(folder), *TINY, *EACH, "--data.folder", str(refcoco), "--engine.zero", "1"]
    (output, _) = run(2, ["-c", CALLED_AWAY, "train", *keys], expected=130)
    assert "stopped at step 9 of" in output
    assert "asked 2" in output.split("validated")[-1], "not asked again after the signal: 4 batches, two by two"
    assert read_marker(folder / "checkpoints" / "step-00000009").validated is None
    assert 9 not in scores(folder)
    (output, _) = train(2, folder, keys[2:])
    assert "beginning at step 9" in output
    spelled = {
        step: told.replace(str(folder).encode(), str(validated).encode()) for step, told in scores(folder).items()
    }
    assert spelled == scores(validated)
    assert weights(folder) == weights(validated)
    assert losses(folder) == losses(validated)


def test_it_ends_early_and_stays_ended_until_more_patience_is_asked_for(
    validated: Path, tmp_path: Path, refcoco: Path
) -> None:
    folder = tmp_path / "run"
    rows = {row["step"]: row for row in validations(validated)}
    ends = next(step for step in rows if rows[step]["waited"] == 1)
    assert ends < max(rows), "or it would not end early"
    keys = [*TINY, *EACH, "--data.folder", str(refcoco), "--engine.zero", "1", "--validate.patience"]
    (output, _) = train(2, folder, [*keys, "1"])
    assert "no better for 1 validation, so the run ends here" in output
    assert max(losses(folder)) == ends
    (row,) = status(folder)
    assert row["state"] == "done"
    assert row["validation"]["step"] == ends
    before = (folder / "log.jsonl").read_bytes()
    (output, _) = train(2, folder, [*keys, "1"])
    assert f"complete: ended early at step {ends} of {max(rows)}, best at step {rows[ends]['best_step']} (" in output
    (output,) = train(1, folder, [*keys, "1", "--explain-resume"])
    assert f"complete: ended early at step {ends} of" in output
    assert (folder / "log.jsonl").read_bytes() == before
    train(2, folder, [*keys, "9"])
    assert losses(folder) == losses(validated)
    assert weights(folder) == weights(validated)


def test_its_time_is_no_training(tmp_path: Path, refcoco: Path) -> None:
    keys = [*TINY, *EACH, "--schedule.epochs", "1.1", "--data.folder", str(refcoco)]
    run(1, ["-c", LEAPING, "train", "--run", str(tmp_path / "run"), *keys])
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(validations(tmp_path / "run")) == 3
    assert all(row["samples_per_s"] > 1e-3 and row["eta_s"] < 1e5 for row in rows), (
        "8 samples in 1e6 s are 8e-6 a second"
    )


def test_what_cannot_be_validated_stops_before_any_work(tmp_path: Path, refcoco: Path) -> None:
    keys = [*TINY, "--data.folder", str(refcoco), "--validate.every", "1"]
    for wrong, told in (
        (["--validate.split", "nowhere"], "validate.split: 'nowhere': "),
        (["--validate.metric", "loss"], "validate.metric: 'loss': rec is scored by acc@0.5, miou"),
        (["--validate.every", "0", "--validate.patience", "2"], "validate.patience: 2: "),
    ):
        (output,) = train(1, tmp_path / "run", [*keys, *wrong], expected=2)
        assert told in output.splitlines()[-1]
        assert not (tmp_path / "run").exists()


def test_an_old_run_goes_on_with_validation_from_where_it_stands(
    validated: Path, tmp_path: Path, refcoco: Path
) -> None:
    """It was begun without; what it was sealed over does not know the new keys."""
    folder = tmp_path / "run"
    keys = [*TINY, "--data.folder", str(refcoco), "--engine.zero", "1", "--checkpoint.keep", "99"]
    train(2, folder, keys)
    whole = losses(folder)
    assert checkpoints.choose(folder).step == max(whole)
    for place in checkpoints.published(folder):
        if step_of(place) > 8:
            shutil.rmtree(place)
    train(2, folder, [*keys, *EACH])
    assert losses(folder) == whole
    assert {row["step"] for row in validations(folder)} == {9, 13, max(whole)}
    assert checkpoints.choose(folder).step == validations(folder)[-1]["best_step"]
