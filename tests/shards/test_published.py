"""Published counts: compared with what was read, told and no error."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from laconvnet.launch.cli import main
from laconvnet.launch.commands.accounts import show_published
from laconvnet.shards.format.ledger import KINDS
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.sets.merge import pretrain_set
from laconvnet.shards.sources import SOURCES, published
from laconvnet.shards.sources.published import IN_ALL, PUBLISHED, differences
from laconvnet.shards.sources.refer import Refer
from laconvnet.shards.synthetic import generate
from tests.messages import tells
from tests.shards.faulty import REFS, built, ref, refer


def as_published(source: str, partition: str | None) -> dict[str, Any]:
    """The facts of a set whose ledger reads what is published; a count of the whole is spread over two splits."""
    ledger: dict[str, Any] = {}
    for split, kinds in PUBLISHED[source, partition].counts.items():
        for kind, number in kinds.items():
            parts = {"train": number - 7, "val": 7} if split == IN_ALL else {split: number}
            for name, part in parts.items():
                ledger.setdefault(name, {})[kind] = {"read": part, "kept": part - 1, "lost": {"box": 1}, "changed": {}}
    return {"source": source, "options": {"partition": partition, "split": None}, "ledger": ledger}


@pytest.mark.parametrize(("source", "partition"), PUBLISHED)
def test_a_ledger_that_reads_what_is_published_differs_in_nothing(source: str, partition: str | None) -> None:
    meta = as_published(source, partition)
    assert differences(meta) == []
    for split in meta["ledger"]:
        for kind, account in meta["ledger"][split].items():
            account["read"] += 1
            (found,) = differences(meta) or []
            assert (found["split"] in (split, IN_ALL), found["kind"]) == (True, kind)
            assert found["read"] == found["published"] + 1
            account["read"] -= 1


def test_the_table_speaks_of_sources_partitions_and_kinds_that_there_are() -> None:
    for (source, partition), found in PUBLISHED.items():
        assert isinstance(SOURCES[source], Refer) == (partition is not None)
        assert found.citation
        assert {kind for kinds in found.counts.values() for kind in kinds} <= set(KINDS)


@pytest.mark.parametrize(
    ("source", "partition", "totals"),
    [
        # Yu et al. (ECCV 2016) have 142,209 expressions; images of a google partition are in several splits.
        ("refcoco", "unc", {"picture": 19_994, "region": 50_000, "expression": 142_210}),
        ("refcoco", "google", {"picture": 28_299, "region": 50_000}),
        ("refcoco+", "unc", {"picture": 19_992, "region": 49_856}),
        ("refcocog", "google", {"picture": 29_348, "region": 49_822}),
        ("refcocog", "umd", {"picture": 25_799, "region": 49_822}),
        ("grefcoco", "unc", {"picture": 19_994}),
        ("referit", "berkeley", {"picture": 19_894, "region": 96_654, "expression": 130_525}),
        ("visual_genome", None, {"picture": 108_077}),
        ("flickr30k", None, {"picture": 31_783}),
        ("clevr", None, {"picture": 100_000, "question": 999_968}),
        ("clevr_humans", None, {"question": 32_164}),
        ("vqav2", None, {"picture": 204_721 + 36_807, "question": 1_105_904 + 107_394}),  # test-dev is part of test
        ("snli_ve", None, {"picture": 31_783, "question": 565_286}),
    ],
)
def test_the_splits_add_up(source: str, partition: str | None, totals: dict[str, int]) -> None:
    found: Counter[str] = Counter()
    for kinds in PUBLISHED[source, partition].counts.values():
        found.update(kinds)
    assert found == totals


def test_the_default_partition_is_compared_where_none_was_chosen() -> None:
    meta = as_published("refcocog", "umd")
    meta["options"]["partition"] = None
    assert differences(meta) == []
    meta["options"]["partition"] = "google"
    assert {one["split"] for one in differences(meta) or []} == {"train", "val"}
    meta["options"]["partition"] = "another"
    assert differences(meta) is None


def test_splits_that_were_not_chosen_are_not_missed() -> None:
    meta = as_published("refcoco", "unc")
    del meta["ledger"]["train"]
    assert {one["split"] for one in differences(meta) or []} == {"train"}
    meta["options"]["split"] = ["val", "testA", "testB"]
    assert differences(meta) == []
    whole = as_published("grefcoco", "unc")
    del whole["ledger"]["val"]
    assert {one["kind"] for one in differences(whole) or []} == {"picture"}
    whole["options"]["split"] = ["train"]
    assert differences(whole) == []


def test_nothing_is_said_of_other_sources_and_of_sets_without_a_ledger() -> None:
    meta = as_published("refcoco", "unc")
    assert differences(meta | {"source": "toy"}) is None
    assert differences({name: fact for name, fact in meta.items() if name != "ledger"}) is None


def test_build_info_and_verify_tell_a_line_a_split(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = refer(tmp_path / "raw", REFS)
    command = ["shards", "build", "refcoco", "--root", str(root), "--images", str(root / "images")]
    command += ["--out", str(tmp_path / "set"), "--split", "val"]
    for words in (command, ["shards", "info", str(tmp_path / "set")], ["shards", "verify", str(tmp_path / "set")]):
        assert main(words) == 0
        out = capfd.readouterr().out
        assert "against" not in out
        (line,) = (line for line in out.splitlines() if line.startswith("published"))
        assert tells(
            line, "val 1,500 pictures (here 1", "3,811 regions (here 1", "10,834 expressions (here 1", "ref_coco"
        )
        assert main([*words, "--json"]) == 0
        (first, *_) = json.loads(capfd.readouterr().out)["published"]
        assert {name: first[name] for name in ("split", "kind", "published", "read")} == {
            "split": "val",
            "kind": "picture",
            "published": 1500,
            "read": 1,
        }


def test_a_generated_set_says_so_and_is_held_against_no_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    generate(tmp_path / "raw", pictures=8, progress=False)
    for source, folder in (("refcoco", "refer"), ("clevr", "clevr"), ("visual_genome", "visual_genome")):
        command = ["shards", "build", source, "--root", str(tmp_path / "raw" / folder), "--out", str(tmp_path / source)]
        assert main(command) == 0
        out = capfd.readouterr().out
        assert tells(out, "generated", "yes")
        assert "published" not in out
    place = ["shards", "info", str(tmp_path / "mixed"), "--json"]
    pretrain_set([(tmp_path / "visual_genome", 1.0)], [tmp_path / "refcoco"], tmp_path / "mixed")
    assert main(place) == 0
    assert json.loads(capfd.readouterr().out)["generated"] is True
    root = refer(tmp_path / "own", REFS)
    command = ["shards", "build", "refcoco", "--root", str(root), "--images", str(root / "images"), "--json"]
    assert main([*command, "--out", str(tmp_path / "set")]) == 0
    assert "generated" not in json.loads(capfd.readouterr().out)


def test_an_excerpt_is_told_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """What differs in one split, or by less than half, is told split by split: there it may be a mistake."""
    meta = as_published("refcoco", "unc")
    accounts = [account for split in ("train", "val") for account in meta["ledger"][split].values()]
    for account in accounts:
        account["read"] //= 3
    show_published(differences(meta) or [])
    (line,) = capfd.readouterr().out.splitlines()
    assert tells(line, "published: train 16,994 pictures (here 5,664 were read)", "half of val:", "--json")
    accounts[-1]["read"] *= 2
    show_published(differences(meta) or [])
    train, val = capfd.readouterr().out.splitlines()
    assert tells(train, "published: train", "42,404 regions (here", "source: the README")
    assert tells(val, "published: val", "3,811 regions (here")


def test_an_equal_set_and_one_of_several_tell_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    refs = [ref(number, number, split) for number, split in ((1, "train"), (2, "train"), (3, "val"))]
    manifest, _ = built("refcoco", refer(tmp_path / "raw", refs), tmp_path / "raw" / "images")
    numbers = {"train": {"picture": 2, "region": 2, "expression": 2}, "val": {"picture": 1}}
    monkeypatch.setitem(PUBLISHED, ("refcoco", "unc"), published.Published(numbers, "somewhere"))
    assert differences(Manifest.open(manifest.folder).meta) == []
    assert main(["shards", "info", str(manifest.folder)]) == 0
    assert "published" not in capfd.readouterr().out
    pretrain_set([(manifest.folder, 1.0)], [], tmp_path / "mixed")
    assert main(["shards", "info", str(tmp_path / "mixed"), "--json"]) == 0
    assert "published" not in json.loads(capfd.readouterr().out)
