"""The report leads to the trackers of its runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laconvnet.pipeline.report.page import report
from tests.pipeline.test_report import Elements, text_of, train


def page(folder: Path, kept: object) -> str:
    run = train(folder / "a run", rows=2)
    (run / "trackers.json").write_text(json.dumps(kept))
    report([run], folder / "page.html")
    return (folder / "page.html").read_text()


def test_a_tracker_s_page_is_linked_and_what_lies_here_is_opened_by_a_command(tmp_path: Path) -> None:
    url = 'https://wandb.ai/us/grounding/runs/1a2b3c?nw="><b>'
    shown = page(
        tmp_path, {"tensorboard": {}, "wandb": {"id": "1a2b3c", "url": url}, "mlflow": {"id": "f", "url": None}}
    )
    assert [link["href"] for link in Elements(shown).of("a") if str(link["href"])[0] != "#"] == [url]
    assert f"tensorboard --logdir '{tmp_path}/a run'/tensorboard" in text_of(shown)
    assert f"mlflow server --backend-store-uri '{tmp_path}/a run'/mlruns" in text_of(shown)


@pytest.mark.parametrize(
    "kept",
    [
        {"wandb": {"url": "javascript:alert(1)"}},
        {"wandb": {"url": "https:"}},
        {"wandb": {"url": "http://[bad"}},
        {"wandb": {"url": 3}},
        {"wandb": ["https://example.com"]},
        {"another": {"url": "https://example.com"}},
    ],
)
def test_only_web_pages_of_known_trackers_are_linked(tmp_path: Path, kept: object) -> None:
    shown = page(tmp_path, kept)
    assert all(str(link["href"]).startswith("#") for link in Elements(shown).of("a"))
    assert ("wandb sync" in text_of(shown)) == ("wandb" in json.dumps(kept))
