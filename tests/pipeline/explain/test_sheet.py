"""The sheet of an explanation as a page and as an image."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.explain import sheet, tiles
from laconvnet.pipeline.explain.explanation import Explanation
from laconvnet.pipeline.explain.filters import at, places
from laconvnet.pipeline.explain.page import page
from laconvnet.pipeline.explain.picture import picture
from tests.messages import tells
from tests.pipeline.explain.asked import asked, image

ATTACK = 'red <script>alert(1)</script> "left" &amp'


@pytest.fixture(scope="module")
def found() -> Explanation:
    return asked()[0].explain(image(), ATTACK)


class Elements(HTMLParser):
    """Every element with its attributes, the texts of headings of rows, and what was left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def decoded(uri: str | None) -> Image.Image:
    kind, _, data = (uri or "").partition(";base64,")
    assert kind == "data:image/png"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_the_page_holds_every_word_by_stage_and_head(found: Explanation) -> None:
    elements = Elements(page(found, places(found.answer), "runs/a: <b>step 3</b>"))
    assert not elements.open
    assert elements.texts["h1"] == [ATTACK]
    assert "runs/a: <b>step 3</b>" in elements.texts["p"][0]
    assert not elements.of("script")
    assert not elements.of("b")
    policies = [meta["content"] or "" for meta in elements.of("meta") if "http-equiv" in meta]
    assert len(policies) == 1
    assert "script-src" not in policies[0]
    words, stages, heads = len(found.words), 5, 4
    assert found.words == ("red", "<script>alert1<", "script>", "left", "&amp")
    assert [text for text in elements.texts["th"] if text == "<script>alert1<"] == ["<script>alert1<"] * (1 + stages)
    alts = [image["alt"] or "" for image in elements.of("img")]
    assert len(alts) == 1 + words * stages * (1 + heads) + stages * 2
    one = found.over(3, stage=2, head=1)
    # The tiles are as large as the image, which is small: their numbers are those of the image.
    assert f"left, head 2: weights from {one.min():.2f} to {one.max():.2f}" in alts
    assert all((image["src"] or "").startswith("data:image/") for image in elements.of("img"))
    assert "stage 1" in elements.texts["th"]
    assert len(elements.of("details")) == stages


def test_the_tiles_of_the_page_are_the_weights(found: Explanation) -> None:
    elements = Elements(page(found, places(found.answer), ""))
    tiled = [image for image in elements.of("img") if (image["alt"] or "").startswith("left, stage 1")]
    assert len(tiled) == 1
    opacity = np.asarray(decoded(tiled[0]["src"]).convert("RGBA"))[..., 3]
    weights = found.over(3, 1)
    most = max(found.over(word, 1).max() for word in range(len(found.words)))
    assert opacity.shape == weights.shape == (60, 90)
    np.testing.assert_allclose(opacity / (255 * 0.85), weights / most, atol=1 / 15)
    assert opacity.std() > 1


def test_a_large_image_has_small_tiles() -> None:
    """Each word of a page costs some thousand bytes, whatever the image."""
    found = asked()[0].explain(image(900, 600), "the red circle")
    small = tiles.smaller(found, 96)
    assert small.answer.image.size == (96, 64)
    np.testing.assert_allclose(small.over(0, 1)[::8, ::8], found.over(0, 1)[4::75, 4::75], atol=1e-7)
    assert len(page(found, places(found.answer), "")) < 400_000


def test_filters_are_drawn_tap_by_tap() -> None:
    numbers = np.zeros((5, 3, 3), np.float32)
    numbers[0, 0, 2], numbers[4, 1, 0] = 2, -4
    drawn = np.asarray(tiles.filters(numbers, 4))
    assert drawn.shape == (7, 15, 3)
    assert drawn[0, 2].tolist() == [216, 140, 149]  # halfway to the red
    assert drawn[5, 0].tolist() == [33, 102, 172]
    assert (drawn == 255).all(2).sum() == 7 * 15 - 2
    assert (np.asarray(tiles.filters(np.zeros((1, 3, 3), np.float32), 0)) == 255).all()


def test_the_page_has_the_filters_of_the_last_blocks(found: Explanation) -> None:
    looked_at = places(found.answer, ["3,5", "80,50", "40,2"])
    elements = Elements(page(found, looked_at, ""))
    drawn = [image for image in elements.of("img") if "Filters of stage 4" in (image["alt"] or "")]
    assert [image["alt"] for image in drawn][1].startswith("Filters of stage 4 at 80, 50")  # type: ignore[union-attr]
    block = found.blocks[3]
    every = [at(found, block, place) for place in looked_at]
    expected = tiles.filters(every[1], float(np.abs(every).max()))
    np.testing.assert_array_equal(np.asarray(decoded(drawn[1]["src"])), np.asarray(expected))


def test_the_image_has_a_row_a_word_and_a_stage(found: Explanation) -> None:
    sheet = np.asarray(picture(found, places(found.answer)))
    top = found.answer.draw().height
    tall = 60 + 32
    rows = [sheet[top + 12 + number * tall :][:60, 120:210] for number in range(len(found.words))]
    assert all((row != 255).any(2).mean() > 0.9 for row in rows)
    most = [max(found.over(word, 1).max() for word in range(len(found.words)))]
    layer = tiles.weights(found.over(3, 1), float(most[0])).convert("RGBA")
    expected = image().convert("RGBA")
    expected.alpha_composite(layer)
    np.testing.assert_array_equal(rows[3], np.asarray(expected.convert("RGB")))


def test_it_is_written_by_the_ending_of_the_name(found: Explanation, tmp_path: Path) -> None:
    looked_at = places(found.answer)
    sheet.write(found, looked_at, "here", tmp_path / "new" / "a.html")
    assert (tmp_path / "new" / "a.html").read_text() == page(found, looked_at, "here")
    sheet.write(found, looked_at, "here", tmp_path / "a.PNG")
    assert Image.open(tmp_path / "a.PNG").size == picture(found, looked_at).size
    assert sorted(file.name for file in tmp_path.rglob("a*")) == ["a.PNG", "a.html"]
    for name in ("a.jpg", "a", "html"):
        with pytest.raises(ConfigError) as caught:
            sheet.check(tmp_path / name, "--explain")
        assert tells(str(caught.value), "--explain", name, ".html", ".png")
