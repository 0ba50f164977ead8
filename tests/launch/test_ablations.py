"""The ablations and v1's programme as graphs: each recipe has its stage, each stage goes on from its own network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from laconvnet.launch import cli, precheck
from laconvnet.launch.graph.stages import Graph, Stage, read
from laconvnet.pipeline import config
from laconvnet.pipeline.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
# The rows of each table, and what scores them.
HUMANS = [f"{when}clevr_humans-{{}}-{on}" for when in ("before-", "vqa-") for on in ("val", "test")]
TESTS = [f"rec-{name}-{{}}-{on}" for name in ("refcoco", "refcoco+") for on in ("testA", "testB")]
TABLES = {
    "v1 Tab. 4a": ("v1_base v1_dynamic_filters", ["rec-refcoco-{}-val", "vqa-clevr-{}-val"]),
    "v1 Tab. 5": ("resnet101", ["vqa-clevr-{}-val", *HUMANS]),
    "v2 Tab. 9": ("csp_darknet53", TESTS),
    "v2 Tab. 10": ("groups_1 kernel_3 no_packing words", ["rec-refcoco-{}-val"]),
    "v2 Tab. 11": ("film qghc", ["rec-refcoco-{}-val", "rec-refcoco+-{}-val"]),
}


def graph(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Graph:
    monkeypatch.chdir(ROOT)
    return read(Path("configs", "stages", f"{name}.yaml"), tmp_path / "runs")


def trainings(found: Graph) -> dict[str, Stage]:
    return {stage.name: stage for stage in found.stages if stage.argv[0] == "train"}


def loaded(stage: Stage) -> TrainConfig:
    return config.load(Path(stage.argv[2]), stage.argv[5:])


@pytest.mark.parametrize("name", ["ablations", "v1"])
def test_every_command_line_and_configuration_is_right(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = graph(name, tmp_path, monkeypatch)
    assert precheck.commands(found, found.stages, cli.parser()) == []
    evaluations = {stage.name for stage in found.stages if stage.argv[0] == "eval"}
    assert set(found.stage("report").needs) == evaluations


def test_the_tables_of_ablations_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = graph("ablations", tmp_path, monkeypatch)
    scored = [score.format(row) for rows, scores in TABLES.values() for row in rows.split() for score in scores]
    assert {stage.name for stage in found.stages if stage.argv[0] == "eval"} == {f"eval-{name}" for name in scored}
    files = {Path(stage.argv[2]) for stage in trainings(found).values()}
    assert files == {file.relative_to(ROOT) for file in (ROOT / "configs" / "ablation").glob("*.yaml")}


def test_a_stage_goes_on_from_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = graph("ablations", tmp_path, monkeypatch)
    by_folder = {str(stage.folder): stage for stage in found.stages}
    following = {name: loaded(stage) for name, stage in trainings(found).items() if "--init_from" in stage.argv}
    assert len(following) == 6 + 2 + 2 + 1
    for name, later in following.items():
        assert later.init_from is not None
        earlier = loaded(by_folder[later.init_from])
        assert replace(earlier.model, backbone_weights=None) == replace(later.model, backbone_weights=None), name


def test_ablations_are_pretrained_by_the_recipe_of_pretraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = config.load(ROOT / "configs/pretrain/rec_s.yaml", ["--data.folder", "shards/mixed"])
    found = trainings(graph("ablations", tmp_path, monkeypatch))
    names = [name for name in found if name.startswith("pretrain-")]
    assert len(names) == 7
    for name in names:
        assert replace(loaded(found[name]), model=recipe.model) == recipe, name


def test_the_first_version_s_networks_are_trained_from_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = trainings(graph("v1", tmp_path, monkeypatch))
    sets = ("rec-refcoco", "rec-refcoco+", "vqa-clevr")
    assert found.keys() == {f"{name}-{size}" for name in sets for size in (10, 15, 19)}
    for name, stage in found.items():
        run = loaded(stage)
        assert (run.init_from, run.model.preset, run.data.size) == (None, name.rpartition("-")[2], 224)
        epochs, drops = (35, (32, 34)) if "rec" in name else (23, (20, 22))
        schedule = run.schedule
        assert (schedule.kind, schedule.epochs, schedule.warmup, schedule.factor) == ("step", epochs, 3, 0.2)
        assert tuple(schedule.drops) == drops
