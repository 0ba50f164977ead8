"""`laconvnet compare`: paired, by image, over seeds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laconvnet.launch import cli
from laconvnet.pipeline.inference.paired import Difference, Side, compared


def result(file: Path, right: Any, images: Any = None, families: Any = None, **more: Any) -> Path:
    """A result of `eval` whose answers are right or wrong, each about an image of its own or about these."""
    right = np.asarray(right)
    file.parent.mkdir(parents=True, exist_ok=True)
    facts = {"task": "vqa", "source": "clevr", "split": "val", "accuracy": float(right.mean()), **more}
    file.write_text(json.dumps(facts))
    answers = [
        {
            "example": at,
            "sample": int(at if images is None else images[at]),
            "correct": bool(one),
            **({} if families is None else {"family": families[at]}),
        }
        for at, one in enumerate(right)
    ]
    file.with_suffix(".answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    return file


def overall(a: Path | str, b: Path | str) -> Difference:
    return compared(Side.of(str(a)), Side.of(str(b)))[0]


def drawn(seed: int, count: int, share: float) -> Any:
    return np.random.default_rng(seed).random(count) < share


def test_the_interval_is_that_of_paired_differences(tmp_path: Path) -> None:
    ours, theirs = drawn(1, 900, 0.7), drawn(2, 900, 0.6)
    found = overall(result(tmp_path / "a.json", ours), result(tmp_path / "b.json", theirs))
    apart = ours.astype(float) - theirs
    half = 1.96 * apart.std() / math.sqrt(len(apart))
    assert found.difference == pytest.approx(apart.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
    assert found.verdict == "A is better"
    assert found.p < 0.01
    assert (found.a.half, found.a.count, found.examples, found.images) == (None, 1, 900, 900)


def test_what_two_models_share_does_not_widen_it(tmp_path: Path) -> None:
    """Unpaired, two shares of 0.5 of 400 would have an interval of some 0.07 to each side."""
    ours = drawn(1, 400, 0.5)
    theirs = ours.copy()
    theirs[:20] = False
    found = overall(result(tmp_path / "a.json", ours), result(tmp_path / "b.json", theirs))
    assert found.high - found.low < 0.05
    assert found.verdict == "A is better"
    alike = overall(tmp_path / "a.json", tmp_path / "a.json")
    assert (alike.low, alike.high, alike.p, alike.verdict) == (0, 0, 1, "undecided")


def test_one_image_says_nothing_of_others(tmp_path: Path) -> None:
    found = overall(
        result(tmp_path / "a.json", [True, True], images=[5, 5]),
        result(tmp_path / "b.json", [False, False], images=[5, 5]),
    )
    assert (found.difference, found.low, found.high, found.p) == (1, -1, 1, 1)
    assert found.verdict == "undecided"


def test_texts_about_one_image_are_no_evidence_of_their_own(tmp_path: Path) -> None:
    ours, theirs = drawn(1, 100, 0.6), drawn(2, 100, 0.5)
    once = overall(result(tmp_path / "a.json", ours), result(tmp_path / "b.json", theirs))
    images = np.repeat(np.arange(100), 10)
    tenfold = overall(
        result(tmp_path / "a10.json", ours[images], images), result(tmp_path / "b10.json", theirs[images], images)
    )
    assert (tenfold.examples, tenfold.images) == (1000, 100)
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high), abs=1e-9)


def test_runs_that_differ_widen_it_and_have_an_interval_of_their_own(tmp_path: Path) -> None:
    for seed, share in enumerate((0.55, 0.7, 0.85)):
        result(tmp_path / f"a-{seed}.json", drawn(seed, 600, share))
        result(tmp_path / f"b-{seed}.json", drawn(10 + seed, 600, 0.6))
    found = overall(f"{tmp_path}/a-*.json", f"{tmp_path}/b-*.json")
    one = overall(tmp_path / "a-1.json", tmp_path / "b-1.json")
    assert (found.a.count, found.b.count) == (3, 3)
    assert found.a.half is not None
    assert found.a.half > 0.3  # t for two degrees of freedom is 4.3
    assert found.high - found.low > 2 * (one.high - one.low)
    assert found.difference == pytest.approx(found.a.mean - found.b.mean)


def test_families_are_compared_each_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    families = ["count"] * 200 + ["exist"] * 200
    a = result(tmp_path / "a.json", [True] * 200 + [False] * 200, families=families)
    b = result(tmp_path / "b.json", [False] * 200 + [False] * 200, families=families)
    assert cli.main(["compare", str(a), str(b), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["metric"] for row in rows] == ["accuracy", "accuracy/count", "accuracy/exist"]
    assert [row["difference"] for row in rows] == [0.5, 1, 0]
    assert [row["verdict"] for row in rows] == ["A is better", "A is better", "undecided"]
    assert cli.main(["compare", str(a), str(b)]) == 0
    assert "accuracy/count" in capsys.readouterr().out


def test_a_real_result_is_as_good_as_itself(trained: Path) -> None:
    found = overall(trained / "seen.json", trained / "seen.json")
    assert found.name == "acc@0.5"
    assert found.a.mean == pytest.approx(json.loads((trained / "seen.json").read_text())["acc@0.5"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.unlink(), "no such file; expected the JSON result"),
        (lambda b: b.write_text("[]"), "not a result of `laconvnet eval`"),
        (lambda b: result(b, [True] * 4, split="test"), "expected results on the same split of the same set"),
        (lambda b: result(b, [True] * 5), "not of the same examples"),
        (lambda b: result(b, [True] * 4, images=[0, 0, 1, 1]), "not of the same examples"),
        (lambda b: b.with_suffix(".answers.jsonl").unlink(), "b.answers.jsonl: no such file"),
        (lambda b: b.with_suffix(".answers.jsonl").write_text(""), "holds no answer"),
        (lambda b: b.with_suffix(".answers.jsonl").write_text("{}\n"), "line 1: not an answer"),
        (
            lambda b: b.with_suffix(".answers.jsonl").write_text('{"example": 0, "sample": 0, "answer": "x"}\n'),
            "no verdict; the answers of this split are hidden",
        ),
        (
            lambda b: b.with_suffix(".answers.jsonl").write_text('{"example": 0, "sample": 0, "iou": NaN}\n'),
            "line 1: not an answer of `laconvnet eval` (iou is nan, expected 0 to 1)",
        ),
        (
            lambda b: b.with_suffix(".answers.jsonl").write_text('{"example": 0, "sample": 0, "iou": null}\n'),
            "line 1: not an answer",
        ),
        (
            lambda b: b.with_suffix(".answers.jsonl").write_text(f'{{"example": {2**70}, "sample": 0, "iou": 1}}\n'),
            "line 1: not an answer",
        ),
        (lambda b: b.with_suffix(".answers.jsonl").write_bytes(b"\xff\n"), "line 1: not an answer"),
        (lambda b: b.write_text('{"split": "val", "task": "vqa"}'), "not a result of `laconvnet eval`"),
    ],
)
def test_what_cannot_be_compared_is_told(
    tmp_path: Path, change: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = result(tmp_path / "a.json", [True] * 4), result(tmp_path / "b.json", [True] * 4)
    change(b)
    assert cli.main(["compare", str(a), str(b)]) == 2
    assert message in capsys.readouterr().err
