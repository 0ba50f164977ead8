"""`configs/demo`: one network in all of its stages, and a seed that reaches what is trained and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconvnet.launch.graph.stages import Graph, Stage, read
from laconvnet.pipeline import config as configuration

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo"
DATA = {"generate", "refcoco", "refcoco-plus", "visual_genome", "clevr", "mixed"}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def graph(**given: str) -> Graph:
    return read(DEMO / "stages.yaml", "runs/demo", given)


def command(stage: Stage, of: Graph) -> tuple[str, ...]:
    """Its arguments with the names of stages in place of their folders, which hold identities."""
    argv = list(stage.argv)
    for other in of.stages:
        argv = [part.replace(str(other.folder), f"{{{other.name}}}") for part in argv]
    return tuple(argv)


def test_a_seed_is_that_of_every_training_stage_and_of_no_other() -> None:
    plain, same, other = graph(), graph(seed="0"), graph(seed="1")
    assert plain == same
    for stage in plain.stages:
        found, wanted = command(other.stage(stage.name), other), command(stage, plain)
        if stage.argv[0] == "train":
            at = wanted.index("--seed")
            assert wanted[at + 1] == "0"
            assert found == (*wanted[: at + 1], "1", *wanted[at + 2 :])
        else:
            assert found == wanted
    assert {s.name for s in plain.stages if s.argv[0] == "train"} == {
        *("pretrain", "finetune-rec", "finetune-vqa", "words-only"),
    }


def test_runs_of_two_seeds_are_of_the_same_data() -> None:
    plain, other = graph(), graph(seed="1")
    same = {stage.name for stage in plain.stages if stage.fingerprint == other.stage(stage.name).fingerprint}
    assert same == DATA


def test_all_stages_train_one_network() -> None:
    """A finetune that inherits from another network is refused, after all the time that pretraining took."""
    files = {part for stage in graph().stages for part in stage.argv if part.endswith(".yaml")}
    assert len(files) == 4
    networks = {configuration.load(ROOT / file, ["--data.folder", "x"]).model.net() for file in files}
    assert len(networks) == 1
    (network,) = networks
    assert (network.packing, network.conditions) == ((2, 2, 1, 1, 1), (64, 64, 64, 96, 128))
