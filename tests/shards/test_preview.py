"""The preview of a set: which samples it chooses, what it shows of them, and that the page needs nothing beside it."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from laconvnet.launch.cli import main
from laconvnet.pipeline.data.masks import encode
from laconvnet.shards.build.builder import build
from laconvnet.shards.errors import InputError
from laconvnet.shards.format import tables
from laconvnet.shards.format.areas import size_classes
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Question, Record, Region
from laconvnet.shards.pages.cards import COLOURS, MOST_ENTRIES, cards
from laconvnet.shards.pages.choice import Wanted, choose
from laconvnet.shards.pages.outline import outline
from laconvnet.shards.pages.preview import preview
from laconvnet.shards.sets.merge import pretrain_set
from tests.messages import tells
from tests.pipeline.test_report import Elements, text_of
from tests.shards.faulty import REFS, refer

ATTACK = "<script>alert('é')</script> \"left\" one"
EVERY = Wanted()
TIMES = "\N{MULTIPLICATION SIGN}"


def mask_of(width: int, height: int, box: tuple[int, int, int, int]) -> dict[str, Any]:
    flags = np.zeros((height, width), np.uint8)
    x, y, w, h = box
    flags[y : y + h, x : x + w] = 1
    return encode(flags)


def built(folder: Path, source: str, images: int, shade: int) -> Path:
    """Images of 200 x 160, the last of 900 x 600: in each a small masked referent, a large one and a question.

    Odd images are in val. The question of image 0 has the answers of three people, and no other has an answer.
    """
    samples = []
    folder.mkdir(parents=True)
    for number in range(images):
        width, height = (900, 600) if number == images - 1 else (200, 160)
        path = folder / f"{source}-{number}.png"
        Image.new("RGB", (width, height), (number, shade, 200)).save(path)
        split, text = "val" if number % 2 else "train", ATTACK if number == 0 else f"Thing {number}"
        regions = (
            Region(
                *("a", split, ((2, 3, 31, 33),), (Expression("0", text), Expression("1", "it"))),
                mask=mask_of(width, height, (2, 3, 31, 33)),
                category="cat & dog",
                attributes=("red",),
            ),
            Region("b", split, ((20, 30, 50, 100), (100, 30, 50, 100)), (Expression("2", "both of them"),)),
            Region("c", split, (), (Expression("3", "nothing"),)),
        )
        known = {"answer": "red", "answers": ("red", "pink", "red")} if number == 0 else {}
        questions = (Question("q", split, f"what is {number}?", family="colour", **known),)  # type: ignore[arg-type]
        record = Record(source, f"{number:03d}", path.name, width, height, "CC0", regions, questions)
        samples.append(RawSample(record, path))
    build(samples, folder / "set", source=source, licence="CC0", options={}, progress=False, shard_bytes=20_000)
    return folder / "set"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("toy") / "toy", "toy", 12, 90)


@pytest.fixture(scope="module")
def mixed(toy: Path) -> Path:
    other = built(toy.parent.parent / "other", "other", 6, 10)
    pretrain_set([(toy, 1.0), (other, 1.0)], [], toy.parent.parent / "mixed")
    return toy.parent.parent / "mixed"


def chosen(folder: Path, wanted: Wanted, *keys: str, number: int = 60, seed: int = 0) -> tuple[list[str], set[str]]:
    """The keys of the samples drawn, and the texts of their examples."""
    manifest = Manifest.open(folder)
    choice = choose(manifest, wanted, keys, number, seed)
    assert choice.matching >= len(choice.samples)
    columns = manifest.example_columns
    assert set(columns.numbers("sample", choice.examples).tolist()) == set(choice.samples.tolist())
    return manifest.sample_columns.values("key", choice.samples), set(columns.values("text", choice.examples))


def test_the_conditions_choose_samples_and_examples(toy: Path, mixed: Path) -> None:
    keys, texts = chosen(toy, EVERY)
    assert (keys, len(texts)) == ([f"toy-{number:03d}" for number in range(12)], 12 + 3 + 12)
    keys, texts = chosen(toy, Wanted(split="val"))
    assert keys == [f"toy-{number:03d}" for number in range(1, 12, 2)]
    assert chosen(toy, Wanted(kind="question"))[1] == {f"what is {number}?" for number in range(12)}
    assert chosen(toy, Wanted(text="THING 1")) == (
        ["toy-001", "toy-010", "toy-011"],
        {"Thing 1", "Thing 10", "Thing 11"},
    )
    # 31 x 33 = 1,023 pixels, the box around both is 130 x 100 = 13,000
    assert chosen(toy, Wanted(size="small"))[1] == {ATTACK, "it", *(f"Thing {number}" for number in range(1, 12))}
    assert chosen(toy, Wanted(size="large"))[1] == {"both of them"}
    assert chosen(toy, Wanted(size="large", split="val"), "toy-001", "toy-002") == (["toy-001"], {"both of them"})
    assert chosen(mixed, Wanted(source="other"))[0] == ["other-000", "other-002", "other-004"]
    assert chosen(toy, EVERY, "toy-007", "toy-003")[0] == ["toy-003", "toy-007"]


@pytest.mark.parametrize("rows", [1, 5])
def test_whatever_the_batches_of_the_tables(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", rows)
    same = built(tmp_path / "toy", "toy", 12, 90)
    for wanted in (EVERY, Wanted(split="val", kind="question"), Wanted(size="large"), Wanted(text="thing 1")):
        assert chosen(same, wanted, number=4, seed=2) == chosen(toy, wanted, number=4, seed=2)


def test_sizes_are_cocos() -> None:
    sides = np.array([31.99, 32, 95.99, 96, np.nan], np.float32)
    assert size_classes(sides, sides).tolist() == [0, 1, 1, 2, -1]


def test_the_same_seed_draws_the_same_samples(toy: Path) -> None:
    assert chosen(toy, EVERY, number=5)[0] == chosen(toy, EVERY, number=5)[0]
    drawn = [tuple(chosen(toy, EVERY, number=5, seed=seed)[0]) for seed in range(20)]
    assert len(set(drawn)) > 10
    assert {key for keys in drawn for key in keys} == set(chosen(toy, EVERY)[0])
    assert choose(Manifest.open(toy), EVERY, (), 5, 0).matching == 12


def test_only_the_samples_shown_are_read(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, str]] = []
    real = Manifest.read_member

    def watched(manifest: Manifest, row: int, member: str) -> bytes:
        read.append((row, member))
        return real(manifest, row, member)

    monkeypatch.setattr(Manifest, "read_member", watched)
    counts = preview(toy, tmp_path / "page.html", Wanted(split="train"), number=2)
    assert {name: counts[name] for name in ("samples", "matching", "shown")} == {
        "samples": 12,
        "matching": 6,
        "shown": 2,
    }
    assert len(read) == 4


def test_a_card_shows_regions_questions_and_answers(toy: Path) -> None:
    manifest = Manifest.open(toy)
    choice = choose(manifest, EVERY, ("toy-000",), 60, 0)
    (card,) = cards(manifest, choice.samples, choice.examples)
    assert (card.key, card.source, card.part, card.width, card.more) == ("toy-000", "toy", "", 200, 0)
    one, both, none, asked = card.entries
    assert (one.texts, one.size, one.about) == ((ATTACK, "it"), "small", "cat & dog, red")
    assert one.share == pytest.approx(31 * 33 / (200 * 160))
    assert one.outline is not None
    assert (len(both.boxes), both.size) == (2, "large")
    assert both.share == pytest.approx(130 * 100 / (200 * 160))
    assert (none.boxes, none.size, none.share, none.outline) == ((), None, None, None)
    assert (asked.texts, asked.answer, asked.answers) == (("what is 0?",), "red", (("red", 2), ("pink", 1)))
    assert (asked.kind, asked.about, asked.split) == ("question", "colour", "train")
    assert [entry.colour for entry in card.entries] == list(COLOURS[:4])


def test_a_card_of_very_many_regions_says_how_many_it_leaves_out(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "1.png")
    spoken = [[f"{n}"] if n else [f"text {many}" for many in range(15)] for n in range(20)]
    regions = tuple(
        Region(f"{n}", "train", ((n, 0, 9, 9),), tuple(Expression(text, text) for text in texts))
        for n, texts in enumerate(spoken)
    )
    questions = tuple(Question(f"{n}", "train", f"what is {n}?", "x") for n in range(9))
    record = Record("toy", "1", "1.png", 64, 64, "", regions, questions)
    sample = RawSample(record, tmp_path / "1.png")
    manifest = build([sample], tmp_path / "set", source="toy", licence="", options={}, progress=False)
    choice = choose(manifest, EVERY, (), 60, 0)
    (card,) = cards(manifest, choice.samples, choice.examples)
    assert [entry.texts for entry in card.entries[1:12]] == [(f"{n}",) for n in range(1, 12)]
    assert (card.entries[0].texts, card.entries[0].more) == (tuple(spoken[0][:12]), 3)
    assert card.entries[1].more == 0
    assert len(card.entries) == sum(MOST_ENTRIES.values()) == 18
    assert card.more == 29 - 18
    assert card.entries[0].colour == card.entries[len(COLOURS)].colour


def test_the_page_shows_what_it_chose(toy: Path, mixed: Path, tmp_path: Path) -> None:
    preview(toy, tmp_path / "page.html", EVERY)
    page = (tmp_path / "page.html").read_text()
    shown = text_of(re.sub("<script>.*</script>", "", page, flags=re.DOTALL))
    assert tells(shown, "12 samples in all, 12 match; here are 12", "toy-003", f"200 {TIMES} 160")
    assert tells(shown, f"1 {ATTACK} it expression, train, 3.2 % of the image (small), with a mask; cat & dog, red")
    assert tells(shown, "2 both of them expression, train, 40.6 % of the image (large)")
    assert tells(shown, "3 nothing expression, train, no object")
    assert tells(shown, "4 what is 0? red question, train; colour; people: red 2, pink 1")
    assert "what is 1? answer not published question, val; colour" in shown
    assert tells(shown, "below 1,024, below 9,216", "COCO")
    elements = Elements(page)
    assert {"x": "100", "y": "30", "width": "50", "height": "100"} in elements.of("rect")
    groups = [(one["data-kind"], one["data-split"], one["data-size"]) for one in elements.of("g")]
    assert groups[:2] == [("expression", "train", "small"), ("expression", "train", "large")]
    assert len(groups) == 24, "of two regions with a box in each"
    assert [select["name"] for select in elements.of("select")] == ["split", "kind", "size"]
    preview(mixed, tmp_path / "mixed.html", Wanted(kind="expression", split="train"), number=4, seed=3)
    page = (tmp_path / "mixed.html").read_text()
    assert tells(text_of(page), "9 samples in all, 9 match --split train --kind expression ; here are 4", "seed 3")
    preview(mixed, tmp_path / "mixed.html", EVERY)
    choices = re.findall(r'<select name="(\w+)">(.*?)</select>', (tmp_path / "mixed.html").read_text(), re.DOTALL)
    assert [(name, re.findall(r"<option>(\w+)</option>", values)) for name, values in choices] == [
        ("source", ["other", "toy"]),
        ("kind", ["expression", "question"]),
        ("size", ["small", "large"]),
    ]


def test_the_page_needs_nothing_beside_it_and_texts_stay_text(toy: Path, tmp_path: Path) -> None:
    preview(toy, tmp_path / "page.html", EVERY)
    page = (tmp_path / "page.html").read_text()
    elements = Elements(page)
    assert not re.search(r"""(src|href|srcset|action)\s*=\s*["']?\s*(https?:)?//""", page, re.IGNORECASE)
    assert not re.search(r"url\(|@import", page)
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in elements.found}
    images = [str(image["src"]) for image in elements.of("img")]
    assert len(images) == 12
    assert all(image.startswith("data:image/") for image in images)
    assert not [attributes for _, attributes in elements.found if any(name.startswith("on") for name in attributes)]
    large = Image.open(io.BytesIO(base64.b64decode(images[-1].split(",", 1)[1])))
    assert (large.size, large.format) == ((480, 320), "JPEG")
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (one["content"] for one in elements.of("meta") if one.get("http-equiv"))
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here")
def test_a_browser_opens_it_from_the_disk(toy: Path, tmp_path: Path) -> None:
    preview(toy, tmp_path / "page.html", EVERY)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--dump-dom", (tmp_path / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "12 of 12 shown" in html.unescape(done.stdout)
    assert "hidden" not in Elements(done.stdout).of("form")[0], "the script has run"


def test_the_outline_is_the_border_of_the_mask() -> None:
    mask = np.zeros((6, 5), np.uint8)
    mask[1:3, 1:4] = 1
    assert (outline(mask).path, outline(mask).across, outline(mask).down) == ("M1 1h3M1 3h3M1 1v2M4 1v2", 1, 1)
    mask[:] = 1
    assert outline(mask).path == "M0 0h5M0 6h5M0 0v6M5 0v6", "at the border of the image too"
    assert outline(np.zeros((6, 5), np.uint8)).path == ""


def test_a_line_of_a_mask_keeps_a_cell_across() -> None:
    for sides in ((1, 4800), (4800, 1)):
        found = outline(np.ones(sides, np.uint8))
        assert sorted((found.across, found.down)) == [1, 10]
    assert outline(np.ones((4800, 1), np.uint8)).path == "M0 0h1M0 480h1M0 0v480M1 0v480"


def test_no_mask_has_an_outline_without_end() -> None:
    dots = np.kron(np.indices((240, 320)).sum(0) % 2, np.ones((4, 4), np.int64)).astype(np.uint8)
    found = outline(dots)
    assert 0 < len(found.path) <= 16_000
    assert found.across == found.down > 1
    nine = np.kron(np.indices((30, 30)).sum(0) % 2, np.ones((40, 40), np.int64)).astype(np.uint8)
    assert outline(nine).across == 1200 / 480, "a mask of as many lines as fit is as fine as the page"


def test_what_cannot_be_shown_is_told(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    with pytest.raises(InputError) as missing:
        preview(toy, out, EVERY, ("toy-001", "toy-99"))
    assert tells(str(missing.value), str(toy), "--key toy-99")
    with pytest.raises(InputError) as nothing:
        preview(toy, out, Wanted(split="test", kind="question"))
    assert tells(
        str(nothing.value),
        "--split test --kind question",
        "sources: toy",
        "splits: train, val",
        "kinds: expression, question",
    )
    with pytest.raises(InputError, match="is a folder"):
        preview(toy, tmp_path, EVERY)
    assert not out.exists()
    damaged = Path(shutil.copytree(toy, tmp_path / "damaged"))
    for shard in damaged.glob("*.tar"):
        shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(InputError, match="another checksum"):
        preview(damaged, out, EVERY)


def test_a_mask_that_is_none_is_told(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Record.from_json

    def with_bad_mask(data: bytes) -> Record:
        return real(data.replace(b'"counts":"', b'"counts":"P'))

    monkeypatch.setattr(Record, "from_json", staticmethod(with_bad_mask))
    with pytest.raises(InputError, match=r"toy-\d+: region a: .* verify the set"):
        preview(toy, tmp_path / "page.html", EVERY)


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = refer(tmp_path / "raw", [{**one, "split": "train"} for one in REFS])
    build_it = ["shards", "build", "refcoco", "--root", str(root), "--images", str(root / "images")]
    assert main([*build_it, "--out", str(tmp_path / "set")]) == 0
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    assert main(["shards", "preview", str(tmp_path / "set"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"page": "preview.html", "samples": 3, "matching": 3, "shown": 3}
    page = (tmp_path / "preview.html").read_text()
    assert len(Elements(page).of("path")) == 3
    words = ["--out", "sub/two.html", "--number", "1", "--seed", "4", "--size", "small", "--text", "square"]
    words += ["--kind", "expression", "--split", "train", "--source", "refcoco", "--key", "refcoco-1", "refcoco-2"]
    assert main(["shards", "preview", str(tmp_path / "set"), *words, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"page": "sub/two.html", "samples": 3, "matching": 2, "shown": 1}
    assert main(["shards", "preview", str(tmp_path / "set"), "--text", "circle"]) == 2
    assert tells(capfd.readouterr().err, "--text circle")
