"""`laconvnet predict` over folders and lists, with several runs, broken off and gone on with."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laconvnet.launch import cli
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference import answer_file, predict
from laconvnet.pipeline.inference.answer_file import opened
from laconvnet.pipeline.inference.asks import of_images
from laconvnet.pipeline.inference.predictor import Predictor
from tests.pipeline.inference.test_predictor import corners

Rows = list[dict[str, Any]]
Ask = Callable[..., tuple[int, Rows, str]]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """`laconvnet predict` with these words, the answers in a file: the code, the lines and what was told."""

    def asked(*words: object, out: str = "answers.jsonl") -> tuple[int, Rows, str]:
        file = tmp_path / out
        code = cli.main(["predict", *map(str, words), "--out", str(file)])
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return code, rows, capsys.readouterr().err

    return asked


@pytest.fixture
def asked(tmp_path: Path, images: list[Path], seen: Rows) -> Path:
    """A table of what `eval` was asked."""
    file = tmp_path / "asked.jsonl"
    lines = [{"id": f"q{at}", "image": str(images[at]), "text": one["text"]} for at, one in enumerate(seen)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_list_is_answered_as_eval_answers(trained: Path, asked: Path, seen: Rows, ask: Ask) -> None:
    code, rows, _ = ask(trained, "--list", asked, "--resize", "dali", "--batch", 8)
    assert code == 0
    assert [(row["id"], row["text"]) for row in rows] == [(f"q{at}", one["text"]) for at, one in enumerate(seen)]
    assert [corners(row) for row in rows] == [corners(one) for one in seen]
    assert [row["score"] for row in rows] == [one["score"] for one in seen]
    assert {row["run"] for row in rows} == {str(trained)}


def test_several_runs_answer_side_by_side(trained: Path, asked: Path, seen: Rows, ask: Ask) -> None:
    older = min(trained.glob("checkpoints/step-*"))
    _, rows, _ = ask(trained, older, "--list", asked)
    assert [row["run"] for row in rows] == [str(trained), str(older)] * len(seen)
    assert [row["row"] for row in rows[::2]] == [row["row"] for row in rows[1::2]] == list(range(1, len(seen) + 1))
    for place, name in ((trained, "one"), (older, "other")):
        _, alone, _ = ask(place, "--list", asked, out=f"{name}.jsonl")
        assert alone == [row for row in rows if row["run"] == str(place)]


def test_a_folder_is_asked_one_text_and_unknown_words_are_told(
    trained: Path, images: list[Path], ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows, told = ask(trained, "--image", images[0].parent, "--text", "the RED zyzzyva")
    assert code == 0
    assert [row["image"] for row in rows] == sorted({str(file) for file in images})
    assert all(row["unknown"] == ["zyzzyva"] for row in rows)
    assert "words that were not known: zyzzyva" in told
    # Without a file the same lines are printed.
    assert cli.main(["predict", str(trained), "--image", str(images[0].parent), "--text", "the RED zyzzyva"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows


def test_a_prediction_broken_off_goes_on_and_ends_in_the_same_file(
    trained: Path, asked: Path, seen: Rows, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (trained, "--list", asked, "--batch", 4)
    ask(*words, out="whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    answers, batches = Predictor.answers, []

    def interrupted(model: Predictor, batch: Any) -> Any:
        batches.append(len(batch.rows))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return answers(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "answers", interrupted)
        assert ask(*words)[0] == 130
    file = tmp_path / "answers.jsonl"
    assert file.read_bytes() == b"".join(whole.splitlines(keepends=True)[:8])
    with file.open("ab") as stream:
        stream.write(whole.splitlines()[8][:20])  # as a kill leaves it
    batches.clear()

    def counted(model: Predictor, batch: Any) -> Any:
        batches.append(len(batch.rows))
        return answers(model, batch)

    monkeypatch.setattr(Predictor, "answers", counted)
    code, _, told = ask(*words)
    assert code == 0
    assert f"8 of {len(seen)} are answered" in told
    assert sum(batches) == len(seen) - 8  # nothing is answered twice
    assert file.read_bytes() == whole
    assert ask(*words)[0] == 0  # and once more there is nothing to do
    assert file.read_bytes() == whole


def test_a_file_of_other_answers_is_left_alone(trained: Path, asked: Path, ask: Ask, tmp_path: Path) -> None:
    ask(trained, "--list", asked)
    file = tmp_path / "answers.jsonl"
    before = file.read_text()
    lines = asked.read_text().splitlines()
    short, other = tmp_path / "short.jsonl", tmp_path / "other.jsonl"
    short.write_text("\n".join(lines[:3]))
    other.write_text("\n".join([lines[0], lines[1].replace('"text": "', '"text": "no '), *lines[2:]]))
    last = sorted(trained.glob("checkpoints/step-*"))[0]
    for words, message in (
        ((trained, "--list", short), "holds more answers than are asked for"),
        ((trained, "--list", other), r"line 2: text is '.*', asked is 'no .*choose another file"),
        ((last, "--list", asked), "line 1: run is "),
    ):
        code, _, told = ask(*words)
        assert code == 2
        assert re.search(message, told)
        assert file.read_text() == before
    file.write_text("not ours\n")
    assert cli.main(["predict", str(trained), "--list", str(asked), "--out", str(file)]) == 2
    assert file.read_text() == "not ours\n"


def test_a_file_that_another_process_writes_is_left_alone(trained: Path, asked: Path, ask: Ask, tmp_path: Path) -> None:
    with answer_file.opened(tmp_path / "answers.jsonl", []):
        code, rows, told = ask(trained, "--list", asked)
    assert (code, rows) == (2, [])
    assert "answers.jsonl: another process is writing it" in told
    assert ask(trained, "--list", asked)[0] == 0


def test_a_full_disk_is_told_of_the_file_of_answers(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, answer_file.opened(tmp_path / "a.jsonl", []):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "a.jsonl")


def test_what_cannot_be_answered_has_its_reason_and_the_rest_is_answered(
    trained: Path, images: list[Path], ask: Ask, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    table = tmp_path / "asked.csv"
    table.write_text(
        f"Image,Question\n{images[0]},the red one\nnone.jpg,the red one\nbroken.jpg,the red one\n{images[0]},?!\n"
        f"{images[0]},\n{images[0]},the red one,and more\n{images[0]},the red one\n"
    )
    code, rows, told = ask(trained, "--list", table)
    assert code == 1
    assert [row["row"] for row in rows] == [2, 3, 4, 5, 6, 7, 8]
    assert rows[0]["box"] == rows[-1]["box"]
    wanted = [
        "none.jpg: no such file",
        "cannot|can be decoded",
        "holds no word",
        "no text",
        "3 cells, the header has 2",
    ]
    assert all(re.search(reason, row["error"]) for reason, row in zip(wanted, rows[1:-1], strict=True))
    assert "5 without an answer, the first of them row 3: image: " in told


def test_a_folder_in_it_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"")
    real = os.scandir

    def scandir(place: Any) -> Any:  # root may read whatever is closed
        if Path(place).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="closed"):
        of_images([tmp_path], "a")


def test_a_read_only_file_system_is_the_user_s_to_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system", "there")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"Read-only file system.*choose another place"), opened(tmp_path / "a", []):
        pass


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", "a"], "expected --image and --text, or --list"),
        (["--image", "."], "expected --image and --text, or --list"),
        (["--list", "a.csv", "--text", "a"], "leave out --image and --text"),
        (["--image", "a.jpg", "--text", "a", "--images", "."], "is the folder of a --list"),
        (["--image", ".", "--text", "a"], "no image in it"),
        (["--list", "none.csv"], "none.csv"),
        (["--list", "a.txt"], "not known as a table"),
        (["--list", "a.csv"], "no column image; found a, text"),
        (["--list", "empty.csv"], "holds no row"),
        (["--list", "twice.csv"], "column 'image' is there twice; rename one"),
        (["--image", "a.jpg", "b.jpg", "--text", "a", "--out", "a.png"], "expected a name such as answers.jsonl"),
        (["--image", "a.jpg", "--text", "a", "--batch", "0"], "--batch: 0"),
    ],
)
def test_a_mistake_is_told_before_any_model_is_read(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("a,text\n1,2\n")
    (tmp_path / "twice.csv").write_text("Image,image,text\n1,2,3\n")
    (tmp_path / "empty.csv").write_text("image,text\n")
    assert cli.main(["predict", "no-run", *words]) == 2
    assert message in capsys.readouterr().err


def test_answers_do_not_depend_on_how_many_are_asked_at_once(trained: Path, asked: Path, ask: Ask) -> None:
    """To what rounding leaves: other matrix products for other batches."""
    _, at_once, _ = ask(trained, "--list", asked, "--batch", 64)
    _, apart, _ = ask(trained, "--list", asked, "--batch", 3, "--threads", 1, out="apart.jsonl")
    assert [row["row"] for row in at_once] == [row["row"] for row in apart]
    assert [row["score"] for row in at_once] == pytest.approx([row["score"] for row in apart], abs=1e-4)


def test_the_end_tells_the_commonest_unknown_words(capsys: pytest.CaptureFixture[str]) -> None:
    tally = predict.Tally()
    tally.add([{"unknown": [f"w{at}" for at in range(upto)]} for upto in (1, 2, 13)])
    tally.tell()
    assert capsys.readouterr().err == (
        "words that were not known: w0, w1, w2, w3, w4, w5, w6, w7, w8, w9 and 3 others\n"
    )


def test_the_bench_answers_a_split_by_each_way(
    trained: Path, sets: dict[str, Path], seen: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(sets["refcoco"]), "--split", "train", "--rounds", "1", "--json"]
    assert cli.main(["bench", "predict", str(trained), *words]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["eval", "predict, pillow", "predict, dali"]
    assert {(row["baseline"], row["texts"], row["note"]) for row in rows} == {("eval", len(seen), None)}
    assert all(row["texts_per_s"] == pytest.approx(1e3 * len(seen) / row["median"]) for row in rows)
