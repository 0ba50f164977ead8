"""Near duplicates: what copies and strangers differ in, which hashes say too little, and the search over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from laconvnet.shards.sets import near
from laconvnet.shards.sets.holdout import DOUBTFUL_WITHIN, SAME_WITHIN
from laconvnet.shards.sets.near import Hashes, nearest, packed, telling
from laconvnet.shards.synthetic import generate
from tests.samples import SAMPLES, needs
from tests.shards.copies import COPIES, CROPS, OTHERS, distances, hashed, opened, strangers

PHOTOGRAPHS = [SAMPLES / name for name in ("coco", "flickr30k", "visual_genome", "vqav2", "snli_ve")]


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    return opened(PHOTOGRAPHS)


@needs(SAMPLES)
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_a_photograph_is_within_half_of_the_limit(photographs: list[Image.Image], name: str) -> None:
    bits = distances(photographs, COPIES[name])
    assert len(bits) > 15
    assert bits.max() <= SAME_WITHIN // 2


@needs(SAMPLES)
def test_photographs_cropped_a_little_are_copies_and_those_cropped_more_or_flipped_are_not(
    photographs: list[Image.Image],
) -> None:
    found = {name: distances(photographs, change) for name, change in {**CROPS, **OTHERS}.items()}
    assert found["cropped by 1 % at each side"].max() <= SAME_WITHIN
    assert np.median(found["cropped by 1.5 % at each side"]) <= SAME_WITHIN
    assert np.median(found["cropped by 2.5 % at each side"]) <= DOUBTFUL_WITHIN
    assert found["flipped"].min() > DOUBTFUL_WITHIN


@needs(SAMPLES)
def test_strangers_are_beyond_the_doubtful(photographs: list[Image.Image]) -> None:
    share, bits = strangers(photographs, crops=10)
    assert share > 0.8
    assert len(bits) > 30_000
    assert bits.min() > DOUBTFUL_WITHIN


@needs(SAMPLES)
def test_scenes_of_clevr_say_too_little() -> None:
    images = opened([SAMPLES / "clevr"])
    assert len(images) == 30
    assert not telling(hashed(images)).any()


def test_generated_scenes_say_too_little(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("raw")
    generate(folder, pictures=40, size=64, seed=3, questions_per_picture=1)
    images = opened([folder])
    assert len(images) > 90
    assert not telling(hashed(images)).any()


def bits_of(text: str) -> Hashes:
    return packed([np.packbits(np.array([[int(bit) for bit in text]] * 16)).tobytes()])


@pytest.mark.parametrize(
    ("row", "says_enough"),
    [
        ("0000000000000000", False),
        ("1111111111111111", False),  # a gradient
        ("1111111100000000", False),  # lighter in the middle: 128 bits, 16 changes
        ("0101010101010101", True),
        ("0001000100010001", True),  # 64 bits, 112 changes
        ("0001000000010001", False),  # 48 bits
        ("0011001100110000", True),  # 96 bits, 96 changes
        ("0011111000000110", False),  # 112 bits, 64 changes
    ],
)
def test_a_hash_says_enough_by_its_bits_and_by_their_changes(row: str, says_enough: bool) -> None:
    assert telling(bits_of(row)).tolist() == [says_enough]


def test_changes_from_row_to_row_count_too() -> None:
    rows = np.zeros((16, 16), np.uint8)
    rows[::3, :15] = 1  # 90 bits, 6 changes along the rows, 150 from row to row
    assert telling(packed([np.packbits(rows).tobytes()])).tolist() == [True]


def flipped(hash: Hashes, *bits: int) -> Hashes:
    found = np.unpackbits(hash.view(np.uint8))
    found[list(bits)] ^= 1
    return np.packbits(found).view(np.uint64).reshape(1, 4)


def test_the_nearest_is_found_wherever_the_bits_differ_and_no_further() -> None:
    draw = np.random.default_rng(0)
    others = draw.integers(0, 2**64, (50, 4), dtype=np.uint64)
    for at in range(50):
        for count in (0, 1, 10, 11):
            query = flipped(others[at : at + 1], *draw.permutation(256)[:count].tolist())
            place, distance = nearest(query, others, within=10)
            assert (place[0], distance[0]) == ((at, count) if count <= 10 else (-1, 11))
    for word in range(4):  # all of them in one word
        query = flipped(others[7:8], *range(64 * word, 64 * word + 10))
        assert nearest(query, others, within=10)[0].tolist() == [7]


def test_of_equals_the_first_is_found_and_of_several_the_nearest() -> None:
    zero = packed([bytes(32)])
    others = np.concatenate([flipped(zero, 1, 2), flipped(zero, 3), flipped(zero, 200), zero + np.uint64(2**40 - 1)])
    place, distance = nearest(zero, others, within=48)
    assert (place.tolist(), distance.tolist()) == ([1], [1])


def test_the_search_is_that_over_all_pairs_at_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    others = draw.integers(0, 2**64, (300, 4), dtype=np.uint64)
    queries = np.concatenate([others[::7] ^ (draw.integers(0, 2**64, (43, 4), dtype=np.uint64) & 0x1111), others[:30]])
    pairs = np.bitwise_count(queries[:, None] ^ others).sum(-1, dtype=np.int64)
    expected = np.where(pairs.min(1) <= 20, pairs.argmin(1), -1)
    assert (expected >= 0).sum() > 40
    for sizes in ((64, 4096), (1, 1), (7, 100), (100, 299)):
        monkeypatch.setattr(near, "_QUERIES", sizes[0])
        monkeypatch.setattr(near, "_OTHERS", sizes[1])
        place, distance = nearest(queries, others, within=20)
        assert place.tolist() == expected.tolist()
        assert distance.tolist() == np.minimum(pairs.min(1), 21).tolist()


def test_nothing_is_near_nothing() -> None:
    none = packed([])
    assert nearest(none, none, 10)[0].tolist() == []
    assert nearest(packed([bytes(32)]), none, 10)[0].tolist() == [-1]
    assert nearest(none, packed([bytes(32)]), 10)[0].tolist() == []
    assert telling(none).tolist() == []
