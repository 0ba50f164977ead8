"""The HTML page on runs and stage graphs: its numbers, its images, and that nothing in it is more than text."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from laconvnet.page import policy
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.report.curves import curves
from laconvnet.pipeline.report.gather import gather
from laconvnet.pipeline.report.page import report
from laconvnet.pipeline.report.scores import score, standard_error
from laconvnet.pipeline.report.sheet import sheet
from laconvnet.shards.build.builder import build
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Question, Record, Region

ATTACK = "<script>alert('é')</script> \"left\" one"
PICTURES = 40


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 40 images of 24 x 16, the last one large; in each a region with one expression and a question."""
    folder = tmp_path_factory.mktemp("raw")
    samples = []
    for number in range(PICTURES):
        width, height = (900, 600) if number == PICTURES - 1 else (24, 16)
        path = folder / f"{number}.png"
        Image.new("RGB", (width, height), (number, 90, 200)).save(path)
        text = ATTACK if number == 0 else f"thing {number}"
        regions = (Region("a", "val", ((2, 3, 8, 6),), (Expression("0", text),)),)
        questions = (Question("q", "val", f"what is {number}?", "red", family="color"),)
        record = Record("toy", f"{number:03d}", path.name, width, height, "CC0", regions, questions)
        samples.append(RawSample(record, path))
    out = tmp_path_factory.mktemp("set") / "toy"
    build(samples, out, source="toy", licence="CC0", options={}, progress=False)
    return out


def train(folder: Path, rows: int = 1) -> Path:
    """A run; one of a single row has no curves, which take most of the time of a page."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("model:\n  task: rec  # <b>bold</b>\n")
    versions = {"torch": "9.9.9", "laconvnet": "0.1.0"}
    environment = {"python": "3.11.7", "machine": "Linux-x", "host": "node-17", "versions": versions, "code": "abc123"}
    (folder / "environment.json").write_text(json.dumps(environment))
    log = [
        {"version": 1, "step": 20 * n, "steps": 100, "epoch": n / 2, "loss": 9.0 / n, "xy": 3.0 / n, "wh": 0.01}
        | {"grad_norm": 1.0, "lr": 1e-3 / n, "samples_per_s": 100.0 + n, "data_wait": 0.0, "memory_mb": 9, "time": 1e9}
        for n in range(1, rows + 1)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    return folder


def boxes(file: Path, run: Path, data: Path, right: int = 30, **facts: Any) -> Path:
    """The result of a referring expression model that finds the first ``right`` of the referents."""
    file.parent.mkdir(parents=True, exist_ok=True)
    result = {"task": "rec", "split": "val", "examples": PICTURES, "acc@0.5": right / PICTURES, "miou": 0.5}
    result |= {"wordless": 2}
    file.write_text(json.dumps(result | {"run": str(run), "data": str(data), "step": 100, "blank": False} | facts))
    manifest = Manifest.open(data)
    answers = []
    for number, row in enumerate(manifest.select("val", "expression").tolist()):
        found = number < right
        answer = {"box": [2.0, 3.0, 8.0, 6.0] if found else [-5.0, 8.0, 9.0, 50.0], "iou": 0.875 if found else 0.125}
        answer |= {"example": row, "sample": manifest.examples["sample"][row].as_py(), "score": 0.5}
        answers.append(answer | {"truth": [2.0, 3.0, 8.0, 6.0], "text": manifest.examples["text"][row].as_py()})
    file.with_suffix(".answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    return file


def words(file: Path, run: Path, data: Path, right: int = 30) -> Path:
    """The result of a question model that answers the first ``right`` of the questions."""
    manifest = Manifest.open(data)
    rows = manifest.select("val", "question").tolist()
    answers = [
        {"example": row, "sample": n, "text": f"what is {n}?", "answer": "red" if n < right else "big & <i>blue</i>"}
        | {"score": 0.9, "truth": "red", "family": "color" if n < 32 else "count", "correct": n < right}
        for n, row in enumerate(rows)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    result = {"task": "vqa", "split": "val", "examples": PICTURES, "accuracy": right / PICTURES}
    result |= {"accuracy/color": 30 / 32, "accuracy/count": 0.0, "run": str(run), "data": str(data), "step": 7}
    result |= {"majority": {"accuracy": 0.4, "accuracy_by_family": 0.6}, "blank": False}
    file.write_text(json.dumps(result))
    file.with_suffix(".answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    return file


def text_of(page: str) -> str:
    """The words of a page, as a reader sees them."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_a_run_s_page_holds_its_numbers_bars_and_surroundings(tmp_path: Path, toy: Path) -> None:
    run = train(tmp_path / "first", rows=5)
    controls = {"shuffled_words": {"acc@0.5": 0.25, "miou": 0.2}, "blank_pictures": {"acc@0.5": 0.1, "miou": 0.1}}
    boxes(run / "eval" / "toy-val.json", run, toy, controls=controls)
    out = tmp_path / "new" / "report.html"
    report([run], out)
    shown = text_of(out.read_text())
    # sqrt(.75 * .25 / 40) = 6.8 %, sqrt(.25 * .75 / 40) the same, sqrt(.1 * .9 / 40) = 4.7 %
    assert "40 examples, acc@0.5 75.0 ±6.8 +50.0 over shuffled words 25.0 ±6.8 10.0 ±4.7" in shown
    assert "mean IoU 50.0 +30.0 over shuffled words 20.0 10.0" in shown
    assert re.search(r"75\.0 % of 40 referents .*IoU.* 0\.5.* \+50\.0 points", shown)
    facts = ("node-17 (Linux-x)", "Python 3.11.7", "torch 9.9.9", "laconvnet 0.1.0", "code: abc123")
    assert all(fact in shown for fact in facts)
    assert re.search(r"Step 100 of 100, epoch 2\.5; .*loss 1\.8; 103 samples/s", shown)
    assert "task: rec # <b>bold</b>" in shown
    assert sorted(path.name for path in out.parent.iterdir()) == ["report.html", "report.txt"]


def test_the_page_needs_nothing_beside_it(tmp_path: Path, toy: Path) -> None:
    run = train(tmp_path / "first", rows=2)
    boxes(run / "eval" / "toy-val.json", run, toy)
    words(run / "eval" / "toy-vqa.json", run, toy)
    report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    elements = Elements(page)
    assert not re.search(r"""(src|href|srcset|action)\s*=\s*["']?\s*(https?:)?//""", page, re.IGNORECASE)
    assert not re.search(r"url\(|@import", page)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in elements.found}
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (allowed,) = (one["content"] for one in elements.of("meta") if one.get("http-equiv"))
    assert allowed == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    report([train(tmp_path / "alone")], tmp_path / "no-images.html")
    assert "script" not in (tmp_path / "no-images.html").read_text()
    assert all(image["src"].startswith("data:image/") for image in elements.of("img"))  # type: ignore[union-attr]
    assert all(image["alt"] for image in elements.of("img"))
    assert all(head.get("scope") in ("col", "row") for head in elements.of("th"))
    identities = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(identities) == len(set(identities))
    assert {link["href"] for link in elements.of("a")} <= {f"#{identity}" for identity in identities}


def test_texts_of_data_sets_and_names_of_folders_stay_text(tmp_path: Path, toy: Path) -> None:
    run = train(tmp_path / "<script>alert(1)<" / "img src=x onerror=alert(2)>", rows=2)
    boxes(run / "eval" / "toy-val.json", run, toy, right=2)
    words(run / "eval" / "toy-vqa.json", run, toy)
    log = run / "log.jsonl"
    log.write_text(log.read_text().replace('"xy"', '"</text><script>"'))
    report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    elements = Elements(page)
    assert ATTACK in text_of(page)
    assert "✗ big & <i>blue</i> · true answer: red" in text_of(page)
    assert "img src=x onerror=alert(2)>" in text_of(page)
    assert page.count("<script") == 1
    assert not elements.of("i")
    assert not [attributes for _, attributes in elements.found if any(name.startswith("on") for name in attributes)]
    assert "<script" not in svg_of(page)


def svg_of(page: str) -> str:
    found = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert found is not None
    return base64.b64decode(found[1]).decode()


def test_every_run_has_its_curves_with_its_terms(tmp_path: Path) -> None:
    first, second = train(tmp_path / "first", rows=5), train(tmp_path / "second", rows=3)
    train(tmp_path / "short")
    report([first, second, tmp_path / "short", first], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    images = [image["alt"] for image in Elements(page).of("img")]
    assert len(images) == 2
    assert "loss of first, from 9 at step 20 to 1.8 at step 100" in str(images[0])
    assert "loss of second, from 9 at step 20 to 3 at step 60" in str(images[1])
    drawn = svg_of(page)
    assert all(f">{name}<" in drawn for name in ("xy", "wh", "loss", "step"))
    assert "grad" not in drawn
    assert "Too few rows in the log for a curve." in text_of(page)


def test_a_validated_run_shows_its_scores_and_the_best_of_them(tmp_path: Path) -> None:
    run = train(tmp_path / "run", rows=5)
    row = {"metric": "acc@0.5", "split": "val", "best": 0.7, "best_step": 60, "waited": 0, "ends": False}
    scores = {40: 0.5, 60: 0.7, 100: 0.6}
    lines = [json.dumps(row | {"step": step, "score": score}) for step, score in scores.items()]
    (run / "validations.jsonl").write_text("\n".join(lines))
    place = run / "validations" / "step-00000040"
    place.mkdir(parents=True)
    facts = {"task": "rec", "split": "val", "run": str(run), "data": "d", "examples": 4, "step": 40, "acc@0.5": 0.5}
    (place / "scores.json").write_text(json.dumps(facts))
    report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "validated 0.6000 acc@0.5 on val at step 100, best 0.7000 at step 60" in text_of(page)
    drawn = svg_of(page)
    assert all(f">{name}<" in drawn for name in ("acc@0.5", "loss", "step"))
    (image,) = (image["alt"] for image in Elements(page).of("img"))
    assert "the score of each validation" in str(image)
    assert "Results" not in text_of(page), "a validation is no result"
    (run / "validations.jsonl").unlink()
    report([run], tmp_path / "page.html")
    assert ">acc@0.5<" not in svg_of((tmp_path / "page.html").read_text())


def test_a_long_run_does_not_make_a_large_curve() -> None:
    log = [{"step": n, "loss": 2.0 + n % 7, "xy": 1 + n % 5, "lr": 1e-3, "samples_per_s": n % 9} for n in range(20000)]
    drawn = curves(log)
    assert drawn is not None
    assert len(drawn) < 100_000


def test_a_torn_last_line_is_passed_over_and_the_later_row_of_a_step_counts(tmp_path: Path) -> None:
    run = train(tmp_path / "first", rows=5)
    with (run / "log.jsonl").open("a") as log:
        log.write('{"version": 1, "step": 80, "steps": 200, "loss": 7.25}\n{"version": 1, "step": 120, "lo')
    (found,) = gather([run]).runs
    assert [row["step"] for row in found.log] == [20, 40, 60, 80, 100]
    assert found.log[3]["loss"] == 7.25
    report([run], tmp_path / "page.html")
    assert "Step 100 of 100" in text_of((tmp_path / "page.html").read_text())


def test_a_loss_that_is_not_finite_is_left_out_of_the_curve() -> None:
    log: list[dict[str, Any]] = [{"step": n, "loss": 1.0 * n, "lr": 1e-3, "samples_per_s": 9.0} for n in (1, 2, 3)]
    log[1]["loss"] = math.nan
    drawn = curves(log)
    assert drawn is not None
    assert "nan" not in base64.b64decode(drawn.split(",", 1)[1]).decode().lower()
    assert curves(log[:2]) is None


def test_the_margin_is_over_the_strongest_bar_of_the_same_task_data_and_split(tmp_path: Path, toy: Path) -> None:
    run, blind = train(tmp_path / "seeing"), train(tmp_path / "blind")
    controls = {"shuffled_words": {"acc@0.5": 0.25}, "blank_pictures": {"acc@0.5": 0.1}}
    boxes(run / "eval" / "a.json", run, toy, right=30, controls=controls)
    boxes(blind / "eval" / "b.json", blind, toy, right=16, blank=True)
    boxes(blind / "eval" / "c.json", blind, toy, right=36, blank=True, split="testA")
    boxes(blind / "eval" / "d.json", blind, toy, right=37, blank=True, task="res")
    found = gather([run, blind]).evaluations
    line = score(found[0], found, []).headline
    assert {bar: share.value for bar, share in line.baselines.items()} == {
        "shuffled_words": 0.25,
        "blank_pictures": 0.1,
        "words_only": 0.4,
    }
    assert line.strongest == "words_only"
    assert line.margin == pytest.approx(0.75 - 0.4)
    unseeing = score(found[1], found, []).headline
    assert unseeing.margin is None
    assert "words_only" not in unseeing.baselines
    report([run, blind], tmp_path / "page.html")
    shown = text_of((tmp_path / "page.html").read_text())
    assert "75.0 ±6.8 +35.0 over words-only model" in shown
    assert "step 100, trained on blank images" in shown


def test_a_model_below_its_bar_has_a_negative_margin(tmp_path: Path, toy: Path) -> None:
    run = train(tmp_path / "first")
    boxes(run / "eval" / "a.json", run, toy, right=4, controls={"shuffled_words": {"acc@0.5": 0.3}})
    report([run], tmp_path / "page.html")
    assert "\N{MINUS SIGN}20.0 over shuffled words" in text_of((tmp_path / "page.html").read_text())


def test_standard_error_is_that_of_a_share() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(1.0, 10) == 0


def test_questions_are_scored_by_family_beside_the_majority(tmp_path: Path, toy: Path) -> None:
    run = train(tmp_path / "first")
    words(run / "eval" / "toy-val.json", run, toy)
    report([run], tmp_path / "page.html")
    shown = text_of((tmp_path / "page.html").read_text())
    assert "75.0 ±6.8 +15.0 over majority by family 40.0 ±7.7 60.0 ±7.7" in shown
    # sqrt(30/32 * 2/32 / 32) = 4.3 %: the error of a family is over its own 32 questions
    assert "color 32 examples 93.8 ±4.3" in shown
    assert "count 8 examples 0.0 ±0.0" in shown
    assert "what is 1? ✓ red" in shown


def test_sheets_spread_over_the_set_and_draw_both_boxes(tmp_path: Path, toy: Path) -> None:
    run = train(tmp_path / "first")
    boxes(run / "eval" / "toy-val.json", run, toy, right=24)
    (evaluation,) = gather([run]).evaluations
    answers = evaluation.answers()
    made = sheet(evaluation, answers)
    assert [card.text for card in made.right] == [f"thing {2 * n + 1}" for n in range(12)]
    assert made.wrong[0].text == "thing 24"
    assert (made.rights, made.wrongs) == (24, 16)
    assert made == sheet(evaluation, answers)
    card = made.wrong[0]
    assert (card.box, card.true_box, card.iou) == ((0, 8, 4, 8), (2, 3, 8, 6), 0.125)  # clipped to the 24 x 16
    assert card.crisp
    assert re.search("predicted .*x 0, y 8, 4 wide, 8 high, true .*x 2, y 3, 8 wide, 6 high", card.alt)
    large = made.wrong[-1]
    assert (large.width, large.crisp, large.image[:16]) == (900, False, "data:image/jpeg;")
    stored = base64.b64decode(made.right[0].image.split(",", 1)[1])
    assert stored == Manifest.open(toy).read_image(answers[1]["sample"])
    report([run], tmp_path / "page.html")
    rects = Elements((tmp_path / "page.html").read_text()).of("rect")
    assert {"class": "predicted", "x": "0.0", "y": "8.0", "width": "4.0", "height": "8.0"} in rects
    assert {"class": "true", "x": "2.0", "y": "3.0", "width": "8.0", "height": "6.0"} in rects


def test_images_come_first_and_have_traits(tmp_path: Path) -> None:
    """By its words, COCO's size of its box, and the others of its category in the image."""
    texts = {"the red cup": (8, 6), "cup on the left": (40, 40), "cup": (100, 100), "dog": (8, 6)}
    regions = [
        Region(f"{n}", "val", ((2, 3, *side),), (Expression(f"{n}", text),), category=None if text == "dog" else "cup")
        for n, (text, side) in enumerate(texts.items())
    ]
    Image.new("RGB", (200, 160), (9, 90, 200)).save(tmp_path / "0.png")
    record = Record("toy", "0", "0.png", 200, 160, "CC0", tuple(regions), ())
    data = tmp_path / "set"
    build([RawSample(record, tmp_path / "0.png")], data, source="toy", licence="CC0", options={}, progress=False)
    run = train(tmp_path / "first")
    boxes(run / "eval" / "toy-val.json", run, data, right=2)
    (evaluation,) = gather([run]).evaluations
    made = sheet(evaluation, evaluation.answers())
    assert {card.text: dict(card.traits) for card in (*made.right, *made.wrong)} == {
        "the red cup": {"outcome": "right", "phrase": "look", "size": "small", "others": "2"},
        "cup on the left": {"outcome": "right", "phrase": "place", "size": "medium", "others": "2"},
        "cup": {"outcome": "wrong", "failure": "wrong extent", "phrase": "name", "size": "large", "others": "2"},
        "dog": {"outcome": "wrong", "failure": "wrong extent", "phrase": "name", "size": "small"},
    }
    report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.index('id="images"') < page.index('id="results"') < page.index('id="training"')
    elements = Elements(page)
    wrong = {"data-outcome": "wrong", "data-failure": "wrong extent", "data-phrase": "name", "data-size": "small"}
    assert {"data-part": None, **wrong} in elements.of("figure")
    assert [select["name"] for select in elements.of("select")] == ["outcome", "phrase", "size", "order"]


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here")
def test_a_browser_filters_and_orders_the_images(tmp_path: Path, toy: Path) -> None:
    run = train(tmp_path / "first")
    answers = boxes(run / "eval" / "toy-val.json", run, toy, right=24).with_suffix(".answers.jsonl")
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    rows = [row if row["iou"] > 0.5 else row | {"iou": number / 100} for number, row in enumerate(rows)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    # What a reader does, done by the page's own script: the policy lets no other run.
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    chosen = """
form.elements.outcome.value = "wrong"; form.elements.order.value = "-iou";
form.elements.order.dispatchEvent(new Event("change", {bubbles: true}));
"""
    before, after = (policy(text).rpartition(" ")[2].strip("'") for text in (script, script + chosen))
    page = page.replace(script, script + chosen).replace(before, after)
    (tmp_path / "chosen.html").write_text(page)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--dump-dom", (tmp_path / "chosen.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "12 of 24 shown" in html.unescape(done.stdout)
    cards = [card for card in Elements(done.stdout).of("li") if card.get("class") == "card"]
    assert [card.get("style") for card in cards].count("display: none;") == 12
    overlaps = [float(card["data-iou"] or "") for card in cards[12:]]
    assert overlaps == sorted(overlaps, reverse=True)
    assert len(set(overlaps)) == 12


@pytest.mark.parametrize(
    ("facts", "paper"),
    [
        ({}, "80.3 v2 Tab. 2"),
        ({"preset": "b"}, "82.5 v2 Tab. 2"),
        ({"preset": "19"}, "62.5 v1 Tab. 3"),
        ({"generated": True}, None),
        ({"partition": "google"}, None),
        ({"blank": True}, None),
        ({"split": "train"}, None),
        ({"preset": "tiny"}, None),
        ({"preset": None, "source": None}, None),
    ],
)
def test_the_paper_s_number_stands_beside_a_score_of_the_same_network_on_the_same_split(
    tmp_path: Path, toy: Path, facts: dict[str, Any], paper: str | None
) -> None:
    run = train(tmp_path / "first")
    known: dict[str, Any] = {"source": "refcoco", "preset": "s", "generated": False}
    boxes(run / "eval" / "toy-val.json", run, toy, **known | facts)
    report([run], tmp_path / "page.html")
    shown = text_of((tmp_path / "page.html").read_text())
    assert (f"75.0 ±6.8 {paper}" in shown) if paper else ("Tab." not in shown)
    assert ("generated shapes" in shown) == ("generated" in facts)
    assert ("paper" in (tmp_path / "page.txt").read_text().splitlines()[0]) == (paper is not None)


@pytest.mark.parametrize("loss", ["data", "answers", "rebuilt"])
def test_a_sheet_that_cannot_be_made_says_why(tmp_path: Path, toy: Path, loss: str) -> None:
    run = train(tmp_path / "first")
    data = tmp_path / "copy"
    shutil.copytree(toy, data)
    file = boxes(run / "eval" / "toy-val.json", run, data)
    answers = file.with_suffix(".answers.jsonl")
    if loss == "data":
        shutil.rmtree(data)
        expected = f"The images cannot be shown: {data}: no manifest.parquet here"
    elif loss == "answers":
        answers.unlink()
        expected = f"{answers} is not there; the evaluation writes it."
    else:
        answers.write_text(answers.read_text().replace('"thing 1"', '"another thing"'))
        expected = "is no longer 'another thing'; the set was built anew since"
    report([run], tmp_path / "page.html")
    shown = text_of((tmp_path / "page.html").read_text())
    assert expected in shown
    assert "75.0 ±6.8" in shown


def launched(root: Path, toy: Path) -> Path:
    """The folder of a stage graph: a finished training, its evaluation, a failure, and one that never began."""
    titles = {"train": "Finetuning", "score": "", "broken": "", "never": ""}
    stages = [
        {"name": name, "title": title, "identity": "0123456789", "folder": f"{name}-0123456789", "needs": []}
        | {"command": f"laconvnet {name} '<b>&'"}
        for name, title in titles.items()
    ]
    run = train(root / "train-0123456789", rows=2)
    boxes(root / "score-0123456789" / "val.json", run, toy)
    for stage, seconds in (("train", 3725.2), ("score", 12.34)):
        done = {"identity": "0123456789", "seconds": seconds}
        (root / f"{stage}-0123456789" / "DONE.json").write_text(json.dumps(done))
    (root / "broken-0123456789").mkdir()
    failed = {"identity": "0123456789", "seconds": 3.0, "reason": "TrainingError: loss is nan"}
    (root / "broken-0123456789" / "FAILED.json").write_text(json.dumps(failed))
    (root / "graph.json").write_text(json.dumps({"version": 1, "name": "my graph", "stages": stages}))
    return root


def test_a_graph_s_page_tells_of_all_its_stages(tmp_path: Path, toy: Path) -> None:
    root = launched(tmp_path / "runs", toy)
    report([root], root / "report.html")
    page = (root / "report.html").read_text()
    shown = text_of(page)
    assert "<h1>my graph</h1>" in page
    assert "train Finetuning ✓ done 1 h 02 min laconvnet train '<b>&'" in shown
    assert "score ✓ done 12.3 s laconvnet score '<b>&'" in shown
    assert "broken ✗ failed TrainingError: loss is nan 3.0 s" in shown
    assert re.search("never not started . laconvnet never", shown)
    # The result names the run by its folder; people call it by the title of its stage.
    assert "Finetuning step 100 toy val" in shown
    assert len(re.findall("data:image/svg", page)) == 1


def test_the_stage_that_writes_the_page_is_running(tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = launched(tmp_path / "graph", toy)
    monkeypatch.setenv("LACONVNET_FENCE", str(root / "never-0123456789" / "jobs" / "77.start"))
    report([root], root / "report.html")
    assert "never running writes this page" in text_of((root / "report.html").read_text())


def test_a_result_found_twice_is_shown_once(tmp_path: Path, toy: Path) -> None:
    root = launched(tmp_path / "runs", toy)
    found = gather([root, root, root / "train-0123456789", root / "score-0123456789"])
    assert (len(found.graphs), len(found.runs), len(found.evaluations)) == (1, 1, 1)


def test_a_done_marker_of_another_identity_is_no_success(tmp_path: Path, toy: Path) -> None:
    root = launched(tmp_path / "runs", toy)
    (root / "score-0123456789" / "DONE.json").write_text(json.dumps({"identity": "other", "seconds": 1.0}))
    states = {stage.name: stage.state for stage in gather([root]).graphs[0].stages}
    assert states == {"train": "done", "score": "not started", "broken": "failed", "never": "not started"}


def test_a_broken_result_is_named_on_the_page_and_other_json_is_none(tmp_path: Path, toy: Path) -> None:
    run = train(tmp_path / "first")
    boxes(run / "eval" / "good.json", run, toy)
    (run / "eval" / "torn.json").write_text('{"task": "rec", ')
    (run / "eval" / "notes.json").write_text('{"task": "rec", "split": "val"}')
    report([run], tmp_path / "page.html")
    shown = text_of((tmp_path / "page.html").read_text())
    assert f"{run / 'eval' / 'torn.json'}: line 1 column 17: not JSON" in shown
    assert "notes.json" not in shown


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    stage = {"name": "a", "title": "", "folder": "a-1", "command": "x", "identity": "1", "array": None}
    (tmp_path / "graph.json").write_text(json.dumps({"name": "x", "stages": [stage]}))
    (tmp_path / "a-1" / "DONE.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"a-1/DONE\.json: cannot be read \(Is a directory\)"):
        report([tmp_path], tmp_path / "page.html")


def test_a_wrong_place_is_named_with_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    expected = r"graph\.json \(a launched stage graph\), log\.jsonl \(a run\)"
    with pytest.raises(ConfigError, match=rf"empty: holds none of {expected}"):
        report([tmp_path / "empty"], tmp_path / "page.html")
    with pytest.raises(ConfigError, match=rf"gone: no such folder; expected one that holds {expected}"):
        report([tmp_path / "gone"], tmp_path / "page.html")
    (tmp_path / "empty" / "graph.json").write_text('{"name": "x", "stages": [{}]}')
    with pytest.raises(ConfigError, match=r"empty/graph\.json: not a stage graph"):
        report([tmp_path / "empty"], tmp_path / "page.html")
    with pytest.raises(ConfigError, match=r"--out: .*: is a folder"):
        report([tmp_path / "empty"], tmp_path / "empty")
    assert not (tmp_path / "page.html").exists()


def test_a_failed_write_leaves_the_earlier_page_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = train(tmp_path / "first"), tmp_path / "pages" / "page.html"
    report([run], out)
    before = out.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        report([run], out)
    assert out.read_bytes() == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["page.html", "page.txt"]


def test_the_text_beside_the_page_is_its_table(tmp_path: Path, toy: Path) -> None:
    run = train(tmp_path / "run")
    boxes(run / "eval/toy-val.json", run, toy, right=30, controls={"shuffled_words": {"acc@0.5": 0.25}})
    output = report([run], tmp_path / "page.html")
    assert (tmp_path / "page.txt").read_text() == output
    row = next(line for line in output.splitlines() if "toy val" in line)
    assert row.split()[-4:] == ["75.0", "±6.8", "25.0", "+50.0"]
    assert f"report: {tmp_path / 'page.html'}" in output
    assert "wordless" not in text_of((tmp_path / "page.html").read_text())


def test_a_graph_that_never_started_has_no_course(tmp_path: Path, toy: Path) -> None:
    root = launched(tmp_path / "runs", toy)
    report([root], root / "report.html")
    assert 'class="gantt"' not in (root / "report.html").read_text()
