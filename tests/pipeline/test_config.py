"""Configurations: a file, the command line over it, and one line that names what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laconvnet.pipeline.config import TrainConfig, _tell_once, dump, load
from laconvnet.pipeline.data.loader import DataConfig
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs import resumable
from laconvnet.pipeline.runs.scores import Criterion
from tests.messages import tells

ROOT = Path(__file__).resolve().parents[2]
FILES = [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if path.parent.name != "cluster"]
TRAINING = [path for path in FILES if "stages" not in yaml.safe_load(path.read_text())]
BASE = "data: {folder: somewhere}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "train.yaml"


def refused(file: Path | None, text: str | None = None, overrides: tuple[str, ...] = ()) -> str:
    """The message of a configuration that is not accepted: one line."""
    if file is not None and text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_lays_its_keys_over_the_defaults(file: Path) -> None:
    file.write_text(
        BASE + "model: {task: vqa, groups: [1, 1, 1, 1, 1]}\noptimizer: {lr: 1e-3, betas: [0.8, 0.9]}\nseed: 4\n"
    )
    config = load(file)
    assert config.data == DataConfig("somewhere")
    assert (config.model.task, config.model.groups, config.model.preset) == ("vqa", (1, 1, 1, 1, 1), "s")
    assert (config.optimizer.lr, config.optimizer.betas, config.optimizer.clip) == (1e-3, (0.8, 0.9), 0.15)
    assert config.seed == 4


def test_the_command_line_wins_over_the_file_and_the_last_word_over_the_first(file: Path) -> None:
    file.write_text(BASE + "optimizer: {lr: 0.5, clip: 3.0}\nseed: 4\n")
    config = load(file, ["--optimizer.lr", "0.25", "--seed=5", "--seed", "6", "--data.blank", "true"])
    assert (config.optimizer.lr, config.optimizer.clip, config.seed, config.data.blank) == (0.25, 3.0, 6, True)
    # A group on the command line adds to the file's, however the file spells the key.
    assert load(file, ["--optimizer", "{lr: 0.125}"]).optimizer == replace(config.optimizer, lr=0.125)
    for text in ("optimizer: {clip: 3.0}\noptimizer.lr: 0.5\n", "optimizer.lr: 0.5\noptimizer: {clip: 3.0}\n"):
        file.write_text(BASE + text)
        assert load(file).optimizer.lr == 0.5
        assert load(file, ["--optimizer.lr", "0.25"]).optimizer == config.optimizer


@pytest.mark.parametrize("text", ["10", "no", "2024-01-01", "a: b", "@x", "007", "1e3", "[a", "-5", "true"])
def test_a_text_stays_as_it_was_typed(text: str) -> None:
    """A preset is called 10 and a folder 2024-01-01, whatever YAML makes of them."""
    assert load(None, ["--data.folder", text, "--data.vectors", text]).data == DataConfig(text, vectors=text)
    assert load(None, ["--data.folder=x", f"--init_from={text}"]).init_from == text


def test_numbers_name_presets_and_folders_in_a_file_too(file: Path) -> None:
    file.write_text("data: {folder: 2024}\nmodel: {preset: 10}\n")
    config = load(file)
    assert (config.data.folder, config.model.preset) == ("2024", "10")
    assert config.model.net().depths == (2, 1, 2, 4, 1)


def test_null_leaves_an_optional_key_out(file: Path) -> None:
    file.write_text(BASE + "init_from: runs/first\ndata.vectors: glove.txt\n")
    assert load(file).init_from == "runs/first"
    config = load(file, ["--init_from", "null", "--data.vectors="])
    assert config.init_from is None
    assert config.data.vectors is None


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_the_projects_own_files_fit(path: Path) -> None:
    assert isinstance(load(path, ["--data.folder", "x"]), TrainConfig)


def test_a_file_lies_over_its_base(tmp_path: Path) -> None:
    (tmp_path / "low").mkdir()
    (tmp_path / "low" / "first.yaml").write_text(
        "data: {folder: a, size: 64}\nmodel: {groups: [1, 1, 1, 1, 1]}\nseed: 3\n"
    )
    (tmp_path / "second.yaml").write_text("base: low/first.yaml\ndata: {size: 96}\n")
    (tmp_path / "third.yaml").write_text("base: second.yaml\nmodel: {groups: [2, 2, 2, 2, 2]}\n")
    config = load(tmp_path / "third.yaml", ["--data.words", "9"])
    assert (config.data.folder, config.data.size, config.data.words, config.seed) == ("a", 96, 9, 3)
    assert config.model.groups == (2, 2, 2, 2, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base: nowhere.yaml\n", "nowhere.yaml: cannot be read"),
        ("base: [a]\n", "base: ['a']: expected the path of another configuration file"),
        ("base: it.yaml\n", "it.yaml: base: it.yaml: is this file again"),
    ],
)
def test_a_base_that_cannot_be_one_is_reported(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refused(tmp_path / "it.yaml", text)


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer: {lrr: 1.0}", "optimizer.lrr: no such key"),
        ("optim: {lr: 1.0}", "optim.lr: no such key"),
        ("speed: 3", "speed: no such key"),
        ("1: 2", "1: no such key"),
        ("model: {heads: {anchor: 3}}", "model.heads.anchor: no such key"),
        ("optimizer: {lr: fast}", "optimizer.lr: Expected a float. Got value: fast"),
        ("seed: 1.5", "seed: Expected a int. Got value: 1.5"),
        ("data: {batch: true, folder: x}", "data.batch: Expected a int. Got value: True"),
        ("data: {folder: 2024-01-01}", "data.folder: Expected a str. Got value: 2024-01-01"),
        ("model: {task: reg}", "model.task: expected one of rec res grec vqa entailment, got 'reg'"),
        ("engine: {zero: 4}", "engine.zero: Expected one of [0, 1, 2, 3]. Got value: 4"),
        ("optimizer: {betas: [0.9]}", "optimizer.betas: Expected a tuple with 2 elements. Got value: [0.9]"),
        ("model: {groups: [1, 2]}", "model.groups: Expected tuple[int, int, int, int, int]"),
        ("model: {conditions: [64, 64]}", "model.conditions: Expected tuple[int, int, int, int, int]"),
        ("model: {conditions: [64, 64, 64, 64, 60]}", "model.conditions: expected a positive multiple of the 8 heads"),
        ("optimizer:", "optimizer: None: expected a group of keys"),
        ("optimizer: [1]", "optimizer: [1]: expected a group of keys"),
        ("data: /etc/passwd", "data: '/etc/passwd': expected a group of keys"),
        ("optimizer: {lr: {x: 1}}", "optimizer.lr: Expected a float. Got value: {'x': 1}"),
        ("schedule: {warmup: 90}", "schedule.warmup: 90.0: expected at least 0 and less than epochs (25.0)"),
        ("data: {folder: x, size: 50}", "data.size: 50: expected a multiple of 32"),
    ],
)
def test_a_fault_in_the_file_is_reported_with_key_value_and_what_was_expected(
    file: Path, text: str, expected: str
) -> None:
    message = refused(file, text + "\n" if text.startswith("data") else f"{BASE}{text}\n")
    assert message.startswith(f"{file}: {expected}")


@pytest.mark.parametrize("with_file", [False, True])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--optimizer.lrr", "1"), "optimizer.lrr: no such key"),
        (("--optim", "1"), "optim: no such key"),
        (("--optimizer.lr", "fast"), "optimizer.lr: Expected a float. Got value: fast"),
        (("--optimizer.lr.x", "1"), "optimizer.lr: Expected a float. Got value: {'x': 1}"),
        (("--model.task", "reg"), "model.task: expected one of rec res grec vqa entailment, got 'reg'"),
        (("--seed", "[a"), "--seed: value '[a' is not YAML"),
        (("--optimizer", "adam"), "optimizer: 'adam': expected a group of keys"),
        (("--seed",), "--seed: a value is missing"),
        (("seed", "1"), "'seed': expected `--key.sub value`"),
        (("--", "1"), "'--': expected `--key.sub value`"),
        (("--=1",), "'--=1': expected `--key.sub value`"),
        (("--data.batch", "0"), "data.batch: 0: expected at least 1"),
        (("--data.folder", "null"), "data.folder: missing"),
        (("--schedule.warmup", "90"), "schedule.warmup: 90.0: expected"),
    ],
)
def test_a_fault_on_the_command_line_is_reported_as_such(
    file: Path, words: tuple[str, ...], expected: str, with_file: bool
) -> None:
    file.write_text(BASE)
    rest = () if with_file else ("--data.folder", "x")
    assert refused(file if with_file else None, None, (*rest, *words)).startswith(f"command line: {expected}")


def test_a_fault_of_the_file_is_not_laid_on_the_command_line(file: Path) -> None:
    text = BASE + "optimizer: {split: 3}\n"
    assert tells(refused(file, text, ("--data.split", "val")), f"{file}: optimizer.split: ")
    assert tells(refused(file, BASE + "seed: 3\n", ("--seed.x", "4")), "command line: seed.x: ")


def test_a_missing_folder_is_the_one_thing_without_default(file: Path) -> None:
    assert tells(refused(file, "seed: 1\n"), f"{file}: data.folder: ", "missing")
    assert tells(refused(None), "command line: data.folder: ", "missing")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: {folder: x\n", "not valid YAML: while parsing a flow mapping"),
        ("data:\n\tfolder: x\n", "not valid YAML: while scanning"),
        ("\x00", "not valid YAML: "),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML: could not determine a constructor"),
        ("- 1\n", "holds list, expected keys and values"),
        ("word\n", "holds str, expected keys and values"),
        ("", "holds NoneType, expected keys and values"),
    ],
)
def test_a_file_that_is_no_configuration(file: Path, text: str, expected: str) -> None:
    assert refused(file, text).startswith(f"{file}: {expected}")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert tells(refused(missing), f"{missing}: ", "No such file")
    assert "--config expects a YAML file" in refused(missing)
    assert tells(refused(tmp_path), f"{tmp_path}: ", "directory")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"data: {folder: caf\xe9}\n")
    assert refused(latin).startswith(f"{latin}: not valid YAML: ")


def test_no_class_of_the_files_choice_is_ever_called(file: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for key in ("optimizer", "data"):
        call = f"{{class_path: subprocess.check_call, init_args: {{popenargs: [touch, {mark}]}}}}"
        refused(file, f"{BASE if key != 'data' else ''}{key}: {call}\n")
    assert not mark.exists()


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab:.{[ -", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.", max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["data", "data.folder", "model", "model.heads", "model.heads.anchors.sizes", "optimizer.lr", "x"]
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.dictionaries(KEYS, TREES, max_size=3))
def test_whatever_the_file_holds_it_is_accepted_or_refused_in_one_line(file: Path, keys: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump(keys))
    try:
        message = f"{file}: {load(file).data.folder}"
    except ConfigError as error:
        message = str(error)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message


# --- round trips ------------------------------------------------------------------------------------------------------


def test_what_is_dumped_loads_as_it_was(file: Path) -> None:
    words = ["--data.folder", "no", "--model.preset", "10", "--model.heads.anchors.sizes", "[[9, 9], [13, 14]]"]
    words += ["--optimizer.eps", "1.0e-12", "--schedule.drops", "[1.5]", "--model.groups", "[1, 1, 1, 1, 1]"]
    config = load(None, words)
    assert (config.data.folder, config.model.preset) == ("no", "10")
    file.write_text(dump(config))
    assert load(file) == config
    assert dump(load(file)) == dump(config)


@pytest.fixture
def started(file: Path) -> TrainConfig:
    config = load(None, ["--data.folder", "somewhere"])
    file.write_text(dump(config))
    return config


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--optimizer.lr", "0.5"), "optimizer.lr is 0.0001 in this run but 0.5 is asked for"),
        (("--data.batch", "64"), "data.batch is 32 in this run but 64 is asked for"),
        (("--seed", "1"), "seed is 0 in this run but 1 is asked for"),
        (("--schedule.epochs", "26"), "schedule.epochs is 25.0 in this run but 26.0 is asked for"),
        (
            ("--model.heads.anchors.sizes", "[[1, 2]]"),
            "model.heads.anchors.sizes is [[137, 256], [248, 272], [386, 271]] in this run",
        ),
        (("--data.vectors", "x"), "data.vectors is None in this run but 'x' is asked for"),
        (("--engine.accumulate", "2"), "engine.accumulate is 1 in this run but 2 is asked for"),
        (("--data.split", "all"), "data.split is 'train' in this run but 'all' is asked for"),
        (("--data.blank", "true"), "data.blank is False in this run but True is asked for"),
        (
            ("--model.conditions", "[64, 64, 128, 256, 512]"),
            "model.conditions is None in this run but [64, 64, 128, 256, 512] is asked for",
        ),
    ],
)
def test_a_run_resumes_with_its_own_configuration_only(
    file: Path, started: TrainConfig, words: tuple[str, ...], expected: str
) -> None:
    resumable.check(started, file)
    with pytest.raises(ConfigError) as caught:
        resumable.check(load(file, words), file)
    message = str(caught.value)
    assert message.startswith(f"{file}: {expected}")
    assert "--run" in message
    assert "\n" not in message


def test_a_run_started_before_a_key_was_there_resumes(file: Path, started: TrainConfig) -> None:
    """What its config.yaml does not say had the value that is the default now; asking for another is refused."""
    tree = yaml.safe_load(file.read_text())
    assert tree["model"].pop("conditions", "missing") is None
    file.write_text(yaml.safe_dump(tree))
    assert load(file) == started
    resumable.check(started, file)
    other = load(None, ["--data.folder", "somewhere", "--model.conditions", "[64, 64, 128, 256, 512]"])
    with pytest.raises(ConfigError, match=r"model\.conditions is None .*64, 64, 128, 256, 512"):
        resumable.check(other, file)


def test_what_does_not_shape_the_learning_may_change(file: Path, started: TrainConfig) -> None:
    free = ["--engine.zero", "3", "--engine.precision", "fp32", "--checkpoint.every", "5", "--checkpoint.keep", "9"]
    free += ["--log.every", "1", "--data.threads", "7", "--init_from", "elsewhere"]
    changed = load(file, free)
    assert changed != started
    resumable.check(changed, file)


@pytest.mark.parametrize("spelled", ["somewhere/", "./somewhere", "/elsewhere"])
def test_a_set_may_be_named_in_other_words(file: Path, started: TrainConfig, spelled: str) -> None:
    """What lies there is compared by its content when the run starts; the file then says where it is now."""
    moved = load(file, ["--data.folder", spelled])
    resumable.check(moved, file)
    before = resumable.seal(file)
    resumable.follow(moved, file)
    assert load(file) == moved
    assert resumable.seal(file) == before == resumable.seal_of(started)


def test_the_seal_is_of_what_shapes_the_learning_alone(file: Path, started: TrainConfig) -> None:
    before = resumable.seal(file)
    free = load(file, ["--engine.zero", "3", "--log.every", "7", "--init_from", "x"])
    assert resumable.seal_of(free) == before
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()), sort_keys=True))
    assert resumable.seal(file) == before, "keys in another order"
    for words in (["--seed", "1"], ["--engine.accumulate", "2"], ["--data.vectors", "glove.txt"]):
        assert resumable.seal_of(load(file, words)) != before
    tree = yaml.safe_load(file.read_text())
    del tree["model"]["conditions"]  # as a version wrote it that did not know the key
    file.write_text(yaml.safe_dump(tree))
    older = resumable.seal(file)
    resumable.follow(load(file, ["--data.folder", "moved"]), file)
    assert resumable.seal(file) == older


@pytest.mark.parametrize("typed", [True, False])
def test_an_old_name_is_read_and_the_new_one_told(file: Path, typed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--checkpoint.best", "loss"] if typed else []
    file.write_text(BASE if typed else BASE + "checkpoint: {best: loss}\n")
    _tell_once.cache_clear()
    config = load(file, words)
    load(file, words)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("command line: checkpoint.best: " if typed else f"{file}: checkpoint.best: ")
    assert "validate.metric" in line
    assert "validate.keep_best" in line
    assert config.validate.criterion("rec") == Criterion("loss")
    assert load(file, [*words, "--validate.metric", "grad_norm"]).validate.metric == "grad_norm"
    assert load(file, [*words, "--validate.keep_best", "false"]).validate.criterion("rec") is None


def test_a_run_of_before_there_was_validation_says_nothing_of_it(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(BASE + "checkpoint: {best: null}\n")
    assert load(file).validate.criterion("rec") is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("task", "metric"), [("rec", "acc@0.5"), ("res", "miou"), ("grec", "giou"), ("vqa", "accuracy")]
)
def test_checkpoints_are_compared_by_the_main_metric_of_the_task(file: Path, task: str, metric: str) -> None:
    config = load(
        None,
        [f"--data.folder={file.parent}", "--validate.every", "1", "--validate.split", "testA", "--model.task", task],
    )
    assert config.validate.criterion(task) == Criterion(metric, "testA")


@pytest.mark.parametrize(
    ("key", "value"),
    [("every", "-1"), ("every", ".inf"), ("patience", "-1"), ("patience", "1"), ("examples", "-2")],
)
def test_a_validation_that_cannot_be_is_refused(file: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^command line: validate\.{key}: {value.replace('.', '')}"):
        load(None, [f"--data.folder={file.parent}", f"--validate.{key}", value])


def test_a_family_of_questions_may_be_what_checkpoints_are_compared_by(file: Path) -> None:
    words = ["--validate.every", "1", "--model.task", "vqa", "--validate.metric"]
    assert load(None, [f"--data.folder={file.parent}", *words, "accuracy/exist"]).validate.criterion(
        "vqa"
    ) == Criterion("accuracy/exist", "val")
    with pytest.raises(ConfigError, match=r"validate\.metric: 'miou': vqa is scored by accuracy"):
        load(None, [f"--data.folder={file.parent}", *words, "miou"])
