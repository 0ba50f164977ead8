"""Evaluation on several processes: the files of one process to the byte, and one end for all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from laconvnet.kernels import backend
from laconvnet.launch import cli
from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.data.examples import Examples, Kind
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.inference import evaluate
from laconvnet.pipeline.inference.completeness import Completeness
from laconvnet.pipeline.inference.evaluate import CONTROLS
from laconvnet.pipeline.model import build_model
from laconvnet.pipeline.runs.layout import CONFIG
from laconvnet.pipeline.training import checkpoint
from laconvnet.pipeline.training.engine import allow_tf32
from laconvnet.shards.sources.safe_pickle import load_refs
from laconvnet.shards.synthetic import generate
from tests.pipeline.training.ranks import finish, run, start

TINY = Path(__file__).parent / "tiny.yaml"
SPLITS = {"rec": "testA", "vqa": "val"}
COMMAND = "import sys; from laconvnet import progress; from laconvnet.launch import cli; progress.SECONDS = 0.0"
COMMAND += "; sys.exit(cli.main(sys.argv[1:]))"
# A stand-in for what may befall one process; the others run the command as it is.
ON_ONE = """
import os, sys
from laconvnet.launch import cli
from laconvnet.pipeline.data.loader import Loader
batch, calls = Loader.batch, []
def disturbed(*arguments):
    calls.append(arguments)
    if os.environ["RANK"] == "1" and len(calls) == 2:
        {what}
    return batch(*arguments)
Loader.batch = disturbed
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def runs(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders by task, each with a checkpoint of a network that has learned nothing; batches of 7."""
    made = {}
    kinds: tuple[tuple[str, str, Kind], ...] = (("rec", "refcoco", "expression"), ("vqa", "clevr", "question"))
    for task, source, kind in kinds:
        place = tmp_path_factory.mktemp(task)
        keys = ["--data.folder", str(sets[source]), "--data.batch", "7", "--model.task", task]
        config = configuration.load(TINY, keys)
        examples = Examples.open(sets[source], kind, "train")
        answers = [answer for answer in examples.answers(examples.rows) if answer is not None]
        words = Vocabulary.build(examples.texts(examples.rows), answers)
        torch.manual_seed(0)
        model = build_model(config.model, len(words), len(words.answers))
        (place / CONFIG).write_text(configuration.dump(config))
        state = {"step": 3, "task": task, "data": "", "model": model.state_dict(), "moments": {}, "ema": None}
        checkpoint.save(checkpoint.folder_of(place, 3), state, words.to_json())
        made[task] = place
    return made


@pytest.fixture
def command(runs: dict[str, Path], sets: dict[str, Path], tmp_path: Path) -> Any:
    """The arguments of `laconvnet eval` for a task, writing to out.json."""

    def arguments(task: str, *more: str, split: str | None = None) -> list[str]:
        data = sets["refcoco" if task == "rec" else "clevr"]
        wanted = ["eval", runs[task], "--data", data, "--split", split or SPLITS[task], "--out", tmp_path / "out.json"]
        return [*map(str, wanted), *more]

    return arguments


def written(place: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in place.iterdir()}


@pytest.mark.parametrize("task", ["rec", "vqa"])
def test_any_number_of_processes_writes_the_same_bytes(task: str, command: Any, tmp_path: Path) -> None:
    found = {}
    for world in (1, 2, 3):
        output = run(world, ["-c", COMMAND, *command(task, "--controls", "--json")])
        found[world] = written(tmp_path)
        report = json.loads((tmp_path / "out.json").read_text())
        assert f"eval {SPLITS[task]}: {report['examples']}/{report['examples']} example, " in output[0]
        assert json.loads(output[0].splitlines()[-1]) == report
        assert output[1:] == [""] * (world - 1), "one process speaks for all"
        for file in tmp_path.iterdir():
            file.unlink()
    assert set(found[1]) == {"out.json", "out.answers.jsonl"}
    assert found[1] == found[2] == found[3]
    answers = [json.loads(line) for line in found[1]["out.answers.jsonl"].splitlines()]
    examples = Examples.open(Path(report["data"]), "expression" if task == "rec" else "question", SPLITS[task])
    assert [answer["example"] for answer in answers] == examples.rows.tolist(), "every example once, in their order"
    assert len(answers) % 7, "the last batch is a part of one"
    assert len(answers) // 7 % 3 != 2, "and the last round of three is not full"
    assert set(report["controls"]) == set(CONTROLS)
    assert len({json.dumps(scored) for scored in report["controls"].values()}) == 2


def test_the_metric_is_that_of_the_answers(command: Any, tmp_path: Path) -> None:
    run(2, ["-c", COMMAND, *command("vqa")])
    answers = [json.loads(line) for line in (tmp_path / "out.answers.jsonl").read_text().splitlines()]
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["accuracy"] == sum(answer["correct"] for answer in answers) / len(answers)


def test_it_computes_as_the_run_was_trained(runs: dict[str, Path], sets: dict[str, Path], tmp_path: Path) -> None:
    """Or a validation while it trained would have been of other rounding."""
    run_folder, tf32 = tmp_path / "run", torch.backends.cudnn.allow_tf32
    shutil.copytree(runs["rec"], run_folder)
    try:
        for kernels, tf32_on in (("plain", False), ("auto", True)):
            file = run_folder / CONFIG
            words = yaml.safe_load(file.read_text())
            words["engine"] |= {"kernels": kernels, "tf32": tf32_on}
            file.write_text(yaml.safe_dump(words))
            evaluate.evaluate(run_folder, sets["refcoco"], SPLITS["rec"], tmp_path / "out.json", progress=False)
            assert backend.chosen() == kernels
            assert torch.backends.cudnn.allow_tf32 == tf32_on
    finally:
        backend.choose("auto")
        allow_tf32(False)
        torch.backends.cudnn.allow_tf32 = tf32


def test_a_truncated_shard_that_one_process_sees_ends_all_alike(
    runs: dict[str, Path], sets: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(sets["refcoco"], folder)
    shard = sorted(folder.glob("shard-*.tar"))[-1]
    os.truncate(shard, 600)
    words = ["eval", runs["rec"], "--data", folder, "--split", SPLITS["rec"], "--out", tmp_path / "out.json"]
    main, other = run(2, ["-c", COMMAND, *map(str, words)], expected=2)
    assert f"{shard}: shard of 600 bytes" in main
    assert f"process 0: {shard}: shard of 600 bytes" in other
    assert not (tmp_path / "out.json").exists()


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set whose testA lost the images of a third of its pictures."""
    place = tmp_path_factory.mktemp("lacking")
    generate(place / "raw", pictures=60, size=64, progress=False)
    refs = load_refs(place / "raw/refer/refcoco/refs(unc).p")
    pictures = sorted({ref["image_id"] for ref in refs if ref["split"] == "testA"})
    for picture in pictures[::3]:
        (image,) = (place / "raw/refer/images/mscoco/images/train2014").glob(f"*{picture:012d}.jpg")
        image.write_bytes(image.read_bytes()[: image.stat().st_size * 2 // 3])
    command = ["shards", "build", "refcoco", "--root", f"{place}/raw/refer", "--out", f"{place}/set", "--json"]
    assert cli.main(command) == 0
    return place / "set"


def test_a_split_that_lost_too_much_is_no_split_to_report(runs: dict[str, Path], lacking: Path, tmp_path: Path) -> None:
    examples = Examples.open(lacking, "expression", "testA")
    found = Completeness.of(examples)
    assert found.annotated is not None
    assert found.scored == len(examples.rows) < found.annotated == found.scored + sum(found.lost.values())
    words = ["eval", runs["rec"], "--data", lacking, "--split", "testA", "--out", tmp_path / "out.json"]
    for output in run(2, ["-c", COMMAND, *map(str, words)], expected=2):
        assert f"{found.scored} of {found.annotated} annotated" in output
        assert "testA" in output
        assert "--at-least 0." in output
    assert not (tmp_path / "out.json").exists()
    run(1, ["-c", COMMAND, *map(str, words), "--at-least", "0.3"])
    report = json.loads((tmp_path / "out.json").read_text())
    assert (report["examples"], report["annotated"]) == (found.scored, found.annotated)


def test_what_a_set_of_before_lost_is_not_known(sets: dict[str, Path]) -> None:
    examples = Examples.open(sets["refcoco"], "expression", SPLITS["rec"])
    whole = Completeness.of(examples)
    assert whole == Completeness(len(examples.rows), len(examples.rows), {})
    examples.manifest.meta.pop("ledger")
    unknown = Completeness.of(examples)
    assert unknown == Completeness(len(examples.rows), None, {})
    unknown.check(sets["refcoco"], examples, 1.0)


def test_processes_without_any_example(runs: dict[str, Path], command: Any, tmp_path: Path) -> None:
    file = runs["rec"] / CONFIG
    kept = file.read_text()
    file.write_text(kept.replace("batch: 7", "batch: 1000"))
    try:
        found = []
        for world in (1, 3):
            run(world, ["-c", COMMAND, *command("rec")])
            found.append(written(tmp_path))
    finally:
        file.write_text(kept)
    assert found[0] == found[1]
    assert found[0]["out.answers.jsonl"].count(b"\n") > 7


def test_what_fails_on_one_process_ends_all_with_its_reason(command: Any, tmp_path: Path) -> None:
    script = ON_ONE.format(what="raise OSError('the disk is gone')")
    output = run(3, ["-c", script, *command("rec")], expected=1)
    for rank in (0, 2):
        assert output[rank].splitlines()[-1] == "laconvnet: process 1: the disk is gone"
    assert output[1].splitlines()[-1] == "OSError: the disk is gone"
    assert not written(tmp_path)


def test_a_mistake_seen_by_one_process_is_one_for_all(command: Any) -> None:
    script = ON_ONE.format(
        what="from laconvnet.pipeline.errors import ConfigError; raise ConfigError('s-1.tar: not there')"
    )
    output = run(2, ["-c", script, *command("rec")], expected=2)
    assert output[0].splitlines()[-1] == "laconvnet: process 1: s-1.tar: not there"
    assert output[1].splitlines()[-1] == "laconvnet: s-1.tar: not there"
    output = run(2, ["-c", COMMAND, *command("rec", split="nowhere")], expected=2)
    assert all("nowhere" in one.splitlines()[-1] for one in output)


def test_an_interruption_of_one_is_one_of_all(command: Any) -> None:
    output = run(2, ["-c", ON_ONE.format(what="raise KeyboardInterrupt"), *command("rec")], expected=130)
    assert all("laconvnet: interrupted" in one for one in output)


def test_files_that_cannot_be_written_fail_on_all(command: Any, tmp_path: Path) -> None:
    (tmp_path / "out.answers.jsonl").mkdir()
    output = run(2, ["-c", COMMAND, *command("rec")], expected=2)
    assert output[1].splitlines()[-1].startswith("laconvnet: process 0: [Errno 21] Is a directory")
    (tmp_path / "out.json").unlink()
    (tmp_path / "out.json").mkdir()
    output = run(2, ["-c", COMMAND, *command("rec")], expected=2)
    assert all(one.splitlines()[-1].startswith(f"laconvnet: --out {tmp_path / 'out.json'}: ") for one in output)


def test_nobody_waits_for_a_process_that_was_killed(command: Any, tmp_path: Path) -> None:
    started = start(3, ["-c", ON_ONE.format(what="os.kill(os.getpid(), 9)"), *command("rec")])
    for rank in started:
        rank.wait(60)
    codes = [rank.returncode for rank in started]
    for rank in started:
        rank.kill()
    assert codes[1] == -9
    assert codes[0] == codes[2] == 1
    assert not written(tmp_path)


def test_another_checkpoint_or_set_on_one_process_is_told() -> None:
    script = """
import os
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.distributed import joined
with joined() as ranks:
    ranks.same("run: step", 100)
    assert ranks.gather(ranks.rank * 2) == ([0, 2, 4] if ranks.is_main else [])
    try:
        ranks.same("run: step", 200 if ranks.rank == 2 else 100)
    except ConfigError as error:
        print(error)
"""
    output = finish(start(3, ["-c", script]))
    (line,) = {one.strip() for one in output}
    assert line.startswith("run: step: 100 on process 0, 200 on process 2; ")
