"""Every link and anchor of the documentation leads somewhere, its Python compiles, its messages are the program's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, anchors, blocks, prose

_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|<img[^>]*\bsrc=\"([^\"]+)\"|<a[^>]*\bhref=\"([^\"]+)\"")
_FILE = re.compile(
    r"`((?:laconvnet|shards|kernels|pipeline|launch|configs|tests|docs)/[\w./+-]+\.(?:py|yaml|md|cpp|cuh?|h|j2|css))`"
)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def broken(page: Path) -> list[str]:
    """The relative links of a page that lead to no file, or to no anchor in it."""
    found = []
    for groups in _LINK.findall(prose(page)):
        link = next(filter(None, groups))
        place, _, anchor = link.partition("#")
        if ":" in place:
            continue
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links(page: Path) -> None:
    assert not broken(page)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_compiles(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_are_named_are_there(page: Path) -> None:
    own = {"pipeline/model/blocks/depthwise.py"}  # which the reader is to write
    named_files = set(_FILE.findall(page.read_text(encoding="utf-8"))) - own
    if page.name == "CHANGELOG.md":
        return  # tells of what was
    assert not sorted(file for file in named_files if not (ROOT / file).exists())


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading, `code` and more\n\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#a-heading-code-and-more) [b](other.md#no-heading) [c](gone.md) `[d](gone.md)` [e](https://x.y)\n"
        '<img src="gone.png"> <a id="here"></a> [f](#here)\n'
    )
    assert broken(page) == ["other.md#no-heading", "gone.md", "gone.png"]


def test_messages_of_the_troubleshooting_page_are_the_programs() -> None:
    """What stands in code spans of the first column occurs in the sources, `...` standing for what is filled in."""
    sources = ""
    for room in ("shards", "kernels", "pipeline", "launch", "laconvnet"):
        for file in sorted((ROOT / room).rglob("*.py")):
            sources += re.sub(r"\"\s*\n?\s*(?:f?)\"", "", file.read_text(encoding="utf-8"))
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    cells = [row.split(" | ")[0] for row in page.splitlines() if row.startswith("| `")]
    seen = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell) if " " in span]
    pieces = [piece.strip() for span in seen for piece in span.split("...") if len(piece.strip()) > 3]
    assert len(pieces) > 30
    assert not [piece for piece in pieces if piece not in sources]


def test_nothing_is_left_to_be_filled_in() -> None:
    assert PAGES
    for page in PAGES:
        assert not re.search(r"@@|<!-- (demo-table|bench-rows)", page.read_text(encoding="utf-8")), page
