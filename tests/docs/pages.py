"""The pages of the documentation as tests read them: links, anchors, fenced blocks, and tutorials that are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import folders

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md")))

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=indent)```[ \t]*$", re.MULTILINE | re.DOTALL
)
_TITLE = re.compile(r'title="([^"]+)"')
_CHANGE = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_ANCHOR = re.compile(r'(?:id|name)="([^"]+)"')


class Block(NamedTuple):
    """A fenced block: its language, the file it is to be written to (None: it is not a file) and its text."""

    language: str
    title: str | None
    text: str


def blocks(page: Path) -> Iterator[Block]:
    for found in _FENCE.finditer(page.read_text(encoding="utf-8")):
        info = found["info"].strip()
        title = _TITLE.search(info)
        yield Block(info.split()[0] if info else "", title[1] if title else None, found["text"])


def prose(page: Path) -> str:
    """The page without its fenced blocks and its code spans."""
    return re.sub(r"`[^`\n]+`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and Markdown's toc write it."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def anchors(page: Path) -> set[str]:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {slug(heading) for heading in _HEADING.findall(text)} | set(_ANCHOR.findall(text))


def changes(page: Path) -> dict[str, str]:
    """What the test puts in place of what: the table under "What the test changes"."""
    _, found, table = page.read_text(encoding="utf-8").partition("## What the test changes")
    assert found, f"{page}: no section 'What the test changes'"
    return dict(_CHANGE.findall(table))


def replaced(text: str, changed: Mapping[str, str]) -> str:
    for here, there in changed.items():
        text = text.replace(here, there)
    return text


def walk(page: Path, folder: Path, after: Callable[[str], None] | None = None) -> str:
    """Do what a tutorial says in this folder: write its files, run its `sh` blocks, each of which must succeed.

    Returns what was printed. ``after`` is called with each block that has run. A change that the page declares and
    nothing uses is an error of the page.
    """
    changed = changes(page)
    unused = set(changed)
    shown = ""
    for block in blocks(page):
        text = replaced(block.text, changed)
        if block.title or block.language == "sh":
            unused -= {here for here in unused if here in block.text}
        if block.title:
            (folder / block.title).write_text(text, encoding="utf-8")
        elif block.language == "sh":
            shown += shell(text, folder)
            if after:
                after(text)
    assert not unused, f"{page}: nothing on the page says {sorted(unused)}"
    return shown


def shell(script: str, folder: Path) -> str:
    """Run lines of bash with this environment's `laconvnet`; what they printed. A failure shows the whole of it."""
    programs = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": programs, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, f"exit code {ended.returncode} of\n{script}\n{ended.stdout}"
    return ended.stdout


def untold(graph: Path, own: Collection[str] = ()) -> list[str]:
    """Where a launched graph's folder and the reference of folders differ.

    These are files that it does not tell of, and files that it says are always there and that are nowhere. ``own`` are
    the results that the stages name themselves.
    """
    files = [file.relative_to(graph).as_posix() for file in sorted(graph.rglob("*")) if file.is_file()]
    inner = [re.sub(r"^[^/]+/(array-\d+/\d+/)?", "", file) for file in files if "/" in file and file[:5] != "code-"]
    strange = [file for file in files if "/" not in file and not folders.known(file, folders.GRAPH)]
    strange += [file for file in inner if file not in own and not folders.known(file, folders.STAGE, folders.RUN)]
    always = [file for file in (*folders.STAGE, *folders.RUN) if not file.when or file.when == "at the end"]
    return strange + [file.place for file in always if not any(folders.known(one, (file,)) for one in inner)]
