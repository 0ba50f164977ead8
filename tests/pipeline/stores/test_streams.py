"""Training on streams of shards: from a store, from a web server without ranges that breaks off, through kills."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from laconvnet.launch.cli import main
from laconvnet.pipeline.data.examples import Examples, Items
from laconvnet.pipeline.data.streams import Streams
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.format import remote
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.sets.copy import copy
from tests.messages import tells
from tests.pipeline.stores.test_s3 import TINY, assert_the_same_through_a_kill, losses
from tests.pipeline.stores.web import Fault, Handler, Web, busy, other, reset, short
from tests.pipeline.training.ranks import train

STREAMS = ["--data.streams", "4", "--data.window", "6"]


@pytest.fixture
def keys() -> list[str]:
    return ["--config", str(TINY), "--checkpoint.every", "2", "--schedule.epochs", "1.5", *STREAMS]


@pytest.fixture
def served(web: Web, sets: dict[str, Path], tmp_path: Path) -> str:
    shutil.copytree(sets["refcoco"], tmp_path / "served" / "refcoco")
    return f"{web.url}/refcoco"


def images(place: Path | str) -> list[bytes]:
    """All images of an epoch and a half, in the order of the streams."""
    items = Items.of(Examples.open(Path(place), "expression", "train"), 0, 6, 4)
    steps = range(items.plan.epoch_length * 3 // 2 // 8)
    with closing(Streams(items, 8, steps, 0, 1, masks=True, patience=60.0)) as streams:
        found = [streams.read(items.examples.samples(items.step(step, 8, 0, 1))) for step in steps]
    return [image.tobytes() for step in found for image in step]


def test_streams_of_an_s3_store_through_the_kill_of_a_rank(
    bucket: str, sets: dict[str, Path], tmp_path: Path, keys: list[str]
) -> None:
    folder, url = sets["refcoco"], f"{bucket}/refcoco"
    copy(folder, url, progress=False)
    assert_the_same_through_a_kill(tmp_path / "here", tmp_path / "there", keys, str(folder), url)


def test_a_run_keeps_its_streams_and_refuses_a_world_that_they_do_not_divide(
    sets: dict[str, Path], tmp_path: Path, keys: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = [*keys, "--data.folder", str(sets["refcoco"])]
    train(1, run, [*command, "--schedule.epochs", "0.3"])
    assert main(["train", "--run", str(run), *command, "--schedule.epochs", "0.3", "--data.streams", "2"]) == 2
    assert tells(capfd.readouterr().err, "data.streams is 4 in this run but 2 is asked for")
    output = "".join(train(3, tmp_path / "other", [*command, "--data.batch", "12"], expected=2))
    assert "data.streams: 4: expected a multiple of the 3 processes" in output


@pytest.mark.parametrize("fault", [reset, short, busy])
def test_a_stream_that_breaks_off_is_begun_again_without_repeats(
    fault: Fault, web: Web, served: str, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAUSES_SECONDS", (0.01, 0.01))
    Manifest.open(served)
    web.faults += [fault] * 3
    assert images(served) == images(sets["refcoco"])
    assert web.failed == 3


@pytest.mark.parametrize("fault", [reset, short, busy])
def test_one_that_stays_is_told_with_its_shard(
    fault: Fault, web: Web, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAUSES_SECONDS", (0.01, 0.01))
    Manifest.open(served)
    web.faults += [fault] * 10_000
    with pytest.raises(OSError, match=r"failed 3 times, at last: ") as caught:
        images(served)
    assert str(caught.value.filename).startswith(f"{served}/shard-")


def test_other_bytes_are_refused(web: Web, served: str) -> None:
    examples = Examples.open(Path(served), "expression", "train")
    row = int(examples.samples(examples.rows[:1])[0])
    shard, offset = (examples.manifest.sample(row, name) for name in ("shard", "image_offset"))

    def changed(handler: Handler, data: bytes) -> bool:
        return other(handler, data, offset)

    web.of = f"{shard:06}.tar"
    web.faults += [changed] * 4
    with pytest.raises(ConfigError, match=rf"{served}/shard-.* at offset {offset}: the bytes are not those that were"):
        images(served)


def test_a_server_without_ranges_is_trained_from(
    web: Web, served: str, sets: dict[str, Path], tmp_path: Path, keys: list[str]
) -> None:
    web.ranges = False
    web.faults += [reset] * 2
    keys += ["--schedule.epochs", "0.6"]
    train(1, tmp_path / "here", [*keys, "--data.folder", str(sets["refcoco"])])
    train(1, tmp_path / "there", [*keys, "--data.folder", served])
    assert web.failed == 2
    assert losses(tmp_path / "there") == losses(tmp_path / "here")
    assert len(losses(tmp_path / "here")) > 3
    assert json.loads((tmp_path / "there" / "log.jsonl").read_text().splitlines()[0])["step"] == 1
