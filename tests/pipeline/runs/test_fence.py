"""The fence: a start of a job that is not the newest is told so, and what cannot be read is not taken for no fence."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconvnet.pipeline.errors import TrainingError
from laconvnet.pipeline.runs import fence


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(fence.FENCE, str(tmp_path / "fence.json"))
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    return tmp_path / "fence.json"


@pytest.mark.parametrize(("own", "newest", "passes"), [(0, 0, True), (0, 1, False), (1, 1, True), (2, 1, True)])
def test_only_a_newer_start_ends_this_one(
    file: Path, monkeypatch: pytest.MonkeyPatch, own: int, newest: int, passes: bool
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(own))
    file.write_text(f'{{"start": {newest}}}')
    assert (fence.starts(), fence.newest(file)) == (own, newest)
    if passes:
        fence.check()
        return
    with pytest.raises(TrainingError) as caught:
        fence.check()
    assert str(caught.value).startswith(f"{file}: ")
    assert f"start {newest}" in str(caught.value)


def test_a_first_start_is_number_0(file: Path) -> None:
    assert fence.starts() == 0
    file.write_text('{"start": 1}')
    with pytest.raises(TrainingError):
        fence.check()


def test_without_a_fence_nothing_is_held_back(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fence.newest(file) is None
    assert fence.newest(Path(__file__) / "below") is None
    fence.check()
    for name in ("set", "gone"):
        monkeypatch.setenv(fence.FENCE, "") if name == "set" else monkeypatch.delenv(fence.FENCE)
        fence.check()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"start": null}', '{"start": "first"}'])
def test_a_damaged_one_ends_the_start_by_its_name(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(TrainingError, match=r"fence\.json: .*newest start"):
        fence.check()


def test_one_that_cannot_be_read_is_not_taken_for_none(file: Path) -> None:
    file.mkdir()
    with pytest.raises(IsADirectoryError):
        fence.check()
