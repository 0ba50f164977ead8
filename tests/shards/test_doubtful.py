"""What is kept though it looks like a test image: the table, and the page to look at it."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from laconvnet.shards.build.builder import build
from laconvnet.shards.build.content import difference_hash
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Record, Region
from laconvnet.shards.sets import doubtful
from laconvnet.shards.sets.info import info
from laconvnet.shards.sets.merge import pretrain_set
from laconvnet.shards.sets.verify import verify
from tests.shards.test_holdout import of, photograph, saved, with_hashes

SIZE = (400, 300)
NAME = "<img src=x onerror=alert(1)>&\"'.png"


def like(bits: int, seed: int = 0) -> bytes:
    """The hash of a photograph, with so many bits changed."""
    first = difference_hash(np.asarray(photograph(seed, SIZE)))
    assert first is not None
    return (int.from_bytes(first) ^ ((1 << bits) - 1)).to_bytes(32)


def sample(source: str, number: int, name: str, split: str, path: Path, width: int = 0) -> RawSample:
    regions = (Region("r", split, ((1, 1, 2, 2),), (Expression("e", "thing"),)),)
    return RawSample(Record(source, str(number), name, width, width, "CC0", regions), path)


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Images that are 40, 36 and 90 bits from one that is held out, and one that is 44 from one that was lost."""
    paths = [saved(tmp_path / "raw" / f"{seed}.png", photograph(seed, SIZE)) for seed in range(6)]
    ours = [sample("ours", number, f"{number}{NAME}", "train", path) for number, path in enumerate(paths[:4])]
    theirs = [
        sample("theirs", 0, f"held{NAME}", "val", paths[4]),
        sample("theirs", 1, "lost.png", "testA", paths[5], width=7),
    ]
    for name, samples in (("ours", ours), ("theirs", theirs)):
        build(samples, tmp_path / name, source=name, licence="CC0", options={}, progress=False)
    with_hashes(tmp_path / "ours", lambda row: (like(40, 4), like(36, 4), like(90, 4), like(44, 5))[row])
    return tmp_path / "ours", tmp_path / "theirs"


def test_doubtful_images_are_kept_and_listed_the_nearest_first(sets: tuple[Path, Path], tmp_path: Path) -> None:
    ours, theirs = sets
    out = tmp_path / "out"
    assert len(pretrain_set([(ours, 1.0)], [theirs], out).samples) == 4
    assert info(out)["doubtful"] == 3
    rows = pq.read_table(out / "doubtful.parquet").to_pylist()
    assert [(row["key"], row["held_key"], row["held_split"], row["distance"]) for row in rows] == [
        ("ours-1", "theirs-0", "val", 36),
        ("ours-0", "theirs-0", "val", 40),
        ("ours-3", "theirs-1", "testA", 44),
    ]
    expected = {"set": 0, "file_name": f"1{NAME}", "held_file_name": f"held{NAME}", "held_set": f"theirs ({theirs})"}
    assert rows[0] == rows[0] | expected
    path = out / "doubtful.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"doubtful\.parquet: its checksum"):
        verify(out)


def test_the_page_shows_both_images_small_and_needs_nothing_beside_it(sets: tuple[Path, Path], tmp_path: Path) -> None:
    ours, theirs = sets
    pretrain_set([(ours, 1.0)], [theirs], tmp_path / "out")
    page = (tmp_path / "out" / "doubtful.html").read_text()
    images = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(images) == page.count("<img") == 5  # the lost image is not stored
    with Image.open(io.BytesIO(base64.b64decode(images[0]))) as small:
        assert small.size == (240, 180)
        expected = np.asarray(photograph(1, SIZE).resize((240, 180)), np.float32)
        assert abs(np.asarray(small.convert("RGB"), np.float32) - expected).mean() < 6
    assert [int(bits) for bits in re.findall(r"(\d+) bits of 256</p>", page)] == [36, 40, 44]
    assert "Not stored" in page
    for told in ("theirs-0", "ours-1", "val", "testA", f"theirs ({theirs})", "default-src 'none'"):
        assert told in html.unescape(page)
    assert "onerror=alert(1)>" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;&amp;&#34;&#39;.png") == 2 * 5
    assert "<script" not in page


def test_a_page_shows_so_many_pairs_and_tells_of_the_rest(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubtful, "_SHOWN", 1)
    ours, theirs = sets
    pretrain_set([(ours, 1.0)], [theirs], tmp_path / "out")
    page = (tmp_path / "out" / "doubtful.html").read_text()
    assert re.findall(r"(\d+) bits of 256</p>", page) == ["36"]
    assert "3 pairs, of which the nearest 1 are shown; 2 more are in doubtful.parquet" in page
    assert pq.read_table(tmp_path / "out" / "doubtful.parquet").num_rows == 3


def test_an_image_that_is_left_out_or_has_no_example_is_not_doubtful(tmp_path: Path) -> None:
    """Image 0 has the id of a test image, image 1 has nothing to train on."""
    paths = [saved(tmp_path / "raw" / f"{seed}.png", photograph(seed, SIZE)) for seed in range(4)]
    theirs = of(tmp_path, "theirs", [(paths[3], "val")], ids=("flickr:1",))
    silent = Record("ours", "1", "1.png", 0, 0, "CC0", (Region("r", "train", ((1, 1, 2, 2),)),))
    named = sample("ours", 0, "0.png", "train", paths[0])
    ours = [
        RawSample(named.record, paths[0], ids=("flickr:1",)),
        RawSample(silent, paths[1]),
        sample("ours", 2, "2.png", "train", paths[2]),
    ]
    build(ours, tmp_path / "ours", source="ours", licence="CC0", options={}, progress=False)
    with_hashes(tmp_path / "ours", lambda _: like(40, 3))
    assert len(pretrain_set([(tmp_path / "ours", 1.0)], [theirs], tmp_path / "out").samples) == 1
    assert pq.read_table(tmp_path / "out" / "doubtful.parquet")["key"].to_pylist() == ["ours-2"]
