"""What a start makes of what it finds: damage, a run that has moved, files that are gone, others at work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from laconvnet.pipeline.data.sizes import Sizes
from laconvnet.pipeline.errors import TrainingError
from laconvnet.pipeline.model import draws
from laconvnet.pipeline.runs import checkpoints, owner
from laconvnet.pipeline.training import checkpoint
from laconvnet.shards.format.manifest import EXAMPLES_MAP, Manifest
from tests.pipeline.training.ranks import comes_to, finish, run, start, train

HERE = Path(__file__).parent
KEYS = [
    "--config",
    str(HERE / "tiny.yaml"),
    "--schedule.epochs",
    "0.55",
    "--checkpoint.every",
    "2",
    "--checkpoint.keep",
    "9",
]


def losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(1, folder, [*KEYS, "--data.folder", str(refcoco)])
    assert len(losses(folder)) == 5
    return folder


@pytest.fixture
def stopped(undisturbed: Path, tmp_path: Path) -> Path:
    """The run as it stood after step 4."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000005")
    return folder


def goes_on(folder: Path, undisturbed: Path, data: Path | str, *keys: str) -> str:
    """Start it again; it must end as the undisturbed run did. What it said."""
    (output,) = train(1, folder, [*KEYS, "--data.folder", str(data), *keys])
    assert losses(folder) == losses(undisturbed)
    ends = [checkpoints.read_marker(place / "checkpoints" / "step-00000005") for place in (folder, undisturbed)]
    assert ends[0].files == ends[1].files
    return output


def test_a_damaged_one_is_told_set_aside_and_the_one_before_serves(
    stopped: Path, undisturbed: Path, refcoco: Path
) -> None:
    damaged = stopped / "checkpoints" / "step-00000004"
    flip(damaged / "state.pt")
    before = contents(damaged)
    output = goes_on(stopped, undisturbed, refcoco)
    assert f"{damaged}: damaged, state.pt holds other bytes than were written; set aside as" in output
    assert f"resuming {stopped / 'checkpoints' / 'step-00000002'}" in output
    assert contents(stopped / "checkpoints" / "damaged-step-00000004") == before


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(stopped: Path, refcoco: Path) -> None:
    for place in checkpoints.published(stopped):
        flip(place / "state.pt")
    before = contents(stopped)
    for words in ([], ["--explain-resume"]):
        (output,) = train(1, stopped, [*KEYS, "--data.folder", str(refcoco), *words], expected=2)
        assert "none of its checkpoints is whole (step-00000004: state.pt" in output
        assert "step-00000002: state.pt" in output
        assert "Traceback" not in output
    assert contents(stopped) == before


_STALE = """
import errno, os, sys
from laconvnet import files
from laconvnet.launch import cli
listed, files._PAUSES_SECONDS = os.listdir, (0.0,)
def stale(path="."):
    if str(path).endswith("checkpoints"):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return listed(path)
os.listdir = stale
sys.exit(cli.main(sys.argv[1:]))
"""


def test_checkpoints_that_cannot_be_looked_at_end_the_start_and_lose_nothing(
    stopped: Path, undisturbed: Path, refcoco: Path
) -> None:
    before = contents(stopped)
    command = ["train", "--run", str(stopped), *KEYS, "--data.folder", str(refcoco)]
    (output,) = run(1, ["-c", _STALE, *command], expected=1)
    assert f"laconvnet: {stopped / 'checkpoints'}: {os.strerror(116)}" in output
    assert contents(stopped) == before
    goes_on(stopped, undisturbed, refcoco)


def test_a_configuration_that_is_gone_is_written_again_or_asked_for(
    stopped: Path, undisturbed: Path, refcoco: Path
) -> None:
    file = stopped / "config.yaml"
    before = file.read_text()
    file.unlink()
    (output,) = train(1, stopped, [*KEYS, "--data.folder", str(refcoco), "--seed", "7"], expected=2)
    assert f"{file}: is gone, and step-00000004 was saved under another configuration" in output
    assert not file.exists()
    goes_on(stopped, undisturbed, refcoco)
    assert file.read_text() == before


def test_a_configuration_that_was_edited_is_found_out(stopped: Path, refcoco: Path) -> None:
    file = stopped / "config.yaml"
    file.write_text(file.read_text().replace("seed: 0", "seed: 7"))
    (output,) = train(1, stopped, [*KEYS, "--data.folder", str(refcoco), "--seed", "7"], expected=2)
    assert f"{file}: is not the configuration that step-00000004 was saved under" in output
    command = ["eval", str(stopped), "--data", str(refcoco), "--split", "val"]
    (output,) = run(1, ["-m", "laconvnet.launch.cli", *command], expected=2)
    assert f"{file}: is not the configuration" in output


def test_a_checkpoint_of_a_newer_version_ends_the_start(stopped: Path, refcoco: Path) -> None:
    marker = stopped / "checkpoints" / "step-00000004" / "COMMIT"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"version": 99}))
    before = contents(stopped)
    (output,) = train(1, stopped, [*KEYS, "--data.folder", str(refcoco)], expected=2)
    assert f"{marker}: version 99, expected one of 1, 2" in output
    assert contents(stopped) == before


def test_a_run_of_the_version_before_goes_on(stopped: Path, undisturbed: Path, refcoco: Path) -> None:
    """Its markers do not say which configuration, data and code they are of."""
    for place in checkpoints.published(stopped):
        marker = json.loads((place / "COMMIT").read_text())
        old = {name: marker[name] for name in ("step", "score", "files")}
        (place / "COMMIT").write_text(json.dumps({"version": 1, **old}))
    goes_on(stopped, undisturbed, refcoco)


def test_the_same_set_by_another_path_goes_on_and_another_set_in_its_place_does_not(
    stopped: Path, undisturbed: Path, refcoco: Path, tmp_path: Path, sets: dict[str, Path]
) -> None:
    moved, link = tmp_path / "moved", tmp_path / "link"
    shutil.copytree(refcoco, moved)
    link.symlink_to(moved)
    goes_on(stopped, undisturbed, link)
    shutil.rmtree(stopped / "checkpoints" / "step-00000005")
    goes_on(stopped, undisturbed, f"{os.path.relpath(moved, HERE.parents[2])}/")
    written = (stopped / "config.yaml").read_text()
    assert f"folder: {os.path.relpath(moved, HERE.parents[2])}/" in written
    shutil.rmtree(stopped / "checkpoints" / "step-00000005")
    shutil.rmtree(moved)
    shutil.copytree(sets["refcoco+"], moved)
    (output,) = train(1, stopped, [*KEYS, "--data.folder", str(moved)], expected=2)
    assert f"{moved}: is another build than the one" in output
    assert (stopped / "config.yaml").read_text() == written


def test_a_run_that_is_at_work_is_left_to_its_owner(stopped: Path, undisturbed: Path, refcoco: Path) -> None:
    with owner.take(stopped):
        before = contents(stopped)
        for words in ([], ["--explain-resume"]):
            (output,) = train(1, stopped, [*KEYS, "--data.folder", str(refcoco), *words], expected=2)
            assert f"process {os.getpid()} on" in output
        assert contents(stopped) == before
    goes_on(stopped, undisturbed, refcoco)
    assert not (stopped / "owner.json").exists()


def test_explain_resume_tells_and_changes_nothing(stopped: Path, refcoco: Path) -> None:
    flip(stopped / "checkpoints" / "step-00000004" / "state.pt")
    before = contents(stopped)
    words = ["--data.folder", f"{refcoco}/", "--log.every", "3", "--explain-resume"]
    (output,) = train(1, stopped, [*KEYS, *words])
    for told in (
        "step-00000004: damaged, state.pt",
        "step-00000002: whole",
        f"data.folder: '{refcoco}' -> '{refcoco}/' (may differ)",
        "log.every: 1 -> 3 (may differ)",
        "would set aside step-00000004",
        "would go on from step 2 of 5",
    ):
        assert told in output
    (output,) = train(1, stopped, [*KEYS, *words, "--seed", "1"], expected=2)
    assert "seed: 0 -> 1 (must not differ)" in output
    assert contents(stopped) == before


def test_explain_resume_tells_of_dropout_by_another_rule(stopped: Path, refcoco: Path) -> None:
    words = ["--data.folder", str(refcoco), "--explain-resume"]
    assert "dropout" not in train(1, stopped, [*KEYS, *words])[0]
    newest = checkpoints.resolve(stopped)
    (state, vocabulary), marker = checkpoint.read(newest, checkpoint.RESUMES), checkpoints.read_marker(newest)
    del state["draws"]  # as the versions wrote it that knew no other rule
    checkpoint.save(newest, state, vocabulary, origin=checkpoint.Origin(marker.config, marker.code))
    assert f"dropout: rule 1 -> {draws.VERSION}" in train(1, stopped, [*KEYS, *words])[0]


def test_a_torn_last_line_swallows_no_step(stopped: Path, undisturbed: Path, refcoco: Path) -> None:
    log = stopped / "log.jsonl"
    whole = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(whole[:4]) + whole[4][:20])
    train(1, stopped, [*KEYS, "--data.folder", str(refcoco)])
    rows = []
    for line in log.read_text().splitlines():
        if line.endswith("}"):
            rows.append(json.loads(line)["step"])
    assert rows == [1, 2, 3, 4, 5]


def test_a_terminal_that_goes_away_saves(tmp_path: Path, refcoco: Path) -> None:
    command = ["train", "--run", str(tmp_path / "run"), *KEYS, "--data.folder", str(refcoco)]
    environment = {"WATCHED": str(tmp_path), "STOP_AFTER": "1:SIGHUP"}
    (output,) = finish(start(1, [str(HERE / "watched.py"), *command], **environment), expected=130)
    assert "stopped at step 1 of 5, saved" in output
    assert [place.name for place in checkpoints.published(tmp_path / "run")] == ["step-00000001"]


def test_a_second_ctrl_c_leaves_though_a_peer_hangs_inside_a_collective(tmp_path: Path, refcoco: Path) -> None:
    """Gloo waits in C++, where Python runs no handler."""
    command = [str(HERE / "watched.py"), "train", "--run", str(tmp_path / "run"), *KEYS, "--data.folder", str(refcoco)]
    ranks = start(2, [*command, "--schedule.epochs", "50"], WATCHED=str(tmp_path))
    try:
        assert comes_to(ranks, lambda: (tmp_path / "rank-0.jsonl").exists() and _steps(tmp_path) > 2)
        os.kill(ranks[1].pid, signal.SIGSTOP)
        time.sleep(1)  # now rank 0 waits for it
        for _ in range(2):
            os.kill(ranks[0].pid, signal.SIGINT)
            time.sleep(0.2)
        ranks[0].wait(60)
        assert ranks[0].returncode == 130
        assert "interrupted twice and nothing moved" in ranks[0].output
    finally:
        for rank in ranks:
            rank.kill()


def _steps(place: Path) -> int:
    return (place / "rank-0.jsonl").read_text().count('"loss"')


_SHORT_WATCH = """
import sys
from laconvnet.pipeline.data import sizes
sizes._LOOK_SECONDS = 0.05
sizes.Sizes.__init__.__defaults__ = (0.05,)
sys.argv = sys.argv[1:]
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_table_that_is_cut_off_while_it_is_mapped_ends_the_run_with_a_checkpoint(
    tmp_path: Path, refcoco: Path
) -> None:
    data, place = tmp_path / "set", tmp_path / "run"
    shutil.copytree(refcoco, data)
    file = data / EXAMPLES_MAP
    command = [str(HERE / "watched.py"), "train", "--run", str(place), *KEYS, "--data.folder", str(data)]
    ranks = start(1, ["-c", _SHORT_WATCH, *command, "--schedule.epochs", "50"], WATCHED=str(tmp_path))
    assert comes_to(ranks, lambda: (tmp_path / "rank-0.jsonl").exists() and _steps(tmp_path) > 1)
    os.truncate(file, file.stat().st_size - 1)  # of a page that is still there, so nobody is killed yet
    (output,) = finish(ranks, expected=1)
    assert f"{file}: was cut from" in output
    assert checkpoints.inspect(checkpoints.published(place)[-1]).is_whole


def test_a_table_that_is_replaced_is_none_that_was_cut(tmp_path: Path, refcoco: Path) -> None:
    data = tmp_path / "set"
    shutil.copytree(refcoco, data)
    file = data / EXAMPLES_MAP
    signals: list[int] = []
    with Sizes(Manifest.open(data), signals, 0.02) as sizes:
        (data / "shorter").write_bytes(b"other")
        (data / "shorter").rename(file)
        time.sleep(0.3)
        sizes.check()
    assert signals == []
    shutil.copy(refcoco / EXAMPLES_MAP, file)
    with Sizes(Manifest.open(data), signals, 0.02) as sizes:
        os.truncate(file, 10)
        deadline = time.monotonic() + 20
        while not signals and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(TrainingError, match=f"{file}: was cut from [0-9]+ to 10 bytes"):
            sizes.check()
    assert signals == [signal.SIGTERM]
