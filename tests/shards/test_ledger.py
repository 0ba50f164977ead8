"""What became of every entry: read = kept + lost, stored by the build, proved by verify, judged by the brakes."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laconvnet.launch.cli import main
from laconvnet.shards import sources
from laconvnet.shards.build.brake import Brake
from laconvnet.shards.build.builder import build, build_task
from laconvnet.shards.errors import BuildError, InputError
from laconvnet.shards.format.checksums import file_facts
from laconvnet.shards.format.manifest import FILES, QUARANTINE, Manifest
from laconvnet.shards.sets.info import info
from laconvnet.shards.sets.merge import pretrain_set
from laconvnet.shards.sets.verify import verify
from tests.messages import tells
from tests.shards.faulty import REFS, TRIANGLE, account, annotation, built, ref, refer, resealed

BLANK = ref(4, 1, sentences=[{"sent_id": 400, "sent": " "}, {"sent_id": 401, "sent": "left"}], ann_id=40)
OVERHANGING = annotation(40, 1, bbox=[50, 30, 30, 30])
ANNOTATIONS = [annotation(10, 1), annotation(20, 2, segmentation=[]), annotation(30, 3), OVERHANGING]


def faulty(root: Path) -> Path:
    """Ref 2 has no polygon, so that image 2 has nothing; a sentence of ref 4 is blank, and its box overhangs."""
    return refer(root, [*REFS, BLANK], ANNOTATIONS)


def test_every_entry_is_kept_or_lost_by_a_cause(tmp_path: Path) -> None:
    manifest, rows = built("refcoco", faulty(tmp_path / "raw"), tmp_path / "raw" / "images")
    assert account(manifest, "val", "picture") == (1, 1, {})
    assert {kind: account(manifest, "train", kind) for kind in ("picture", "region", "expression", "mask", "box")} == {
        "picture": (3, 2, {"polygon": 1}),
        "region": (3, 2, {"polygon": 1}),
        "expression": (4, 2, {"polygon": 1, "blank": 1}),
        "mask": (3, 2, {"polygon": 1}),
        "box": (3, 2, {"polygon": 1}),
    }
    assert manifest.meta["ledger"]["train"]["box"]["changed"] == {"clipped": 1}
    assert {(row["kind"], row["id"], row["cause"], row["changed"], row["key"]) for row in rows} == {
        ("region", "2", "polygon", False, "refcoco-2"),
        ("picture", "2", "polygon", False, "refcoco-2"),
        ("expression", "400", "blank", False, "refcoco-1"),
        ("box", "4", "clipped", True, "refcoco-1"),
    }
    (blank,) = (row for row in rows if row["cause"] == "blank")
    assert (blank["region"], blank["file"]) == ("4", str(tmp_path / "raw" / "refcoco" / "refs(unc).p"))
    assert blank["counts"] == [{"split": "train", "kind": "expression", "entries": 1}]
    assert manifest.meta["quarantined"] == 3
    assert info(manifest.folder)["ledger"] == manifest.meta["ledger"]
    verify(manifest.folder, full=True, progress=False)


def test_a_lost_image_takes_its_entries(tmp_path: Path) -> None:
    root = faulty(tmp_path / "raw")
    (root / "images" / "1.jpg").unlink()
    (root / "images" / "2.jpg").unlink()
    manifest, rows = built("refcoco", root, root / "images")
    assert account(manifest, "val", "expression") == (1, 0, {"missing": 1})
    assert account(manifest, "train", "expression") == (4, 1, {"polygon": 1, "blank": 1, "missing": 1})
    assert account(manifest, "train", "picture") == (3, 1, {"polygon": 1, "missing": 1})
    (row,) = (row for row in rows if row["cause"] == "missing")
    assert {(count["split"], count["kind"]): count["entries"] for count in row["counts"]} == {
        (split, kind): 1 for split in ("train", "val") for kind in ("picture", "region", "expression", "mask", "box")
    }


def test_an_image_without_entries_left_in_one_split_stays_in_the_other(tmp_path: Path) -> None:
    refs = [ref(1, 1, "val"), ref(2, 1, "train", ann_id=20)]
    root = refer(tmp_path / "raw", refs, [annotation(10, 1, bbox=[70, 70, 5, 5]), annotation(20, 1)])
    manifest, rows = built("refcoco", root, root / "images")
    assert manifest.samples["splits"].to_pylist() == [["train"]]
    assert account(manifest, "val", "picture") == (1, 0, {"box": 1})
    (row,) = (row for row in rows if row["kind"] == "picture")
    assert tells(row["reason"], "nothing", "val", "outside the image")


def test_entries_that_nobody_accounts_for_end_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = faulty(tmp_path / "raw")
    samples = sources.get("refcoco").samples(root, images=root / "images", splits=None, partition=None)
    assert samples.account is not None
    samples.account.count("train", expression=1)
    with pytest.raises(BuildError, match="split train: 5 expression entries were read, 2 kept and 2 lost"):
        build(samples, tmp_path / "set", source="refcoco", licence="", options={}, progress=False)
    assert not (tmp_path / "set" / "manifest.parquet").exists()


def test_tables_that_hold_something_else_end_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = faulty(tmp_path / "raw")
    monkeypatch.setattr("laconvnet.shards.build.writer.example_rows", lambda record, sample: [])
    with pytest.raises(BuildError, match="split train: 0 expression entries, the ledger says 2"):
        built("refcoco", root, root / "images")


def test_the_bytes_are_the_same_however_it_is_built(tmp_path: Path) -> None:
    root = faulty(tmp_path / "raw")
    given: dict[str, Any] = {"source": "refcoco", "licence": "", "options": {}, "progress": False, "shard_bytes": 1}

    def samples() -> Any:
        return sources.get("refcoco").samples(root, images=root / "images", splits=None, partition=None)

    build(samples(), tmp_path / "one", **given)
    build(samples(), tmp_path / "two", **given, workers=2)
    for number in (2, 1):
        build_task(samples(), tmp_path / "tasks", **given, task=(number, 2))
    build(samples(), tmp_path / "tasks", **given)
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two", "tasks")
    ]
    assert contents[0] == contents[1] == contents[2]


def test_mended_annotations_are_taken_up_by_the_build_that_goes_on(tmp_path: Path) -> None:
    """The records are the same: only what was lost is another."""
    root = faulty(tmp_path / "raw")
    with pytest.raises(InputError, match="--strict"):
        built("refcoco", root, root / "images", brake=Brake(strict=True))
    mended = BLANK | {"sentences": BLANK["sentences"][1:]}
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps([*REFS, mended], 2))
    manifest, _ = built("refcoco", root, root / "images")
    assert account(manifest, "train", "expression") == (3, 2, {"polygon": 1})


def test_samples_without_an_account_are_counted_as_they_pass(tmp_path: Path) -> None:
    line = annotation(30, 3, segmentation=[*TRIANGLE, [5, 5, 9, 9]])
    root = refer(tmp_path / "raw", [*REFS, BLANK], [*ANNOTATIONS[:2], line, OVERHANGING])
    manifest, _ = built("refcoco", root, root / "images")
    samples = list(sources.get("refcoco").samples(root, images=root / "images", splits=None, partition=None))
    again = build(samples, tmp_path / "plain", source="refcoco", licence="", options={}, progress=False)
    assert again.meta["ledger"] == manifest.meta["ledger"]
    assert again.meta["ledger"]["train"]["mask"]["changed"] == {"polygon": 1}


def other_quarantine(manifest: Manifest, change: Callable[[pa.Table], pa.Table], *, recorded: bool = True) -> None:
    """Change the quarantine table, and what the manifest recorded of it."""
    path = manifest.folder / QUARANTINE
    pq.write_table(change(pq.read_table(path)), path)
    if recorded:
        resealed(manifest, manifest.meta | {FILES: manifest.meta[FILES] | {QUARANTINE: file_facts(path)}})


def test_verify_proves_the_ledger(tmp_path: Path) -> None:
    root = faulty(tmp_path / "raw")
    manifest, _ = built("refcoco", root, root / "images")
    ledger = manifest.meta["ledger"]
    whole = (manifest.folder / QUARANTINE).read_bytes()

    other_quarantine(manifest, lambda table: table.slice(1), recorded=False)
    with pytest.raises(InputError, match=r"quarantine\.parquet: its checksum differs"):
        verify(manifest.folder)
    other_quarantine(manifest, lambda table: table.slice(1))
    with pytest.raises(InputError, match=r"ledger: split train: \w+ entries lost: .* in quarantine\.parquet"):
        verify(manifest.folder)
    (manifest.folder / QUARANTINE).unlink()
    with pytest.raises(InputError, match=r"quarantine\.parquet: cannot be read"):
        verify(manifest.folder)
    (manifest.folder / QUARANTINE).write_bytes(whole)

    def with_regions(**numbers: int) -> dict[str, Any]:
        changed = {**ledger["train"], "region": ledger["train"]["region"] | numbers}
        return {"ledger": {**ledger, "train": changed}}

    resealed(manifest, manifest.meta | with_regions(read=4))
    with pytest.raises(InputError, match="ledger: split train: 4 region entries were read, 2 kept and 1 lost"):
        verify(manifest.folder)
    resealed(manifest, manifest.meta | with_regions(read=4, kept=3))
    verify(manifest.folder)
    with pytest.raises(InputError, match="ledger: split train: 2 region entries in the records, the ledger says 3"):
        verify(manifest.folder, full=True, progress=False)
    resealed(manifest, manifest.meta)
    verify(manifest.folder, full=True, progress=False)


def test_a_set_without_a_ledger_has_as_many_quarantined_as_its_facts_say(tmp_path: Path) -> None:
    root = faulty(tmp_path / "raw")
    manifest, _ = built("refcoco", root, root / "images")
    facts = {name: fact for name, fact in manifest.meta.items() if name != "ledger"}
    older = Manifest(manifest.folder, facts, manifest.samples, manifest.examples, manifest.shard_paths)
    other_quarantine(older, lambda table: table.select(["file", "key", "region", "reason"]).slice(1))
    verify(manifest.folder)
    other_quarantine(older, lambda table: table.slice(1))
    with pytest.raises(InputError, match=r"quarantine\.parquet: 2 rows, the manifest says 3"):
        verify(manifest.folder)
    assert "ledger" not in info(manifest.folder)
    with pytest.raises(InputError, match="before there was a ledger"):
        built("refcoco", root, root / "images", brake=Brake(strict=True))
    built("refcoco", root, root / "images")


def test_a_set_of_sets_has_the_ledgers_of_its_parts(tmp_path: Path) -> None:
    root = faulty(tmp_path / "raw")
    manifest, _ = built("refcoco", root, root / "images")
    pretrain_set([(manifest.folder, 1.0)], [], tmp_path / "mixed")
    mixed = pretrain_set([(tmp_path / "mixed", 1.0)], [], tmp_path / "again")
    assert info(tmp_path / "mixed")["ledgers"] == {"refcoco": manifest.meta["ledger"]}
    assert info(mixed.folder)["ledgers"] == {"refcoco/refcoco": manifest.meta["ledger"]}
    verify(mixed.folder, full=True, progress=False)


def test_the_brakes_hold_before_the_manifest_and_keep_the_shards(tmp_path: Path) -> None:
    root = faulty(tmp_path / "raw")
    with pytest.raises(InputError) as strict:
        built("refcoco", root, root / "images", brake=Brake(strict=True))
    assert tells(str(strict.value), "--strict", "3 faults", "region 2 of refcoco-2 (polygon)", "annotation 20")
    assert tells(str(strict.value), "expression 400 of refcoco-1 (blank)")
    assert "clipped" not in str(strict.value), "what was only changed is no loss"
    with pytest.raises(InputError) as share:
        built("refcoco", root, root / "images", brake=Brake(at_most=0.4))
    assert tells(str(share.value), "entries of split train: 3 of 7 lost (42.9 %)", "--at-most-lost is 40 %")
    out = root.parent / "raw-set"
    assert not (out / "manifest.parquet").exists()
    shard = (out / "shard-000000.tar").stat().st_ino
    manifest, _ = built("refcoco", root, root / "images", brake=Brake(at_most=0.5))
    assert (out / "shard-000000.tar").stat().st_ino == shard, "written once"
    with pytest.raises(InputError, match="--strict: 3 faults"):  # of a finished set too
        built("refcoco", root, root / "images", brake=Brake(strict=True))
    assert manifest.folder == out


def test_the_command_tells_the_ledger_and_shouts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    root = faulty(tmp_path / "raw")
    command = ["shards", "build", "refcoco", "--root", str(root), "--images", str(root / "images")]
    command += ["--out", str(tmp_path / "set")]
    assert main([*command, "--at-most-lost", "a lot"]) == 2
    assert tells(capfd.readouterr().err, "--at-most-lost", "a lot", "0.1%")
    assert main([*command, "--at-most-lost", "0.1%"]) == 2
    assert tells(
        capfd.readouterr().err, "pictures of split train: 1 of 3 lost (33.3 %)", "0.1 %", "annotation 20 of ref_id 2"
    )
    assert main([*command, "--strict"]) == 2
    assert tells(capfd.readouterr().err, "--strict", "annotation 20 of ref_id 2")
    assert main(command) == 0
    said = capfd.readouterr()
    assert tells(caplog.text, "entries of split train", "MORE THAN 1 % IS LOST")
    kinds = [line.split()[1] for line in said.out.splitlines() if line.startswith("train  ") and "  " in line][1:]
    assert kinds == ["picture", "region", "expression", "mask", "box"]
    assert [line.split() for line in said.out.splitlines() if "expression  " in line] == [
        ["train", "expression", "4", "2", "2", "blank", "1,", "polygon", "1"],
        ["val", "expression", "1", "1", "0"],
    ]
    assert "clipped 1 (kept)" in said.out
    assert main(["shards", "info", str(tmp_path / "set"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["ledger"]["train"]["expression"]["lost"] == {"blank": 1, "polygon": 1}
