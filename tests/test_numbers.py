"""The measurements in docs/benchmarks: their page is drawn from the rows, and every link to a row finds it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from laconvnet.launch.commands.bench.kept import read
from laconvnet.pipeline.bench.page import page

ROOT = Path(__file__).resolve().parents[1]
KEPT = Path("docs/benchmarks")
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)")


def stale(root: Path) -> bool:
    """Whether the page is another than the rows make; without rows there is to be none."""
    there = root / KEPT / "README.md"
    if not list((root / KEPT).glob("*.jsonl")):
        return there.exists()
    return not there.exists() or there.read_text() != page(read(root / KEPT))


def broken(root: Path) -> list[str]:
    """The links into docs/benchmarks, of README.md and docs/, that lead nowhere."""
    found = []
    for document in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        for link in _LINK.findall(document.read_text()):
            path, _, target = link.partition("#")
            file = (document.parent / path).resolve() if path else document
            if ":" in path or not file.is_relative_to((root / KEPT).resolve()):
                continue
            if not file.exists() or (target and f'id="{target}"' not in file.read_text()):
                found.append(f"{document.relative_to(root)}: {link}")
    return found


def test_the_page_is_current() -> None:
    assert not stale(ROOT), f"run: laconvnet bench show {KEPT} --out {KEPT}/README.md"


def test_every_link_to_a_number_finds_it() -> None:
    assert not broken(ROOT)


ROW = '{"bench": "infer", "name": "laconv", "median": %s, "device": "P, 2 threads"}\n'
ANCHOR = "2026-01-01-m/infer/laconv/cpu2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / KEPT
    folder.mkdir(parents=True)
    (folder / "2026-01-01-m.jsonl").write_text(ROW % 7)
    (folder / "README.md").write_text(page(read(folder)))
    (tmp_path / "README.md").write_text("[7 ms](https://example.org/docs/benchmarks/README.md#elsewhere)")
    return tmp_path


def test_a_page_that_is_not_current_is_seen(root: Path) -> None:
    assert not stale(root)
    (root / KEPT / "2026-01-01-m.jsonl").write_text(ROW % 8)
    assert stale(root)
    (root / KEPT / "2026-01-01-m.jsonl").unlink()
    assert stale(root)
    (root / KEPT / "README.md").unlink()
    assert not stale(root)


@pytest.mark.parametrize(
    ("document", "link", "found"),
    [
        ("README.md", f"docs/benchmarks/README.md#{ANCHOR}", True),
        ("docs/deep/page.md", f"../benchmarks/README.md#{ANCHOR}", True),
        ("docs/page.md", "benchmarks/2026-01-01-m.jsonl", True),
        ("docs/benchmarks/other.md", f"README.md#{ANCHOR}", True),
        ("README.md", f"docs/benchmarks/README.md#{ANCHOR}0", False),
        ("README.md", f"docs/benchmarks/README.md#{ANCHOR[:-1]}", False),
        ("docs/page.md", "benchmarks/2026-01-02-m.jsonl", False),
        ("docs/page.md", "benchmarks/missing.md#x", False),
    ],
)
def test_a_link_that_leads_nowhere_is_seen(document: str, link: str, found: bool, root: Path) -> None:
    file = root / document
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"It takes [7 ms]({link}) here.")
    assert broken(root) == ([] if found else [f"{document}: {link}"])
