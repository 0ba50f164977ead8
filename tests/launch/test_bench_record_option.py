"""`laconvnet bench ... --record`: every command keeps its rows; the new commands measure something real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from laconvnet.launch import cli
from laconvnet.launch.commands.bench import building, cold, holding, options, writing
from laconvnet.launch.commands.bench.building import Building
from laconvnet.pipeline.bench import data
from laconvnet.pipeline.data.reader import Reader
from laconvnet.shards.build.check import check
from laconvnet.shards.sources import get

TINY = ["--device", "cpu", "--preset", "tiny", "--size", "32", "--batch", "2"]


def kept(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def small_data(*arguments: Any, **_: Any) -> Any:
    parts = (("decode", 1.0), ("seek", float("nan")))
    for bench, median in parts:
        yield [{"bench": bench, "name": "x", "median": 1.0, "mean_error": median, "device": "P, 2 threads"}]


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["kernel", *TINY, "--quick", "--rounds", "1"], 2 * 5 * 3 * 3),
        (["infer", *TINY, "--rounds", "1"], 2 * 2),
        (["bytes", *TINY, "--rounds", "1"], 2 * 5 * 2 + 2 * 2 + 2 * 2 + 1 + 20),
        (["bytes", *TINY, "--part", "moved"], 2 * 2 + 1 + 20),  # the least, and the dearest
        (["shards", "--pictures", "8", "--size", "32", "--rounds", "2", "--part", "build"], 2),
        (["shards", "--pictures", "8", "--rounds", "1", "--part", "pass-through", "decode", "small", "reads"], 9),
        (["data", "--rounds", "1"], 2),
        (["train", "--device", "cpu", "--part", "speed", "--rounds", "1", "--data.size", "32", "--data.batch", "2"], 2),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_command_keeps_what_it_prints(
    words: list[str], ids: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data, "rows", small_data)
    monkeypatch.setattr(sys, "argv", ["laconvnet", "bench", *words, "a b"])
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", *words, "--json", "--record"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    table = kept(options.FOLDER)
    assert len({row["id"] for row in table}) == len(table) == ids
    for row, shown in zip(table, printed, strict=True):
        assert row["id"].startswith(f"{words[0]}/")
        assert row["command"] == " ".join(["laconvnet bench", *words, "'a b'"])
        assert {**row, **shown, "versions": 0} == {**row, "versions": 0}
        assert "torch" in row["versions"]
    assert cli.main(["bench", "show", str(options.FOLDER), "--out", "page.md"]) == 0
    text = Path("page.md").read_text()
    assert all(f'/{row["id"]}"></a>' in text for row in table)
    assert cli.main(["bench", "show", str(options.FOLDER)]) == 0
    (file,) = options.FOLDER.iterdir()
    assert cli.main(["bench", "compare", str(file), str(file), "--fail-above", "0"]) == 0


def test_without_the_option_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "infer", *TINY, "--rounds", "1"]) == 0
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["bench", "infer", *TINY, "--record", str(tmp_path / "file")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--record: {tmp_path / 'file'}" in line


def test_what_is_done_is_kept_whole_when_it_is_interrupted(tmp_path: Path) -> None:
    """By Ctrl-C in the middle of a long measurement: whole lines of what was measured, and no other file."""
    command = [sys.executable, "-m", "laconvnet.launch.cli", "bench", "kernel", *TINY, "--quick", "--rounds", "40"]
    place = tmp_path / "kept"
    environment = os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--record", str(place)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # As from a terminal: what starts the tests in the background has it ignored, and processes inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 120
    while not list(place.glob("*")) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert len(list(place.iterdir())) == 1
    table = kept(place)
    assert table
    assert len(table) % 9 == 0, "a layer is kept whole"


def test_shards_are_built_by_both_from_the_same_members(tmp_path: Path) -> None:
    made_up = Building(tmp_path, 8, 32, 1)
    members = []
    for name, write in (("ours", made_up.ours), ("theirs", made_up.theirs)):
        write(tmp_path / name)
        found: dict[str, bytes] = {}
        for tar in sorted((tmp_path / name).glob("*.tar")):
            with tarfile.open(tar) as archive:
                found |= {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]
        members.append(found)
    ours, theirs = members
    assert len(ours) == 16
    assert ours == theirs


def test_rows_of_shards_by_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    order: list[str] = []

    def taking(name: str, seconds: float) -> Any:
        def write(_: Building, out: Path) -> None:
            order.append(name)
            clock[0] += seconds

        return write

    monkeypatch.setattr(
        Building, "__init__", lambda self, *_: setattr(self, "members", [("k", "jpg", Path(__file__), b"")] * 4)
    )
    monkeypatch.setattr(Building, "ours", taking("ours", 0.4))
    monkeypatch.setattr(Building, "theirs", taking("theirs", 0.1))
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    output: list[None] = []
    theirs, ours = building.rows(4, 32, 3, 2, lambda: output.append(None))
    assert order == ["theirs", "ours"] * 3
    assert len(output) == 6
    assert (theirs["name"], ours["name"]) == ("webdataset.ShardWriter", "shards build")
    assert (ours["baseline"], ours["unit"], ours["rounds"]) == ("webdataset.ShardWriter", "ms an image", 2)
    assert (theirs["median"], ours["median"]) == (pytest.approx(25), pytest.approx(100))
    assert ours["ratio"] == pytest.approx(0.25)
    assert ours["pictures_per_s"] == pytest.approx(10)
    assert (ours["pictures"], ours["size"], ours["workers"]) == (4, 32, 3)


def test_a_shard_written_without_decoding_is_that_of_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, dict[str, bytes]] = {}

    def keep(ways: dict[str, Any], *_: Any) -> list[Any]:
        for name, way in ways.items():
            way(tmp_path / name)
            written[name] = {tar.name: tar.read_bytes() for tar in (tmp_path / name).glob("*.tar")}
        return []

    monkeypatch.setattr(writing, "compared", keep)
    writing.pass_through(5, 1, lambda: None)
    writing.decode(5, 1, lambda: None)
    assert len(written["shard writer"]) == 1
    assert written["shard writer"] == written["shards build"]
    assert len(written["webdataset.ShardWriter"]) == 1


def test_a_shard_is_dropped_before_each_reading_and_every_image_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    read: list[int] = []
    sizes: list[int] = []

    def advise(file: int, offset: int, length: int, advice: int) -> None:
        told.append(advice)
        sizes.append(os.fstat(file).st_size)

    def batch(_: Any, samples: Any) -> list[Any]:
        read.extend(samples.tolist())
        return Reader.read(_, samples)

    for kind in (cold.Unannounced, Announced):
        monkeypatch.setattr(kind, "read", batch, raising=False)
    monkeypatch.setattr(cold, "Reader", Announced)
    monkeypatch.setattr(os, "posix_fadvise", advise)
    fetched = iter(range(0, 10**9, 10**6))
    monkeypatch.setattr(cold, "_disk_bytes", lambda: next(fetched))
    rows = cold.rows(33, 1, lambda: None)
    of_round = [os.POSIX_FADV_DONTNEED, *[os.POSIX_FADV_WILLNEED] * 64] * 2 + [os.POSIX_FADV_DONTNEED]
    assert told == of_round * 2
    assert read[:64] == list(range(64)) != read[64:128] == read[128:192]
    assert sorted(read[64:128]) == list(range(64))
    (total,) = {row["picture_bytes"] for row in rows}
    assert [row["from_disk"] for row in rows] == [10**6 / total] * 3
    assert min(sizes) > total, "each image has bytes of its own"


class Announced(Reader):
    """What is measured, where its calls are counted."""


@pytest.mark.parametrize("source", holding.MADE)
def test_annotations_that_are_made_are_read_whole(source: str, tmp_path: Path) -> None:
    root = holding.MADE[source](tmp_path, 3)
    samples = get(source).samples(root, images=None, splits=None, partition=None, with_images=False)
    found = check(samples, root, with_images=False, progress=False)
    assert found.ledger["train"]["expression"]["kept"] == 3 * holding.EACH
    assert len(found.quarantine) == 0


def test_memory_is_what_more_expressions_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "_peak", lambda _, images: 10**6 + 70 * images * holding.EACH)
    rows = list(holding.rows(4000))
    assert [row["source"] for row in rows] == list(holding.MADE)
    assert {(row["median"], row["unit"], row["peak_mb"]) for row in rows} == {(70, "bytes an expression", 1.28)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["infer", "--preset", "huge"], "--preset: 'huge': expected one of tiny"),
        (["infer", "--task", "poetry"], "--task: 'poetry': expected one of "),
        (["infer", "--size", "100"], "--size: expected a multiple of 32, got 100"),
        (["infer", "--batch", "0"], "--batch: 0: expected at least 1"),
        (["bytes", "--rounds", "0"], "--rounds: 0: expected at least 1"),
        (["bytes", "--size", "-32"], "--size: expected a multiple of 32, got -32"),
        (["shards", "--size", "8"], "--size: 8: expected 32 to 1024"),
        (["shards", "--workers", "0"], "--workers: 0: expected at least 1"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("command", ["infer", "bytes"])
def test_no_gpu(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", command, "--device", "cuda"]) == 2
    assert "--device: 'cuda'" in capsys.readouterr().err
