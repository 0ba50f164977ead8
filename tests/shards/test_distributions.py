"""The distributions of a set: counted as its records have them, and drawn on a page that needs nothing beside it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from laconvnet.launch.cli import main
from laconvnet.shards.build.builder import build
from laconvnet.shards.errors import InputError
from laconvnet.shards.format import counts, tables
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Question, Record, Region
from laconvnet.shards.pages.distributions import GRID, SHARES, SIDES, Distribution, distributions
from laconvnet.shards.pages.plots import plots
from laconvnet.shards.sets.merge import pretrain_set
from tests.pipeline.test_report import Elements, text_of

ATTACK = "</text><script>alert(1)</script>"


def built(folder: Path, source: str, images: int) -> Path:
    """Images of several sizes; regions of both splits with 1 to 13 expressions of 1 to 30 words, and questions."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(images)
    samples = []
    for number in range(images):
        width, height = ((64, 48), (100, 200), (7, 5))[number % 3]
        path = folder / f"{source}-{number}.png"
        Image.new("RGB", (width, height), (number, len(source), 0)).save(path)
        regions = []
        for place in range(number % 4):
            x, y = random.uniform(0, 0.6, 2) * (width, height)
            w, h = random.uniform(0.05, 0.4, 2) * (width, height)
            boxes = () if place == 2 else ((float(x), float(y), float(w), float(h)),)
            texts = [" ".join(["A", "man,", "(man)"][: 1 + many % 3] * number) for many in range(1 + number)]
            expressions = tuple(Expression(f"{place}-{at}", text) for at, text in enumerate(texts))
            regions.append(Region(f"{place}", ("train", "val")[place % 2], boxes, expressions))
        question = Question("q", "train", "what is it?", ATTACK if number % 2 else "It")
        record = Record(source, str(number), path.name, width, height, "CC0", tuple(regions), (question,))
        samples.append(RawSample(record, path))
    build(samples, folder / "set", source=source, licence="CC0", options={}, progress=False)
    return folder / "set"


def expected(manifest: Manifest) -> dict[tuple[str, str], dict[str, Counter[int]]]:
    """The same numbers by hand, out of the records."""
    found: dict[tuple[str, str], dict[str, Counter[int]]] = defaultdict(lambda: defaultdict(Counter))
    for row in range(len(manifest.samples)):
        record = manifest.read_record(row)
        for split in record.splits:
            longer = max(record.width, record.height)
            found[record.source, split]["sides"][max(at for at in range(36) if SIDES[at] <= max(longer, 16))] += 1
        for region in record.regions:
            here = found[record.source, region.split]
            here["expressions"][min(len(region.expressions), 10) - 1] += 1
            here["words"].update(min(len(one.text.split()), 25) - 1 for one in region.expressions)
            if region.boxes:
                x, y, w, h = (np.float32(side) for side in region.box)
                share = float(w) * float(h) / (record.width * record.height)
                here["shares"][max(at for at in range(24) if SHARES[at] <= share)] += 1
                across, down = (float(x) + float(w) / 2) / record.width, (float(y) + float(h) / 2) / record.height
                here["centres"][int(down * GRID) * GRID + int(across * GRID)] += 1
    return found


def counted(one: Distribution, name: str) -> Counter[int]:
    return +Counter(dict(enumerate(np.ravel(getattr(one, name)).tolist())))


@pytest.mark.parametrize("rows", [1, 7, 1 << 18])
def test_the_numbers_are_those_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Whatever the batches of the tables: a region may lie in two."""
    monkeypatch.setattr(tables, "BATCH_ROWS", rows)
    manifest = Manifest.open(built(tmp_path / "toy", "toy", 14))
    found = distributions(manifest)
    by_hand = expected(manifest)
    assert [(one.source, one.split) for one in found] == sorted(by_hand) == [("toy", "train"), ("toy", "val")]
    for one in found:
        for name in ("expressions", "words", "shares", "centres", "sides"):
            assert counted(one, name) == by_hand[one.source, one.split][name], name
        assert sum(one.sizes.values()) == int(one.centres.sum()) > 0
    assert [one.questions for one in found] == [14, 0]
    first = found[0]
    shapes = [each.shape for each in (first.expressions, first.words, first.shares, first.centres, first.sides)]
    assert shapes == [(10,), (25,), (24,), (24, 24), (36,)]
    assert found[0].samples == 14
    assert found[0].regions > int(found[0].centres.sum()), "a region without a box has no place"


def test_what_lies_at_the_edge_counts_there(tmp_path: Path) -> None:
    """A box so small and so far at the corner that its centre is the corner, in 32 bits; an image of a pixel."""
    Image.new("RGB", (64, 48)).save(tmp_path / "1.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "2.png")
    corner = ((64 - 1e-7, 48 - 1e-7, 1e-7, 1e-7),)
    regions = (
        Region("a", "val", corner, (Expression("e", "corner"),)),
        Region("b", "val", ((0, 0, 1, 1),), (Expression("f", "other corner"),)),
    )
    records = [
        Record("toy", "1", "1.png", 64, 48, "", regions),
        Record("toy", "2", "2.png", 1, 1, "", (), (Question("q", "val", "what?", "x"),)),
    ]
    samples = [RawSample(record, tmp_path / record.file_name) for record in records]
    (one,) = distributions(build(samples, tmp_path / "set", source="toy", licence="", options={}, progress=False))
    assert (one.centres[-1, -1], one.centres[0, 0], one.centres.sum()) == (1, 1, 2)
    assert (one.shares[0], one.shares.sum()) == (1, 2)
    assert (one.sides[0], one.sides.sum()) == (1, 2)


@pytest.mark.parametrize("batch", [2, 1 << 18])
def test_the_parts_of_a_merged_set_stand_apart_with_their_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", batch)
    sets = [built(tmp_path / name, name, images) for name, images in (("one", 5), ("two", 9))]
    pretrain_set([(folder, 1.0) for folder in sets], [], tmp_path / "mixed")
    mixed = Manifest.open(tmp_path / "mixed")
    rows = [{**row, "source": mixed.sample(row["sample"], "source")} for row in mixed.examples.to_pylist()]
    found = distributions(mixed)
    assert [one.name for one in found] == ["one train", "two train"]
    sources = Counter(mixed.samples["source"].to_pylist())
    assert [one.samples for one in found] == [sources["one"], sources["two"]]
    by_hand = expected(mixed)
    assert [counted(one, "sides") for one in found] == [by_hand[source, "train"]["sides"] for source in ("one", "two")]
    for one in found:
        mine = [row for row in rows if row["source"] == one.source]
        words = Counter(word.strip(",()?").lower() for row in mine for word in row["text"].split())
        assert dict(one.frequent_words or []) == words
        assert dict(one.frequent_answers or []) == Counter(row["answer"] for row in mine if row["answer"])
        spoken = [len(row["text"].split()) for row in mine if row["kind"] == "expression"]
        assert counted(one, "words") == Counter(min(many, 25) - 1 for many in spoken)


def test_words_too_many_to_count_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = built(tmp_path / "toy", "toy", 5)
    monkeypatch.setattr(counts, "LIMIT_BYTES", 10)
    assert distributions(Manifest.open(folder))[0].frequent_words is None
    plots(folder, tmp_path / "page.html")
    assert "Words: too many different ones" in text_of((tmp_path / "page.html").read_text())


def test_the_page_needs_nothing_beside_it_and_texts_stay_text(tmp_path: Path) -> None:
    folder = built(tmp_path / "toy", "_a$b$", 14)
    plots(folder, tmp_path / "new" / "page.html")
    page = (tmp_path / "new" / "page.html").read_text()
    elements = Elements(page)
    assert not re.search(r"""(src|href|srcset|action)\s*=\s*["']?\s*(https?:)?//""", page, re.IGNORECASE)
    assert not re.search(r"url\([^#]|@import", page)
    assert not {"link", "iframe", "object", "script", "base"} & {tag for tag, _ in elements.found}
    images = [attributes["xlink:href"] for attributes in elements.of("image")]
    assert images
    assert all(str(image).startswith("data:image/png") for image in images)
    identities = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(identities) == len(set(identities))
    for reference in re.findall(r'(?:href="#|url\(#)([^")]+)', page):
        assert reference in identities
    shown = text_of(page)
    assert "_a$b$ train" in shown
    assert ATTACK in shown
    for heading in ("Expressions a region", "Words an expression", "Centres of the boxes", "Size of an image"):
        assert heading in shown
    assert re.search(r"<style>(?!.*<style>)", page, re.DOTALL), "no image brings a style of its own"
    scrolled = re.findall(r'<div class="scroll"[^>]*>\s*<div class="plot"', page)  # plots keep a width to be read at
    assert len(scrolled) == len(re.findall(r'class="plot"', page)) > 0
    assert re.search(r"\.plot svg \{[^}]*min-width: \d+rem", page)


def test_a_set_of_questions_has_no_plots_of_regions(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    record = Record("toy", "1", "1.png", 8, 8, "", (), (Question("q", "test", "what?", None),))
    build(
        [RawSample(record, tmp_path / "1.png")], tmp_path / "set", source="toy", licence="", options={}, progress=False
    )
    plots(tmp_path / "set", tmp_path / "page.html")
    shown = text_of((tmp_path / "page.html").read_text())
    assert "Size of an image" in shown
    assert "Expressions a region" not in shown
    assert "Answers" not in shown


def test_the_command_writes_the_page_beside_the_numbers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = built(tmp_path / "toy", "toy", 5)
    assert main(["shards", "info", str(folder), "--plots", str(tmp_path / "page.html")]) == 0
    assert "train" in capfd.readouterr().out
    assert "toy val" in text_of((tmp_path / "page.html").read_text())
    with pytest.raises(InputError, match=r"--plots .* is a folder"):
        plots(folder, tmp_path)
