"""A finetune takes weights and words of an earlier stage, and nothing else of it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.data.counts import token_counts
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.text import UNKNOWN, Vocabulary, count_words
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import Model, build_model, draws
from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.training import checkpoint
from laconvnet.pipeline.training.inherit import inherit
from laconvnet.pipeline.training.start import rebuild, start
from tests.messages import tells
from tests.pipeline.training.ranks import train

TINY = Path(__file__).parent / "tiny.yaml"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    train(1, folder, ["--config", str(TINY), "--data.folder", str(refcoco), "--schedule.epochs", "0.5"])
    return folder


def config(data: Path, earlier: Path, **model: str) -> TrainConfig:
    keys = ["--data.folder", str(data), "--init_from", str(earlier)]
    for name, value in model.items():
        keys += [f"--model.{name}", value]
    return configuration.load(TINY, keys)


def test_the_same_task_takes_everything(tmp_path: Path, refcoco: Path, earlier: Path) -> None:
    state, words = checkpoint.read(checkpoints.resolve(earlier))
    start_state = start(config(refcoco, earlier), None, Examples.open(refcoco, "expression", "train"))
    assert start_state.step == 0
    assert start_state.state is None
    assert start_state.vocabulary == Vocabulary.from_json(words)
    for name, tensor in start_state.model.state_dict().items():
        assert torch.equal(tensor, state["ema"][name]), name
    assert "0 new words, 0 new answers" in start_state.summary
    assert "new:" not in start_state.summary
    assert "left:" not in start_state.summary


def test_another_task_takes_words_and_vision_and_learns_new_words(tmp_path: Path, clevr: Path, earlier: Path) -> None:
    state, stored = checkpoint.read(checkpoints.resolve(earlier))
    old = Vocabulary.from_json(stored)
    start_state = start(config(clevr, earlier, task="vqa"), None, Examples.open(clevr, "question", "train"))
    assert start_state.vocabulary.words[: len(old.words)] == old.words
    assert {"what", "how", "many"} <= set(start_state.vocabulary.words) - set(old.words)
    assert {"yes", "no", "red"} <= set(start_state.vocabulary.answers)
    now = start_state.model.state_dict()
    kept = now["language.embedding.weight"][: len(old)]
    assert torch.equal(kept, state["ema"]["language.embedding.weight"])
    assert len(now["language.embedding.weight"]) == len(start_state.vocabulary) > len(old)
    for name, tensor in now.items():
        if name.startswith("visual."):
            assert torch.equal(tensor, state["ema"][name]), name
    grown = f"{len(start_state.vocabulary.words) - len(old.words)} new words, {len(start_state.vocabulary.answers)} new"
    assert tells(start_state.summary, "(1 with new rows), new: head.choose (2), head.", "left: head.", grown)


def test_another_network_is_refused_by_name_and_shape(tmp_path: Path, refcoco: Path, earlier: Path) -> None:
    other = config(refcoco, earlier, packing="[4, 4, 2, 1, 1]")
    with pytest.raises(ConfigError, match=r"init_from: .*: visual\..* has shape .*, this model"):
        start(other, None, Examples.open(refcoco, "expression", "train"))


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path, refcoco: Path) -> None:
    wrong = config(refcoco, tmp_path / "nothing")
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        start(wrong, None, Examples.open(refcoco, "expression", "train"))


def test_its_own_checkpoint_wins_over_the_earlier_stage(tmp_path: Path, refcoco: Path, earlier: Path) -> None:
    asked = dataclasses.replace(
        config(refcoco, earlier), data=dataclasses.replace(config(refcoco, earlier).data, words=12)
    )
    examples = Examples.open(refcoco, "expression", "train")
    start_state = start(asked, None, examples)
    weights = {
        name: tensor + 1 if tensor.is_floating_point() else tensor
        for name, tensor in start_state.model.state_dict().items()
    }
    own = {"step": 3, "task": "rec", "data": examples.fingerprint, "model": weights, "moments": {}, "ema": None}
    own |= {"updates": 3, "loss_scale": None}
    checkpoint.save(checkpoint.folder_of(tmp_path, 3), own, start_state.vocabulary.to_json())
    resumed = start(asked, checkpoint.Saved.read(checkpoints.resolve(tmp_path)), examples)
    assert resumed.step == 3
    assert "resuming" in resumed.summary
    assert f"rule 1, this version draws by rule {draws.VERSION}" in resumed.summary, (
        "what has none is of the first rule"
    )
    for name, tensor in resumed.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    less = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
    with pytest.raises(RuntimeError, match=r"head\."):
        rebuild(asked, start_state.vocabulary, less)
    checkpoint.save(
        checkpoint.folder_of(tmp_path, 3), {**own, "draws": draws.VERSION}, start_state.vocabulary.to_json()
    )
    assert "rule" not in start(asked, checkpoint.Saved.read(checkpoints.resolve(tmp_path)), examples).summary
    checkpoint.save(
        checkpoint.folder_of(tmp_path, 4), {**own, "data": "another build"}, start_state.vocabulary.to_json()
    )
    with pytest.raises(ConfigError, match=r"another build than the one that .*step-00000004"):
        start(asked, checkpoint.Saved.read(checkpoints.resolve(tmp_path)), examples)


def test_frozen_word_vectors_stay_as_they_are(tmp_path: Path, refcoco: Path) -> None:
    vectors = tmp_path / "glove.txt"
    vectors.write_text("red " + " ".join(["0.5"] * 16) + "\nsquare " + " ".join(["-0.25"] * 16) + "\n")
    folder = tmp_path / "run"
    keys = ["--data.folder", str(refcoco), "--data.vectors", str(vectors), "--model.language.word_dim", "16"]
    output = train(1, folder, ["--config", str(TINY), *keys, "--schedule.epochs", "0.5"])
    assert "2 of" in output[0]
    state, stored = checkpoint.read(checkpoints.resolve(folder))
    number = Vocabulary.from_json(stored).words.index("red") + 2
    assert state["model"]["language.embedding.weight"][number].tolist() == [0.5] * 16
    assert "language.embedding.weight" not in state["moments"]


def test_words_of_held_out_texts_that_glove_knows_are_known(tmp_path: Path, refcoco: Path) -> None:
    """Two words that only val and test texts have: one is in the file, behind all words of training; one is unknown."""
    training = Examples.open(refcoco, "expression", "train")
    few = dataclasses.replace(training, split="few", rows=training.rows[:2])  # the rest of train is held out, too
    words_of = [set(count_words(token_counts(examples))) for examples in (few, training)]
    known, unknown, *_ = sorted(words_of[1] - words_of[0])
    said = sorted(words_of[0])[0]
    file = tmp_path / "glove.txt"
    file.write_text("".join(f"{word} {value} 0.5\n" for word, value in ((known, 0.25), (said, 1), ("elsewhere", 2))))
    asked = configuration.load(TINY, ["--data.folder", str(refcoco), "--data.vectors", str(file)])
    made = start(asked, None, few)
    in_training = len(words_of[0])
    assert set(made.vocabulary.words[:in_training]) == words_of[0]
    assert made.vocabulary.words[in_training:] == (known,)
    weights = made.model.language.embedding.weight
    assert not weights.requires_grad
    assert weights[made.vocabulary.words.index(known) + 2].tolist() == [0.25, 0.5]
    tokens = made.vocabulary.encode([known, unknown], 1)
    assert tokens[:, 0].tolist() == [in_training + 2, UNKNOWN]
    assert tells(made.summary, f"1 of {in_training} words have vectors", "frozen", "1 of ", "only held-out texts have")
    learned = start(configuration.load(TINY, ["--data.folder", str(refcoco)]), None, few)
    assert set(learned.vocabulary.words) == words_of[0], "what is learned knows no word that training does not show"


def test_the_same_task_keeps_its_answers_and_grows_by_new_ones(tmp_path: Path, clevr: Path) -> None:
    folder = tmp_path / "vqa"
    keys = ["--data.folder", str(clevr), "--model.task", "vqa", "--schedule.epochs", "0.3"]
    train(1, folder, ["--config", str(TINY), *keys])
    path = checkpoints.resolve(folder)
    state, stored = checkpoint.read(path)
    words = Vocabulary.from_json(stored)
    dropped = words.answers[:3]
    fewer = Vocabulary(words.words, words.answers[3:])
    weights = {name: tensor[3:] if name.startswith("head.choose.") else tensor for name, tensor in state["ema"].items()}
    earlier = tmp_path / "earlier"
    checkpoint.save(checkpoint.folder_of(earlier, 1), {**state, "ema": weights}, fewer.to_json())
    start_state = start(config(clevr, earlier, task="vqa"), None, Examples.open(clevr, "question", "train"))
    assert start_state.vocabulary.answers[: len(fewer.answers)] == fewer.answers
    assert set(start_state.vocabulary.answers[len(fewer.answers) :]) == set(dropped)
    kept = start_state.model.state_dict()["head.choose.weight"]
    assert torch.equal(kept[: len(fewer.answers)], weights["head.choose.weight"])
    assert len(kept) == len(words.answers)
    assert "0 new words, 3 new answers" in start_state.summary
    assert "(2 with new rows)" in start_state.summary


@pytest.fixture(scope="module")
def released() -> dict[str, Model]:
    """The networks of the released configurations by task; that of boxes is what pretraining leaves."""
    keys = ["--data.folder", "none", "--model.preset", "s_released"]
    tasks = ("rec", "res", "grec", "vqa")
    models = {task: configuration.load(None, [*keys, "--model.task", task]).model for task in tasks}
    return {task: build_model(model, 1000, 100, None) for task, model in models.items()}


@pytest.mark.parametrize(
    ("earlier", "later", "taken", "in_head", "new"),
    [
        ("rec", "rec", 637, None, []),
        ("rec", "res", 617, 4_887_296, ["head.pyramid", "head.second_neck"]),
        ("rec", "grec", 617, 4_887_296, ["head.pyramid", "head.second_neck"]),
        ("res", "grec", 769, None, []),
        ("rec", "vqa", 377, 0, ["head.choose", "head.hidden", "head.image", "head.norm", "head.words"]),
    ],
)
def test_what_fits_is_taken_whatever_the_task(
    released: dict[str, Model], earlier: str, later: str, taken: int, in_head: int | None, new: list[str]
) -> None:
    """The neck of boxes is that of masks: the released recipes of both start from one file."""
    model = copy.deepcopy(released[later])
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    weights = released[earlier].state_dict()
    found = inherit(model, weights, Path("earlier"))
    assert len(found.taken) == taken
    mine = dict(model.named_parameters())
    head = {name: parameter.numel() for name, parameter in mine.items() if name.startswith("head.")}
    whole = sum(head.values())
    assert sum(head.get(name, 0) for name in found.taken) == (whole if in_head is None else in_head)
    assert sorted({".".join(name.split(".")[:2]) for name in found.new}) == new
    assert {*found.left} == weights.keys() - {*found.taken}
    now = model.state_dict()
    assert all(torch.equal(now[name], weights[name]) for name in found.taken)
    assert not any(mine[name].any() for name in found.new if name in mine)


def test_only_a_head_may_be_new_or_left(released: dict[str, Model]) -> None:
    model, weights = released["rec"], released["rec"].state_dict()
    name = next(name for name in weights if name.startswith("visual."))
    less = {other: tensor for other, tensor in weights.items() if other != name}
    with pytest.raises(ConfigError, match=rf"init_from: here: lacks {name}; is model.preset the same\?"):
        inherit(model, less, Path("here"))
    with pytest.raises(ConfigError, match=r"has visual.more and 0 more that this model lacks; is model.preset the"):
        inherit(model, {**weights, "visual.more": weights[name]}, Path("here"))
    head = next(name for name in weights if name.startswith("head."))
    other = {**weights, head: torch.zeros(3), "head.more": torch.zeros(3)}
    found = inherit(copy.deepcopy(model), other, Path("here"))
    assert found.new == (head,)
    assert found.left == (head, "head.more")
