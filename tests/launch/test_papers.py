"""The papers' programme as one graph: every command line parses, every configuration loads, every split is scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconvnet.launch import cli, precheck
from laconvnet.launch.executor import launch
from laconvnet.launch.graph.stages import Graph, read
from laconvnet.pipeline import config
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.sources import SOURCES
from tests.messages import tells

ROOT = Path(__file__).resolve().parents[2]
FILE = Path("configs", "stages", "papers.yaml")
# The others read own data, or the published ones in another form.
PUBLISHED = SOURCES.keys() - {"table", "coco", "simrec"}
SPLITS = {
    "refcoco": "val testA testB",
    "refcoco+": "val testA testB",
    "refcocog": "val test",
    "referit": "val test",
    "flickr30k": "val test",
}
SCORED = {
    "rec": SPLITS,
    "res": {**{name: SPLITS[name] for name in ("refcoco", "refcoco+", "refcocog")}, "clevr_ref+": "val"},
    "grec": {"grefcoco": "val testA testB"},
    "vqa": {"clevr": "val", "clevr_humans": "val test", "vqav2": "val test-dev"},
    "entailment": {"snli_ve": "val test"},
}


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Graph:
    """The programme, on a machine where the raw data lie."""
    monkeypatch.chdir(ROOT)
    for name in ("refer", "visual_genome", "flickr30k", "clevr", "clevr_humans", "clevr_ref+_1.0", "vqav2", "snli_ve"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    (tmp_path / "raw" / "glove.840B.300d.txt").touch()
    return read(FILE, tmp_path / "runs", {"raw": str(tmp_path / "raw")})


def test_every_command_line_and_configuration_is_right(graph: Graph) -> None:
    assert precheck.commands(graph, graph.stages, cli.parser()) == []


def test_from_raw_files_to_the_report(graph: Graph) -> None:
    sets = {name.removeprefix("shards-") for name in graph.by_name if name.startswith("shards-")}
    assert sets == PUBLISHED
    for name in sets:
        shares, merge = graph.stage(f"shards-{name}"), graph.stage(f"merge-{name}")
        assert shares.array
        assert merge.needs == (shares.name,)
        assert shares.argv[:-2] == (*merge.argv[:-1], f"{shares.folder}/{name}")  # the same but for the share
        assert merge.argv[-1] == f"{shares.folder}/{name}"
        assert shares.argv[-2:] == ("--task", "{task}")
    mixed = graph.stage("mixed")
    assert "merge-grefcoco" in mixed.needs  # held out of the pretraining, though no input
    assert "merge-clevr" not in mixed.needs
    inputs = mixed.argv[mixed.argv.index("--inputs") + 1 : mixed.argv.index("--exclude")]
    assert [part.rpartition("=")[2] for part in inputs] == ["1"] * 6, "each with its weight"
    of_parts = graph.stage("shards-visual_genome").argv
    assert of_parts[of_parts.index("--partition") + 1] == "phrases"
    trainings = {f"{kind}-{name}-{size}" for kind, found in SCORED.items() for name in found for size in "sb"}
    found = {stage.name for stage in graph.stages if stage.argv[0] == "train"}
    assert found == trainings | {f"pretrain-{model}" for model in ("s", "b", "s_released", "b_released")}
    report = graph.stage("report")
    before = {f"eval-before-clevr_humans-{size}-{split}" for size in "sb" for split in ("val", "test")}
    assert set(report.needs) == before | {
        f"eval-{kind}-{name}-{size}-{split}"
        for kind, sets_of in SCORED.items()
        for name, splits in sets_of.items()
        for split in splits.split()
        for size in "sb"
    }
    for name in report.needs:
        stage = graph.stage(name)
        kind, data, size, split = name.removeprefix("eval-").split("-", 3)
        if kind == "before":  # CLEVR's model on people's questions, not finetuned on them
            assert stage.argv[1] == str(graph.stage(f"vqa-clevr-{size}").folder)
            assert (Path(stage.argv[3]).name, stage.argv[5]) == (data, split)
            continue
        assert stage.argv[1] == str(graph.stage(f"{kind}-{data}-{size}").folder)
        assert (Path(stage.argv[3]).name, stage.argv[5]) == (data, split)
        assert f"{kind}-{data}-{size}" in stage.needs
    everything = {stage.name for stage in graph.after("shards-refcoco")}
    assert {"merge-refcoco", "mixed", "pretrain-b", "res-refcocog-s", "report"} <= everything
    assert "vqa-clevr-s" not in everything


def test_a_stage_goes_on_from_weights_of_its_own_kind(graph: Graph) -> None:
    """Another preset's weights would be refused, after days of pretraining."""
    for stage in graph.stages:
        if stage.argv[0] == "train" and "--init_from" in stage.argv:
            loaded = config.load(Path(stage.argv[2]), [*stage.argv[5:]])
            place = Path(stage.argv[stage.argv.index("--init_from") + 1])
            (earlier,) = (one for one in graph.stages if one.folder == place)
            before = config.load(Path(earlier.argv[2]), [*earlier.argv[5:]])
            assert before.model.preset == loaded.model.preset, stage.name
            assert loaded.model.task == stage.name.split("-")[0]


def test_word_vectors_are_frozen_in_every_training_or_given_up_by_name(graph: Graph, tmp_path: Path) -> None:
    trainings = [stage for stage in graph.stages if stage.argv[0] == "train"]
    for stage in trainings:
        loaded = config.load(Path(stage.argv[2]), [*stage.argv[5:]])
        assert loaded.data.vectors == str(tmp_path / "raw" / "glove.840B.300d.txt"), stage.name
    (tmp_path / "raw" / "glove.840B.300d.txt").unlink()
    problems = precheck.missing(graph, graph.stages)
    assert len(problems) == len(trainings)
    assert all(tells(problem, "--data.vectors", "glove.840B.300d.txt: no such file", "null") for problem in problems)
    without = read(FILE, tmp_path / "runs", {"raw": str(tmp_path / "raw"), "glove": "null"})
    assert precheck.missing(without, without.stages) == []
    (pretrain,) = (stage for stage in without.stages if stage.name == "pretrain-s")
    assert config.load(Path(pretrain.argv[2]), [*pretrain.argv[5:]]).data.vectors is None


def test_raw_data_that_are_missing_are_told_all_at_once(
    graph: Graph, slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    site = tmp_path / "site.yaml"
    site.write_text("gpus_per_node: 4\ncpus_per_task: 1\n")
    with pytest.raises(ConfigError) as caught:
        launch(FILE, cli.parser(), str(site), tmp_path / "runs", given={"raw": str(tmp_path / "gone"), "ranks": "4"})
    lines = str(caught.value).splitlines()
    output = {line.split("'")[1] for line in lines if "--root" in line and "no such file or folder" in line}
    assert output == {f"{what}-{name}" for what in ("shards", "merge") for name in PUBLISHED}
    assert not (tmp_path / "runs").exists()


def test_the_dry_run_shows_what_each_stands_for(
    graph: Graph, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(FILE, cli.parser(), out=tmp_path / "runs", given={"raw": str(tmp_path / "raw")}, dry_run=True) == 0
    output = capsys.readouterr().out
    assert f"papers: {len(graph.stages)} of {len(graph.stages)} stages would run" in output
    assert f"--root {tmp_path}/raw/refer --out" in output
    assert "    array      16 tasks, at most 8 at once" in output
    assert "eval-grec-grefcoco-b-testB: would run  grec, grefcoco testB, b" in output
