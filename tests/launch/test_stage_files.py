"""The stages files from one data set to the programme: each resolves, starts from weights of its own kind, and the
smallest runs from original files to scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconvnet.files import find_object
from laconvnet.launch import cli, precheck
from laconvnet.launch.graph.stages import Graph, Stage, read
from laconvnet.pipeline import config
from tests.messages import tells

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "configs" / "stages"
RAW = ("refer", "visual_genome", "flickr30k", "clevr", "clevr_humans", "clevr_ref+_1.0", "vqav2", "snli_ve")
RAW_OPTIONS = ("--root", "--data.vectors")
SCORED = {
    "refcoco": {"eval-val", "eval-testA", "eval-testB"},
    "grounding": {
        *(f"eval-{kind}-{name}-{split}" for kind in ("rec", "res") for name in ("refcoco", "refcoco+")
          for split in ("val", "testA", "testB")),
        *(f"eval-{kind}-refcocog-{split}" for kind in ("rec", "res") for split in ("val", "test")),
    },
    "vqa": {"eval-clevr", "eval-clevr_humans", "eval-vqav2"},
}  # fmt: skip


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of everything downloaded, and the project's as the current one."""
    monkeypatch.chdir(ROOT)
    for name in RAW:
        (tmp_path / "raw" / name).mkdir(parents=True)
    (tmp_path / "raw" / "glove.840B.300d.txt").touch()
    return tmp_path / "raw"


def configured(stage: Stage) -> config.TrainConfig:
    """What a training stage's command line says, but for where it writes."""
    argv = list(stage.argv)
    at = argv.index("--run")
    return config.load(Path(argv[2]), argv[3:at] + argv[at + 2 :])


def graph(name: str, raw: Path, **given: str) -> Graph:
    given = given if name == "sweep" else {"raw": str(raw), **given}
    return read(FOLDER / f"{name}.yaml", raw.parent / "runs", given)


def test_these_are_all_files() -> None:
    assert {file.stem for file in FOLDER.glob("*.yaml")} == {*SCORED, "ablations", "papers", "sweep", "v1"}


@pytest.mark.parametrize("name", SCORED)  # of the others test_papers.py and test_ablations.py tell
def test_the_dry_run_resolves_all_of_it_and_tells_what_is_missing(
    name: str, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["launch", f"configs/stages/{name}.yaml", "--out", str(raw.parent / "runs"), "--dry-run", "--set"]
    assert cli.main([*line, f"raw={raw}"]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main([*line, f"raw={raw}/gone"]) == 2
    shown = capsys.readouterr()
    assert f"{name}: " in shown.out
    assert "stages would run" in shown.out  # what would run is told all the same
    lines = shown.err.splitlines()
    reads = [(stage, option) for stage in graph(name, raw).stages for option in RAW_OPTIONS if option in stage.argv]
    assert len(lines) == len(reads)
    for (stage, option), told in zip(reads, lines, strict=True):
        assert tells(told, f"{name}.yaml", f"'{stage.name}'", option, f"{raw}/gone/", "no such file or folder")
    assert not (raw.parent / "runs").exists()


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("size", ["s", "b"])
def test_what_it_trains_and_scores(name: str, size: str, raw: Path) -> None:
    given = {"config": f"configs/finetune/refcoco_{size}.yaml"} if name == "refcoco" else {"size": size}
    whole = graph(name, raw, **given)
    assert precheck.commands(whole, whole.stages, cli.parser()) == []
    assert set(whole.stage("report").needs) == SCORED[name]
    by_folder = {str(stage.folder): stage for stage in whole.stages}
    for stage in whole.stages:
        if stage.argv[0] == "eval":
            trained = by_folder[stage.argv[1]]
            assert trained.argv[trained.argv.index("--data.folder") + 1] == stage.argv[3]  # scored on its own set
        if stage.argv[0] == "train":
            own = configured(stage)
            assert own.data.batch % stage.processes == 0
            assert stage.gpus == 1
            if own.init_from:
                before = by_folder[own.init_from]
                assert configured(before).model.preset == own.model.preset


def test_pretrained_weights_are_optional(raw: Path) -> None:
    for name, trained in (("refcoco", "train"), ("vqa", "train-vqav2")):
        for weights in ("", str(raw)):
            stage = graph(name, raw, weights=weights).stage(trained)
            assert (configured(stage).init_from or "") == weights
    built = {graph("refcoco", raw, weights=weights).stage("build").fingerprint for weights in ("", str(raw))}
    assert len(built) == 1
    whole = graph("refcoco", raw, weights=str(raw / "gone"))
    (line,) = precheck.missing(whole, whole.stages)
    assert tells(line, "'train'", "--init_from", "gone")


def test_a_sweep_varies_what_it_says(raw: Path) -> None:
    whole = graph("sweep", raw, data=str(raw), weights=str(raw), glove=str(raw / "glove.840B.300d.txt"))
    assert precheck.commands(whole, whole.stages, cli.parser()) == []
    assert precheck.missing(whole, whole.stages) == []
    runs = [configured(stage) for stage in whole.stages if stage.argv[0] == "train"]
    varied = {(run.init_from or "", run.optimizer.lr, run.seed) for run in runs}
    assert varied == {(way, lr, seed) for way in ("", str(raw)) for lr in (5e-5, 1e-4, 2e-4) for seed in range(3)}
    assert len(runs) == len(whole.stage("report").needs) == 18
    for stage in whole.stages:
        if stage.argv[0] == "eval":
            assert stage.needs == (stage.name.replace("eval", "train"),)


def test_one_data_set_from_original_files_to_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert cli.main(["shards", "generate", "--out", "data", "--pictures", "8", "--seed", "1", "--json"]) == 0
    Path("small.yaml").write_text(f"base: {ROOT}/configs/demo/finetune-rec.yaml\ndata: {{batch: 8}}\n")
    line = ["launch", f"{FOLDER}/refcoco.yaml", "--out", "runs", "--set", "config=small.yaml"]
    line += ["--set", "ranks=1", "--set", "workers=1", "--set", "glove=null", "--only", "eval-val"]
    assert cli.main(line) == 2
    assert tells(capsys.readouterr().err, "'eval-val'", "not done: build, train", "--with-needs")
    assert cli.main([*line, "--with-needs"]) == 0, capsys.readouterr().err
    (scores,) = map(find_object, Path("runs").glob("eval-*/val.json"))
    assert scores is not None
    assert scores["examples"] == scores["annotated"] > 0
    assert not list(Path("runs").glob("report*"))  # it is not among the needs
