"""The page in a real browser: what a reader does, and what is then seen."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from laconvnet.pipeline.demo.app import MAX_TEXT
from tests.pipeline.demo.browser import CHROMIUM, Browser, CommandError
from tests.pipeline.demo.conftest import Server

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
SETTLED = "!document.querySelector('[aria-busy]') && document.querySelector('.said')?.innerText"
SAID = "[...document.querySelectorAll('.said')].map((one) => one.innerText)"
FITS = "document.documentElement.scrollWidth <= innerWidth"


@pytest.fixture(scope="module")
def server(models: dict[str, Path], serving: Callable[..., Any]) -> Iterator[Server]:
    """A model that gives boxes and can be explained, and one that answers and cannot."""
    with serving(models["rec"], models["film"]) as begun:
        yield begun


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield browser
    browser.close()


@pytest.fixture
def browser(opened: Browser, server: Server) -> Iterator[Browser]:
    """The page, freshly loaded; nothing was wrong with it while it was used."""
    opened.events.clear()
    opened.open(server.address)
    opened.until(SETTLED)
    yield opened
    wrong = [event for event in opened.events if event.get("method") == "Runtime.exceptionThrown"]
    wrong += [event for event in opened.events if "Content Security Policy" in json.dumps(event)]
    assert not wrong


def words(browser: Browser) -> list[str]:
    return list(browser.value("[...document.querySelectorAll('#words button')].map((one) => one.innerText)"))


def asked(browser: Browser, text: str) -> None:
    """Type a text, and wait for both answers to it."""
    browser.type("#text", text)
    browser.until(f"asked.text === {json.dumps(text)} && {SETTLED}")


def test_the_first_example_is_asked_about_in_both_runs(browser: Browser, server: Server) -> None:
    (example, *_) = server.get("/examples")
    assert browser.value("document.querySelector('#text').value") == example["texts"][0]
    question = {"picture": example["picture"], "text": example["texts"][0]}
    x1, y1, x2, y2 = server.ask(run=0, **question)["box"]
    answer = server.ask(run=1, **question)["answer"]
    box, words = browser.value(SAID)
    assert box.startswith(f"a box from {round(x1)}, {round(y1)} to {round(x2)}, {round(y2)} · confidence 0.")
    assert words.startswith(f"{answer} · confidence 0.")
    drawn = browser.value(
        "['x', 'y', 'width', 'height'].map((name) => +document.querySelector('.predicted').getAttribute(name))"
    )
    assert drawn == pytest.approx([x1, y1, x2 - x1, y2 - y1])
    assert browser.value("document.querySelectorAll('.predicted')[1].style.display") == "none"
    assert all(
        "ms, round trip" in line
        for line in browser.value("[...document.querySelectorAll('.took')].map((one) => one.innerText)")
    )


def test_another_example_and_one_of_its_texts_are_a_click_each(browser: Browser, server: Server) -> None:
    example = server.get("/examples")[1]
    browser.click("#examples li:nth-child(2) button")
    browser.until(f"asked.picture === 'example-1' && {SETTLED}")
    browser.click("#texts button", example["texts"][-1])
    browser.until(f"asked.text === {json.dumps(example['texts'][-1])} && {SETTLED}")
    assert browser.value("document.querySelector('[data-picture=example-1]').ariaPressed") == "true"
    assert browser.value("document.querySelector('.shown').src").endswith("/pictures/example-1")


def test_a_word_is_shown_over_the_image_by_stage(browser: Browser, server: Server) -> None:
    asked(browser, "the red circle")
    browser.click("#words button", "red")
    browser.until("document.querySelector('.weights').src")
    weighed = server.ask("/maps", run=0, picture="example-0", text="the red circle", word=1)
    assert browser.value("document.querySelector('.weights').src") == weighed[0]["map"]
    assert "“red” weighs" in browser.text(".weighs")
    browser.click("#stages label", f"stage {weighed[2]['stage']}")
    assert browser.value("document.querySelector('.weights').src") == weighed[2]["map"]
    assert f"in stage {weighed[2]['stage']}" in browser.text(".weighs")
    assert "film.safetensors has no maps of words" in browser.text("#unexplained")
    assert browser.value("document.querySelectorAll('.weights')[1].hidden") is True
    asked(browser, "the blue circle")  # and the map follows the word at its place
    browser.until("document.querySelector('.weighs').innerText.includes('blue')")
    browser.click("#words button", "blue")
    assert browser.value("[document.querySelector('.weights').hidden, document.querySelector('#word').hidden]") == [
        True,
        True,
    ]


def test_a_word_is_swapped_for_another_of_the_vocabulary(browser: Browser) -> None:
    asked(browser, "The red circle, left!")
    browser.click("#words button", "red")
    browser.type("#swap", "ro")
    browser.click("#others button", "round")
    browser.until(f"asked.text === 'the round circle left' && {SETTLED}")
    assert words(browser) == ["the", "round", "circle", "left"]
    assert browser.value("document.querySelector('#words [aria-pressed=true]').innerText") == "round"
    browser.type("#swap", "blue")
    browser.press("Enter", 13)
    browser.until(f"asked.text === 'the blue circle left' && {SETTLED}")


def test_words_that_are_not_known_or_not_read_are_marked(browser: Browser) -> None:
    asked(browser, "the zyzzyva <b>&amp;" + 9 * " left" + " circle")
    assert words(browser)[1].split() == ["zyzzyva", "not", "known"]
    assert "<b>&amp" in words(browser)[2]
    assert words(browser)[-1].split() == ["circle", "not", "read"]
    assert browser.value("document.querySelectorAll('main b').length") == 0


def test_an_image_is_uploaded_and_pasted(browser: Browser, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "red").save(tmp_path / "red.bmp")
    browser.choose("#upload", tmp_path / "red.bmp")
    browser.until(f"asked.picture.startsWith('upload-') && {SETTLED}")
    browser.until("document.querySelector('.shown').naturalWidth === 300")
    assert browser.value("document.querySelector('svg').getAttribute('viewBox')") == "0 0 300 200"
    assert words(browser)
    stream = io.BytesIO()
    Image.new("RGB", (200, 300), "blue").save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    for event, holder in (("paste", "clipboardData"), ("drop", "dataTransfer")):
        browser.value(f"""(() => {{
            const bytes = Uint8Array.from(atob("{data}"), (one) => one.charCodeAt(0));
            const given = new DataTransfer();
            given.items.add(new File([bytes], "blue.png", {{type: "image/png"}}));
            const kind = {{paste: ClipboardEvent, drop: DragEvent}}["{event}"];
            document.dispatchEvent(new kind("{event}", {{ {holder}: given, cancelable: true }}));
        }})()""")
        browser.until("document.querySelector('.shown').naturalWidth === 200")
        browser.choose("#upload", tmp_path / "red.bmp")
        browser.until("document.querySelector('.shown').naturalWidth === 300")


def test_a_broken_image_is_told_and_the_one_before_stays(browser: Browser, tmp_path: Path) -> None:
    before = browser.value(SAID)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and no more")
    browser.choose("#upload", tmp_path / "broken.png")
    browser.until("document.querySelector('#message').innerText.includes('not an image that can be decoded')")
    assert browser.value(SAID) == before
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(browser.value("about.bytes") + 1)
    browser.choose("#upload", tmp_path / "large.png")
    browser.until("document.querySelector('#message').innerText.includes('at most')")


def test_an_empty_text_asks_nothing_and_marks_alone_are_told(browser: Browser) -> None:
    browser.type("#text", "")
    browser.until("document.querySelector('#message').innerText.includes('Type an expression')")
    assert browser.value(SAID) == ["", ""]
    assert words(browser) == []
    browser.type("#text", "?!")
    browser.until(f"{SAID}.every((line) => line.includes('holds no word'))")
    asked(browser, "red")
    assert words(browser) == ["red"]


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_window(browser: Browser, server: Server, width: int) -> None:
    browser.open(server.address, width, 800)
    browser.until(SETTLED)
    assert browser.value(FITS)
    browser.type("#text", "W" * (MAX_TEXT + 99))
    browser.until(f"asked.text.length === {MAX_TEXT} && {SETTLED}")
    browser.click("#words button")
    browser.until("document.querySelector('#others button')")
    assert browser.value("innerWidth") == width
    assert browser.value(FITS)


def test_a_late_answer_does_not_cover_a_newer_one(browser: Browser) -> None:
    """The first answer is held back on its way until the second one has come."""
    browser.call("Fetch.enable", patterns=[{"urlPattern": "*/answer", "requestStage": "Response"}])
    browser.type("#text", "the red circle")
    first = [browser.event("Fetch.requestPaused") for _ in range(2)]
    assert all("red" in event["request"]["postData"] for event in first)
    browser.type("#text", "the blue square")
    second = [browser.event("Fetch.requestPaused") for _ in range(2)]
    for event in second:
        browser.call("Fetch.continueResponse", requestId=event["requestId"])
    browser.until(SETTLED)
    for event in first:
        with suppress(CommandError):  # the page has given it up
            browser.call("Fetch.continueResponse", requestId=event["requestId"])
    browser.call("Fetch.disable")
    browser.value("fetched('about').then(() => 1)")
    assert words(browser) == ["the", "blue", "square"]


def test_it_is_used_by_the_keyboard_alone(browser: Browser) -> None:
    asked(browser, "the red circle")
    browser.value("document.querySelector('#words button').focus()")
    browser.press("Tab", 9)
    browser.call("Input.dispatchKeyEvent", type="keyDown", key=" ", code="Space", windowsVirtualKeyCode=32, text=" ")
    browser.call("Input.dispatchKeyEvent", type="keyUp", key=" ", code="Space", windowsVirtualKeyCode=32)
    browser.until("asked.word === 1 && document.querySelector('.weights').src")
    names = browser.value("""[...document.querySelectorAll("button, input")]
        .filter((one) => one.getClientRects().length)
        .map((one) => one.ariaLabel || one.innerText || one.labels?.[0]?.innerText || one.querySelector("img")?.alt)""")
    assert all(names)
