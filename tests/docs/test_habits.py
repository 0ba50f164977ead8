"""The files that tools of the trade read: CI, hooks, forms, citation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import laconvnet
from tests.docs.pages import ROOT

FORMS = sorted((ROOT / ".github").rglob("*.yml"))


@pytest.mark.parametrize(
    "file", [*FORMS, ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"], ids=lambda f: f.name
)
def test_it_is_yaml(file: Path) -> None:
    assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict)


def test_ci_runs_what_a_submission_must_pass() -> None:
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]["steps"]
    assert ".ci/run" in [step.get("run") for step in steps]


def test_hooks_fetch_nothing() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}


def test_forms_have_fields_with_ids_of_their_own() -> None:
    for file in FORMS:
        body = yaml.safe_load(file.read_text(encoding="utf-8")).get("body", [])
        names = [field["id"] for field in body if field["type"] != "markdown"]
        assert len(set(names)) == len(names), file


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == laconvnet.__version__
    assert [work["year"] for work in cited["references"]] == [2024, 2021], "the two papers"


def test_the_changelog_keeps_its_form() -> None:
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in log
    kinds = set(re.findall(r"^### (\w+)$", log, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_readme_fits_on_a_page_or_two() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160
