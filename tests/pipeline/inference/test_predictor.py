"""A trained model, asked from Python: what `eval` answers, in a process that has neither DALI nor DeepSpeed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import laconvnet
from tests.docs.pages import DOCS, blocks
from tests.without import without

LACKING = ("nvidia", "deepspeed", "webdataset", "accelerate", "submitit", "fsspec")
ALONE = f"""
{without(*LACKING)}
import json
import laconvnet
assert not any(name.startswith("torch") for name in sys.modules), "imported before it is asked for"
place, image, *texts = sys.argv[1:]
print(json.dumps([answer.box for answer in laconvnet.load(place, device="cpu")(image, texts)]))
"""


def corners(answer: dict[str, Any]) -> list[float]:
    x, y, width, height = answer["box"]
    return [x, y, x + width, y + height]


def test_by_dali_it_answers_as_eval_to_the_bit(trained: Path, seen: list[dict[str, Any]], images: list[Path]) -> None:
    model = laconvnet.load(trained, resize="dali", batch=8)  # as many at a time as `eval` takes
    answers = model(images, [answer["text"] for answer in seen])
    assert [list(answer.box or ()) for answer in answers] == [corners(answer) for answer in seen]
    assert [answer.confidence for answer in answers] == [answer["score"] for answer in seen]


def test_by_pillow_it_answers_within_half_a_pixel(
    trained: Path, seen: list[dict[str, Any]], images: list[Path]
) -> None:
    """Where one cell of the map is clearly the best: a network of a few steps is often torn between two."""
    answers = laconvnet.load(trained)(images, [answer["text"] for answer in seen])
    apart = np.abs(np.array([answer.box for answer in answers]) - np.array([corners(answer) for answer in seen])).max(1)
    scores = np.array([[answer.confidence, other["score"]] for answer, other in zip(answers, seen, strict=True)])
    assert np.abs(scores[:, 0] - scores[:, 1]).max() < 0.01
    torn = apart > 0.5
    assert torn.mean() < 0.1
    assert np.median(apart[~torn]) < 0.1


def test_it_needs_neither_dali_nor_deepspeed(trained: Path, seen: list[dict[str, Any]], images: list[Path]) -> None:
    texts = ["the red circle", "the lowest one"]
    expected = [list(answer.box or ()) for answer in laconvnet.load(trained, device="cpu")(str(images[0]), texts)]
    for place in (trained, max(trained.glob("checkpoints/step-*")), trained / "model.safetensors"):
        command = [sys.executable, "-c", ALONE, str(place), str(images[0]), *texts]
        done = subprocess.run(command, cwd=laconvnet.ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == expected


def test_images_come_in_every_form_and_one_goes_with_every_text(trained: Path, images: list[Path]) -> None:
    model = laconvnet.load(trained)
    opened = Image.open(images[0])
    array = np.asarray(opened.convert("RGB"))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    first = model(images[0], "the red circle")
    assert isinstance(first, laconvnet.Answer)
    forms: list[Any] = [str(images[0]), opened, array, tensor, tensor.float() / 255]
    assert [answer.box for answer in model(forms, "the red circle")] == [first.box] * 5
    several = model(images[0], ["the red circle", "the Zyzzyva, the ZYZZYVA"])
    assert several[0].box == first.box
    assert [answer.unknown for answer in several] == [(), ("zyzzyva",)]
    assert several[1].draw().size[0] >= 320
    assert (model.task, model.step) == ("rec", model.step)
    assert str(trained) in model.origin
    assert model([], "the red circle") == []
    assert model(images[0], []) == []


def test_what_cannot_be_asked_is_told_in_a_line(trained: Path, images: list[Path], tmp_path: Path) -> None:
    model = laconvnet.load(trained)
    wrong: list[tuple[Any, Any, str]] = [
        (tmp_path / "none.jpg", "a", "none.jpg: no such file"),
        (np.zeros((4, 4), np.uint8), "a", r"\(4, 4\) of uint8; expected \(height, width, 3\)"),
        (torch.zeros(3, 4, 4) - 1, "a", "outside 0 to 1"),
        (torch.zeros(1, 4, 4), "a", r"tensor \(1, 4, 4\)"),
        (images[0], "?!", "holds no word"),
        (None, "a", "image: a NoneType; expected a path"),
        ((images[0], images[0]), "a", "image: a tuple; expected a path"),
        (images[0], ("a", "b"), "text: a tuple; expected a str"),
        (images[0], ["a", 5], "text: a int; expected a str"),
        ([images[0]] * 2, ["a"] * 3, "2 images and 3 texts"),
    ]
    for image, text, message in wrong:
        with pytest.raises(laconvnet.ConfigError, match=message):
            model(image, text)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.safetensors").write_bytes(b"no tensors")
    for place, message in ((tmp_path / "empty", "no config.yaml"), (tmp_path / "other.safetensors", "safetensors")):
        with pytest.raises(laconvnet.ConfigError, match=message):
            laconvnet.load(place)
    for device in ("cuda:77", "nonsense"):
        with pytest.raises(laconvnet.ConfigError, match=f"device: '{device}': not to be had here"):
            laconvnet.load(trained, device=device)
    with pytest.raises(laconvnet.ConfigError, match="batch: 0"):
        laconvnet.load(trained, batch=0)
    with pytest.raises(laconvnet.ConfigError, match="resize: 'opencv': expected one of pillow, dali"):
        laconvnet.load(trained, resize="opencv")
    with pytest.raises(AttributeError, match="nothing_of_it"):
        laconvnet.nothing_of_it  # noqa: B018


def test_a_file_whose_parts_do_not_fit_is_refused(trained: Path, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(trained / "model.safetensors", "pt") as opened:
        facts, names = opened.metadata(), list(opened.keys())
        weights = {name: opened.get_tensor(name) for name in names}
    for change, message in (
        ({"vocabulary": "{}"}, "do not fit together"),
        ({"config": "model: 3"}, "model"),
        ({"config": "- 1"}, "expected keys and values"),
        ({"step": "x"}, "do not fit together"),
    ):
        save_file(weights, tmp_path / "changed.safetensors", {**facts, **change})
        with pytest.raises(laconvnet.ConfigError, match=message) as caught:
            laconvnet.load(tmp_path / "changed.safetensors")
        assert str(tmp_path / "changed.safetensors") in str(caught.value)
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(laconvnet.ConfigError, match="config, step, vocabulary: not in its metadata"):
        laconvnet.load(tmp_path / "bare.safetensors")


def test_every_public_name_is_there() -> None:
    assert {name for name in laconvnet.PUBLIC if not hasattr(laconvnet, name)} == set()
    assert set(laconvnet.PUBLIC) <= set(dir(laconvnet))


def test_the_page_s_example_runs(
    trained: Path,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/refcoco").symlink_to(trained)
    (tmp_path / "street.jpg").symlink_to(images[0])
    monkeypatch.chdir(tmp_path)
    block, *_ = [block for block in blocks(DOCS / "python.md") if block.language == "python"]
    exec(block.text, {})
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("Box(x1=")
    assert [line.split(" Box(")[0] for line in others] == ["the bus", "the man with the dog"]
    assert (tmp_path / "answer.png").read_bytes().startswith(b"\x89PNG")
