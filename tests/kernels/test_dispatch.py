"""Which path serves a layer: as rows of measurements say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laconvnet.kernels import chunks, dispatch, fused
from tests.kernels.cuda_emulated import OnCpu
from tests.kernels.fused_emulated import problem
from tests.kernels.test_fused import BF16, STAGE1, inputs, spoiled

LAYER = ("forward", "bf16", 3, 16, 64, 4)


def measured(name: str, median: float | None, **other: Any) -> dict[str, Any]:
    row = {"name": name, "median": median, "device": "cpu", "operation": "laconv", "direction": "forward"}
    shape = {"dtype": "bf16", "kernel_size": 3, "channels": 16, "condition": 64, "groups": 4, "side": 10, "pictures": 4}
    return {**row, "cache": "warm", **shape, **other}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "dispatch.json"
    path.write_text("[]")
    monkeypatch.setattr(dispatch, "FILE", path)
    monkeypatch.setattr(fused, "_trusted", {})
    dispatch._rows.cache_clear()
    return path


@pytest.fixture(autouse=True)
def _as_packaged_afterwards() -> Any:
    yield
    dispatch._rows.cache_clear()


def test_what_is_packaged_can_be_read() -> None:
    assert isinstance(json.loads(dispatch.FILE.read_text()), list)
    assert not dispatch.slower("a chip of nobody", LAYER, 100)


def test_rows_of_both_paths_become_pairs(file: Path) -> None:
    rows = [
        measured("fused", 8.0),
        measured("chunks", 2.0, pictures=2),  # an image takes half of what it takes the other
        measured("laconv", 1.0),
        measured("fused", 1.0, cache="cold"),
        measured("fused", 9.0, direction="backward"),  # the other failed
        measured("chunks", None, direction="backward"),
        measured("fused", 1.0, direction="both"),
        measured("fused", 1.0, operation="dynamic_conv"),
    ]
    assert dispatch.keep(rows, file) == 1
    (row,) = json.loads(file.read_text())
    assert (row["fused"], row["chunks"], row["pixels"], row["chip"]) == (2.0, 1.0, 100, "cpu")


def test_the_nearest_size_decides_and_new_rows_replace_old(file: Path) -> None:
    def both(side: int, ours: float) -> list[dict[str, Any]]:
        return [measured("fused", ours, side=side), measured("chunks", 4.0, side=side)]

    dispatch.keep([*both(10, 8.0), *both(100, 2.0)], file)
    assert dispatch.slower("cpu", LAYER, 200)
    assert not dispatch.slower("cpu", LAYER, 9000)
    assert not dispatch.slower("another", LAYER, 200)
    assert not dispatch.slower("cpu", ("backward", *LAYER[1:]), 200)
    dispatch.keep(both(10, 1.0), file)
    dispatch._rows.cache_clear()
    assert not dispatch.slower("cpu", LAYER, 200)
    assert len(json.loads(file.read_text())) == 2


def test_the_faster_path_serves(library: OnCpu, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, cond, recipe = inputs(problem(BF16, 1, 5, 6, *STAGE1))
    calls = spoiled(monkeypatch, "forward", None)
    dispatch.keep([measured("fused", 2.0), measured("chunks", 1.0)], file)
    assert fused.forward(library, x, cond, recipe).equal(chunks.forward(library, x, cond, recipe))
    assert not calls
    dispatch.keep([measured("fused", 1.0), measured("chunks", 2.0)], file)
    dispatch._rows.cache_clear()
    fused.forward(library, x, cond, recipe)
    assert len(calls) == 2
