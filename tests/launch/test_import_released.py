"""`laconvnet import-released`: a file of the released code's layout becomes a run that every command takes."""

from __future__ import annotations

import fractions
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from laconvnet.launch import cli
from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.text import AUTHORS_RULE, Vocabulary
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference import import_released
from laconvnet.pipeline.inference.import_released import read_vocabulary
from laconvnet.pipeline.inference.restore import restore
from laconvnet.pipeline.model import ModelConfig, build_model
from laconvnet.pipeline.model.released_names import module_names
from laconvnet.pipeline.runs import folder
from laconvnet.pipeline.training.start import start

TOKENS = ["PAD", "UNK", "CLS", "the", "red", "man", "left"]
NUMBERED = {token: number for number, token in enumerate(TOKENS)}


def released_weights(rows: int = len(TOKENS)) -> dict[str, Tensor]:
    """A REC state dict by the names and shapes of the released code; a tensor holds one number, all over."""
    config = ModelConfig(preset="s_released", task="rec", head="points")
    modules = module_names(config.net(), "points")
    made = torch.Generator().manual_seed(0)
    weights = {}
    with torch.device("meta"):
        state = build_model(config, rows).state_dict()
    for name, ours in state.items():
        module, _, leaf = name.rpartition(".")
        shape = (*ours.shape, 1, 1) if name.endswith("filters.weight") else tuple(ours.shape)
        lengths = [4, 1] if len(modules[module]) == 2 else [None]
        for other, length in zip(modules[module], lengths, strict=True):
            value = (torch.rand((), generator=made) * 0.1).to(ours.dtype)
            weights[f"{other}.{leaf}"] = value.expand(shape if length is None else (length, *shape[1:]))
    return weights


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor]:
    return released_weights()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, theirs: dict[str, Tensor]) -> Path:
    """best.pth as the released training saves it, and vocabulary.json."""
    folder = tmp_path_factory.mktemp("released")
    optimizer = {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    state = {"epoch": 40, "state_dict": theirs, "optimizer": optimizer, "scheduler": {"lr_lambdas": [None]}, "lr": 1e-6}
    torch.save(state, folder / "best.pth")
    (folder / "vocabulary.json").write_text(json.dumps(TOKENS))
    return folder


@pytest.fixture(scope="module")
def run(files: Path) -> Path:
    """The imported run."""
    out = files / "runs" / "theirs"
    arguments = ["import-released", str(files / "best.pth"), "--vocabulary", str(files / "vocabulary.json")]
    assert cli.main([*arguments, "--out", str(out), "--json"]) == 0
    return out


def test_the_run_is_restored_with_their_weights_and_numbers(run: Path, theirs: dict[str, Tensor]) -> None:
    assert [entry.name for entry in run.parent.iterdir()] == ["theirs"]
    ready = restore(run)
    assert ready.step == 0
    assert (ready.config.model.preset, ready.config.model.task, ready.config.model.head) == (
        "s_released",
        "rec",
        "points",
    )
    assert (ready.config.data.size, ready.config.data.words) == (416, 15)
    assert "best.pth" in ready.config.data.folder
    state = ready.model.state_dict()
    assert torch.equal(state["language.embedding.weight"], theirs["lang_encoder.embedding.weight"])
    assert torch.equal(state["head.predict.bias"][4:], theirs["head.obj_preds.0.bias"])
    assert torch.equal(
        state["visual.stages.4.blocks.0.mlp.reduce.weight"], theirs["visual_encoder.blocks.4.1.block1.3.weight"]
    )
    encoded = ready.vocabulary.encode(["The red CLS, man!"], 6)[0].tolist()
    assert encoded == [NUMBERED["the"], NUMBERED["red"], NUMBERED["UNK"], NUMBERED["man"], NUMBERED["PAD"], 0]


def test_what_was_found_is_told(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"net_state_dict": torch.load(files / "best.pth")["state_dict"]}, tmp_path / "other.pth")
    out = tmp_path / "run"
    out.mkdir()
    arguments = ["import-released", str(tmp_path / "other.pth"), "--vocabulary", str(files / "vocabulary.json")]
    assert cli.main([*arguments, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "run": str(out),
        "preset": "s_released",
        "task": "rec",
        "head": "points",
        "tensors": 639,
        "words": 7,
        "taken": "net_state_dict",
    }


@pytest.fixture
def small_images(run: Path, tmp_path: Path) -> Path:
    """The run at 64 pixels, so that it answers at once."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "checkpoints").symlink_to(run / "checkpoints")
    (folder / "config.yaml").write_text((run / "config.yaml").read_text().replace("size: 416", "size: 64"))
    return folder


def test_predict_eval_and_init_from_take_it(
    small_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_images
    image = tmp_path / "picture.png"
    Image.new("RGB", (40, 30), (200, 40, 40)).save(image)
    capsys.readouterr()
    assert cli.main(["predict", str(run), "--image", str(image), "--text", "the red man", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["box"]) == 4

    raw, shards = tmp_path / "raw", tmp_path / "refcoco"
    assert cli.main(["shards", "generate", "--out", str(raw), "--pictures", "8", "--questions", "1"]) == 0
    assert cli.main(["shards", "build", "refcoco", "--root", str(raw / "refer"), "--out", str(shards)]) == 0
    capsys.readouterr()
    scored = ["eval", str(run), "--data", str(shards), "--split", "testA", "--out", str(tmp_path / "score.json")]
    assert cli.main([*scored, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] > 0

    keys = ["--model.preset", "s_released", "--data.folder", str(shards), "--init_from", str(run)]
    begun = start(configuration.load(None, keys), None, Examples.open(shards, "expression", "train"))
    assert list(begun.vocabulary.words[:5]) == TOKENS[2:]
    assert "square" in begun.vocabulary.words
    given, taken = restore(run).model.state_dict(), begun.model.state_dict()
    assert torch.equal(taken["language.embedding.weight"][:7], given.pop("language.embedding.weight"))
    assert all(torch.equal(taken[name], tensor) for name, tensor in given.items())


ANNOTATED: dict[str, Any] = {
    "train": [{"refs": ["The red man!", "red"], "iid": 1}, {"refs": ["left man"]}],
    "testA": [{"refs": ["the left-man"]}],
}


@pytest.mark.parametrize("given", [TOKENS, NUMBERED, dict(reversed(NUMBERED.items())), ANNOTATED])
def test_a_vocabulary_in_each_of_its_forms(given: Any, tmp_path: Path) -> None:
    file = tmp_path / "words.json"
    file.write_text(json.dumps(given))
    assert read_vocabulary(file) == Vocabulary(tuple(TOKENS[2:]), rule=AUTHORS_RULE)
    assert len(read_vocabulary(file)) == len(TOKENS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["the", "red"], r"begins with \['the', 'red'\], expected \['PAD', 'UNK'\]"),
        ([*TOKENS, "man"], r"'man' stands there twice"),
        ({**NUMBERED, "right": 9}, r"expected the numbers 0 to 7, each once"),
        ({"PAD": 1, "UNK": 0}, r"begins with \['UNK', 'PAD'\]"),
        (["PAD", "UNK", 3], r"expected .*words.*\{word: number\}.*annotation file"),
        ("PAD", r"expected a list of words"),
        ({"train": [{"sentences": []}]}, r"neither \{word: number\} nor an annotation file"),
        ({"train": 3, "val": "x"}, r"neither"),
        ([], r"begins with \[\]"),
    ],
)
def test_what_is_no_vocabulary_is_refused(given: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "words.json"
    file.write_text(json.dumps(given))
    with pytest.raises(ConfigError, match=rf"^--vocabulary: {file}: .*{message}") as error:
        read_vocabulary(file)
    assert "\n" not in str(error.value)


def test_a_vocabulary_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--vocabulary: .*none\.json: cannot be read as JSON"):
        read_vocabulary(tmp_path / "none.json")
    (tmp_path / "bad.json").write_bytes(b"\xff{")
    with pytest.raises(ConfigError, match=r"bad\.json: cannot be read as JSON"):
        read_vocabulary(tmp_path / "bad.json")


def cut(file: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, file)
    file.write_bytes(file.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: None, "best.pth: cannot be read (No such file or directory)"),
        (lambda file: file.mkdir(), "best.pth: cannot be read (Is a directory)"),
        (lambda file: file.write_bytes(b"hello world"), "best.pth: not a whole file of torch.save"),
        (lambda file: file.write_bytes(b""), "best.pth: not a whole file of torch.save"),
        (cut, "best.pth: not a whole file of torch.save"),
        (lambda file: torch.save({"state_dict": {}, "x": fractions.Fraction(1)}, file), "asks for fractions.Fraction"),
        (lambda file: torch.save([torch.zeros(1)], file), "best.pth: holds a list, expected a state dict"),
        (lambda file: torch.save({"epoch": 3, "lr": 0.1}, file), "best.pth: holds epoch, lr: expected tensors by name"),
        (lambda file: torch.save({"state_dict": {}}, file), "best.pth: holds state_dict: expected tensors by name"),
        (lambda file: torch.save({}, file), "best.pth: holds nothing: expected tensors by name"),
        (lambda file: torch.save({"a": torch.eye(2).to_sparse()}, file), "best.pth: holds a: expected tensors by name"),
        (lambda file: torch.save({"state_dict": {"a": torch.eye(2)}}, file), "best.pth: state_dict: (0, 0, 0, 0, 0)"),
    ],
)
def test_a_file_of_something_else_is_one_line_and_code_2(
    write: Callable[[Path], object], message: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "best.pth"
    write(file)
    arguments = ["import-released", str(file), "--vocabulary", str(files / "vocabulary.json")]
    assert cli.main([*arguments, "--out", str(tmp_path / "run")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.glob("*run*"))


def test_the_vocabulary_of_another_set_is_refused(files: Path, tmp_path: Path) -> None:
    (tmp_path / "short.json").write_text(json.dumps(TOKENS[:-1]))
    with pytest.raises(ConfigError, match=r"best\.pth: .*\(7, 300\).* 6 words; expected"):
        import_released.import_released(files / "best.pth", tmp_path / "short.json", tmp_path / "run")
    assert [entry.name for entry in tmp_path.iterdir()] == ["short.json"]


def test_nothing_that_is_there_is_written_over(files: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "note.txt").write_text("mine")
    for out in (tmp_path / "run", tmp_path / "run" / "note.txt"):
        with pytest.raises(ConfigError, match=rf"^--out: {out}: .* expected a new or empty folder"):
            import_released.import_released(files / "best.pth", files / "vocabulary.json", out)
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["note.txt"]


def test_an_interruption_leaves_nothing(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "prepare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_released.import_released(files / "best.pth", files / "vocabulary.json", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_help_says_what_was_not_met(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["import-released", "--help"])
    output = " ".join(capsys.readouterr().out.split())
    assert "no file of the authors' own weights has been met" in output
