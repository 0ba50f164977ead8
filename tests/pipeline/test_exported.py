"""Exported files answer as the model does, in processes that have nothing of this package.

`make parity` prints a line for each: the largest difference of any number from the model's own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.inference.export import FORMATS
from laconvnet.pipeline.inference.predictor import Predictor
from laconvnet.pipeline.inference.restore import Restored
from laconvnet.pipeline.model import build_model
from laconvnet.pipeline.model.heads.anchors import AnchorHead
from laconvnet.pipeline.model.heads.masks import MaskHead
from laconvnet.pipeline.model.heads.points import PointHead
from laconvnet.pipeline.model.net import PRESETS
from laconvnet.pipeline.tasks import TASKS
from tests.docs.pages import DOCS, blocks

TINY = Path(__file__).parent / "training" / "tiny.yaml"
SIZE, LENGTH = 64, 5
CPU = torch.device("cpu")
BATCHES = (1, 5)
# A padded expression, a full one, one with an unknown word, one of a single word, one of repetitions.
TOKENS = np.array([[2, 3, 0, 0, 0], [2, 3, 4, 3, 2], [4, 1, 2, 0, 0], [3, 0, 0, 0, 0], [4, 4, 4, 4, 0]], np.int64)
# The demo's preset with all that sets the released networks apart: GRU, SiLU, interleaved groups, points.
RELEASED = replace(
    PRESETS["tiny"],
    activation="silu",
    output_activation=True,
    interleaved=True,
    language_rnn="gru",
    word_pool=True,
    box_head="points",
)


# In this order: an ONNX file's operators are put into the model itself.
ONNX, BOTH = ("onnx",), ("pt2", "onnx")


class Case(NamedTuple):
    """A network, and the formats that it is written in: masks for a group and for one, and choices, differ in words."""

    keys: str
    formats: tuple[str, ...] = ONNX
    soft: bool = False


CASES = {
    "rec, anchors, LSTM": Case("task rec head anchors", BOTH),
    "rec, points, released, GRU": Case("task rec preset released", BOTH),
    "res, masks": Case("task res", BOTH),
    "grec, masks": Case("task grec"),
    "vqa, several answers right": Case("task vqa", BOTH, soft=True),
    "entailment, one answer right": Case("task entailment"),
    "rec over resnet34": Case("task rec backbone resnet34"),
    "rec, block film": Case("task rec block film"),
}
# Programs of 15 s whose net and whose head other tests show; masks and choices that differ in words.
VARIANTS = {("pt2", "res"), ("pt2", "vqa"), ("onnx", "grec"), ("onnx", "entailment")}
# Of each folder that is named to it, reads the exported file and writes what that gives for one example and for all.
READER = """
import sys, warnings
from pathlib import Path
import numpy as np
sys.modules["laconvnet"] = None
warnings.simplefilter("ignore")
if sys.argv[1] == "onnx":
    import onnxruntime
else:
    import torch
for line in sys.stdin:
    place = Path(line.strip())
    file = str(place / f"model.{sys.argv[1]}")
    if sys.argv[1] == "onnx":
        session = onnxruntime.InferenceSession(file)
        names = [each.name for each in session.get_outputs()]
        run = lambda images, tokens: dict(zip(names, session.run(None, {"images": images, "tokens": tokens})))
        assert "torch" not in sys.modules
    else:
        program = torch.export.load(file).module()
        run = lambda *arrays: {n: t.numpy() for n, t in program(*map(torch.from_numpy, arrays)).items()}
    given = np.load(place / "given.npz")
    for count in given["batches"]:
        np.savez(place / f"read.{count}.npz", **run(given["images"][:count], given["tokens"][:count]))
    print("read", flush=True)
"""


def trained(case: Case) -> Restored:
    """A model whose every number is drawn, statistics too, and that is sure of what it chooses."""
    words = case.keys.split()
    keys = [text for key, value in zip(words[::2], words[1::2], strict=True) for text in (f"--model.{key}", value)]
    data = ["--data.folder", "x", "--data.size", str(SIZE), "--data.words", str(LENGTH)]
    config = configuration.load(TINY, [*keys, *data])
    vocabulary = Vocabulary(("red", "ball", "left"), ("yes", "no", "maybe"), case.soft)
    torch.manual_seed(0)
    model = build_model(config.model, len(vocabulary), len(vocabulary.answers)).eval()
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.is_floating_point() and buffer.dim() == 1:
                buffer.add_(torch.rand_like(buffer) / 5)
        if isinstance(model.head, MaskHead):  # as many pixels above zero as below
            last = model.head.pyramid.project
            assert last.bias is not None
            level = model(torch.rand(2, 3, SIZE, SIZE), torch.from_numpy(TOKENS[:2])).mean() - last.bias
            last.weight.mul_(1000)
            last.bias.copy_(-1000 * level)
        elif isinstance(model.head, AnchorHead | PointHead):
            model.head.predict.weight.mul_(20)
    return Restored(config, vocabulary, model, TASKS[config.model.task](config.model, vocabulary), 7, CPU)


@pytest.fixture(scope="module")
def readers() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A process for each format, which reads what it is told of."""
    with ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-I", "-c", READER]
        yield {kind: stack.enter_context(subprocess.Popen([*command, kind], **pipes)) for kind in BOTH}  # type: ignore[call-overload]


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "released", RELEASED)


PAIRS = [
    pytest.param(name, kind, marks=[pytest.mark.variant] if (kind, re.split(",| ", name)[0]) in VARIANTS else [])
    for name, case in CASES.items()
    for kind in case.formats
]


@pytest.mark.usefixtures("released")
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_file_answers_as_the_model_does(
    readers: dict[str, subprocess.Popen[str]], tmp_path: Path, name: str, kind: str
) -> None:
    ready = trained(CASES[name])
    images = np.random.default_rng(0).random((len(TOKENS), 3, SIZE, SIZE), np.float32)
    np.savez(tmp_path / "given.npz", images=images, tokens=TOKENS, batches=np.array(BATCHES))
    with torch.inference_mode():
        own = [ready.task.decoded(ready.model(*map(torch.from_numpy, (images[:n], TOKENS[:n])))) for n in BATCHES]
    FORMATS[kind](ready, False, tmp_path / f"model.{kind}")
    print(tmp_path, file=readers[kind].stdin, flush=True)
    assert readers[kind].stdout.readline() == "read\n"  # type: ignore[union-attr]
    worst = 0.0
    for count, found in zip(BATCHES, own, strict=True):
        read = np.load(tmp_path / f"read.{count}.npz")
        assert read.files == [*found] == [*ready.task.outputs]
        for output, tensor in found.items():
            np.testing.assert_allclose(read[output], tensor.numpy(), rtol=1e-4, atol=1e-4)
            worst = max(worst, float(np.abs(read[output] - tensor.numpy()).max()))
    print(f"\n| {name} | {kind} | {worst:.1e} |", end="")


PROGRAMS = [("rec, block film", "onnx"), ("rec, block film", "pt2"), ("res, masks", "onnx")]
PROGRAMS += [("vqa, several answers right", "onnx")]
RUNNER = """
import runpy, sys
import numpy
sys.modules["laconvnet"] = None
numpy.set_printoptions(threshold=sys.maxsize)
place, program, *sys.argv[1:] = sys.argv[1:]
sys.path.insert(0, place)
runpy.run_path(f"{place}/{program}")
"""


def drawn(folder: Path) -> Path:
    """A picture that is no square."""
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (80, 120, 3), np.uint8)).save(folder / "picture.png")
    return folder / "picture.png"


@pytest.mark.parametrize(("name", "kind"), PROGRAMS)
def test_the_programs_of_the_page_find_what_the_package_finds(tmp_path: Path, name: str, kind: str) -> None:
    for block in blocks(DOCS / "export.md"):
        if block.title:
            (tmp_path / block.title).write_text(block.text)
    FORMATS[kind](trained(CASES[name]), False, tmp_path / f"model.{kind}")
    picture = drawn(tmp_path)
    text = "The red-ball, LEFT!"
    program = {"onnx": "with_onnx.py", "pt2": "with_torch.py"}[kind]
    command = [
        sys.executable,
        "-I",
        "-c",
        RUNNER,
        str(tmp_path),
        program,
        f"{tmp_path}/model.{kind}",
        str(picture),
        text,
    ]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    own = Predictor(trained(CASES[name]))(picture, text)
    if own.box is not None:
        np.testing.assert_allclose(json.loads(shown), own.box, atol=0.02)
    elif own.mask is not None:
        read = np.array([word == "True" for word in re.findall("True|False", shown)]).reshape(own.mask.shape)
        assert 0.1 < own.mask.mean() < 0.9
        assert (read == own.mask).mean() > 0.99
    else:
        assert shown.strip() == own.answer


def test_the_page_s_program_reads_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES["rec, anchors, LSTM"]
    FORMATS["safetensors"](trained(case), False, tmp_path / "model")
    (program,) = (block.text for block in blocks(DOCS / "export.md") if block.title == "with_safetensors.py")
    picture = drawn(tmp_path)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "model"), str(picture), "the red ball"])
    exec(compile(program, "with_safetensors.py", "exec"), {})
    own = Predictor(trained(case))(picture, "the red ball").box
    assert own is not None
    np.testing.assert_allclose(json.loads(capsys.readouterr().out), own)
