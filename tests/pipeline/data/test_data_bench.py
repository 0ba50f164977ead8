"""The measurements of the data room: what is measured and what a row says; never how fast."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from laconvnet.pipeline.bench import data as bench
from laconvnet.pipeline.bench.ids import row_id
from laconvnet.pipeline.bench.letterboxes import exact, per_picture
from laconvnet.pipeline.bench.made import images, made_set
from laconvnet.pipeline.data.decode import Decoder
from laconvnet.pipeline.data.examples import Examples, Items
from laconvnet.pipeline.data.geometry import Letterbox

CPU = torch.device("cpu")


def test_rows_of_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WIDTH", 96), ("HEIGHT", 64), ("SIZE", 64)):
        monkeypatch.setattr(bench, name, value)
    parts = list(bench.rows(CPU, 2, 1, 2, samples=50))
    assert [{row["bench"] for row in part} for part in parts] == [
        {"decode"},
        {"loader"},
        {"read"},
        {"seek"},
        {"first batch"},
    ]
    for row in (row for part in parts for row in part):
        assert row["unit"] == "ms"
        assert row["threads"] == 1
        assert row["median"] > 0
        assert row["spread"] >= 0
        assert {"name", "baseline", "ratio", "device"} <= row.keys()
    names = [row_id(row) for part in parts for row in part]
    assert len(set(names)) == len(names)
    assert {name.split("/")[0] for name in names} == {"data"}
    decode, loader, read, seek, first = ({(row["name"], row["step"]): row for row in part} for part in parts)
    ours = decode["letterbox", "all"]
    assert ours["ratio"] == 1
    assert ours["mean_error"] < 0.5
    assert ours["largest_error"] < 3
    assert decode["without antialiasing", "all"]["mean_error"] > 3 * ours["mean_error"]
    assert decode["padding before the floats", "all"]["mean_error"] == ours["mean_error"]
    assert math.isnan(decode["decoding alone", "all"]["mean_error"])
    assert {row["pictures"] for row in decode.values()} == {2}
    assert {name for name, _ in loader} == {"decoder from memory", "loader"}
    assert {row["baseline"] for row in loader.values()} == {"decoder from memory"}
    assert {name for name, _ in read} == {"by place", "by place, in windows", "streams"}
    assert {row["pictures"] for row in read.values()} == {512}
    assert len(seek) == 4
    assert {step for _, step in first} == {"open", "items", "batch", "both"}
    assert {row["samples"] for row in first.values()} == {50}


def test_the_exact_letterbox_and_the_others_show_the_same_square() -> None:
    data = [np.frombuffer(one, np.uint8) for one in images(2, 120, 90)]
    letterbox = Letterbox.fit(np.full(2, 120), np.full(2, 90), 64)
    truth = exact(data, letterbox)
    for found in (per_picture(data, letterbox), Decoder(2, 1, CPU).decode(data, letterbox)):
        assert (found - truth).abs().max() * 255 < 2
    assert truth.std() > 0.1
    assert not torch.equal(truth[0], truth[1])
    np.testing.assert_allclose(truth[:, :, :8].numpy(), 127 / 255, rtol=1e-6)


@pytest.mark.parametrize("tars", [0, 3])
def test_a_made_set_is_one(tmp_path: Path, tars: int) -> None:
    encoded = images(3, 120, 90)
    examples = Examples.open(made_set(tmp_path, encoded, 10, 120, 90, tars), "expression", "train")
    assert len(examples.manifest.shard_paths) == max(1, tars)
    assert len(examples.rows) == 10
    assert [examples.manifest.read_image(row) for row in (0, 1, 2, 9)] == [*encoded, encoded[0]]
    assert examples.manifest.read_member(4, "json") == b"{}"
    assert len(Items.of(examples, 0).first) == 10
    examples.check(with_masks=False, without_target=False)
