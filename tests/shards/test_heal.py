"""A finished set and the same command again: what has come since is taken in, and nothing is lost on the way."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from laconvnet import images
from laconvnet.launch.cli import main
from laconvnet.shards.build import builder, construction
from laconvnet.shards.build.brake import Brake
from laconvnet.shards.build.heal import build_or_heal
from laconvnet.shards.build.join import join_parts
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.raw import RawSample, Samples
from laconvnet.shards.sets.verify import verify
from tests.messages import tells
from tests.shards.faulty import REFS, ref, refer
from tests.shards.test_build import ARGS, hashes, quarantine, toy

GIVEN: dict[str, Any] = ARGS | {"shard_bytes": 3000}
State = dict[str, tuple[int, int]]


class Toy:
    """The toy data set: picture 5 is broken, picture 7 is missing, and all others are in ``out``."""

    def __init__(self, folder: Path) -> None:
        self.samples, self.out = toy(folder / "pictures"), folder / "out"
        self.whole = folder / "whole"
        self.run()

    def read(self) -> Samples:
        return Samples(self.samples, len(self.samples))

    def run(self, out: Path | None = None, **options: Any) -> Manifest:
        return build_or_heal(self.read, out or self.out, **GIVEN | options)

    def draw(self, number: int) -> None:
        Image.new("RGB", (32, 24 + number), (number, 0, 0)).save(self.samples[number].image)

    def state(self) -> State:
        return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in self.out.iterdir()}

    def keys(self) -> set[str]:
        return set(Manifest.open(self.out).samples["key"].to_pylist())

    def is_as_if_built_at_once(self) -> bool:
        shutil.rmtree(self.whole, ignore_errors=True)
        self.run(self.whole)
        return hashes(self.out) == hashes(self.whole)


@pytest.fixture
def made(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def test_a_picture_that_comes_later_is_taken_in(made: Toy, caplog: pytest.LogCaptureFixture) -> None:
    made.draw(7)
    assert "toy-7" in made.run().samples["key"].to_pylist()
    assert tells(caplog.text, str(made.out), "1 pictures that were lost can be used now")
    assert made.is_as_if_built_at_once()


def test_with_nothing_new_nothing_is_written(made: Toy, caplog: pytest.LogCaptureFixture) -> None:
    before = made.state()
    caplog.clear()
    assert len(made.run().samples) == 10
    assert made.state() == before
    assert "MORE THAN 1 % IS LOST" in caplog.text


def test_a_broken_picture_is_tried_again_where_its_file_changed(made: Toy, caplog: pytest.LogCaptureFixture) -> None:
    before = made.state()
    made.samples[5].image.touch()
    made.run()
    assert made.state() == before
    assert tells(caplog.text, "1 lost pictures were tried again", "5.jpg: cannot be decoded")
    made.draw(5)
    os.utime(made.samples[5].image, (0, 0))  # as a copy that keeps the time of its original
    made.run()
    assert [row["key"] for row in quarantine(made.out)] == ["toy-7"]
    assert made.is_as_if_built_at_once()


def test_a_picture_of_the_set_that_is_another_now_is_taken_in(made: Toy, caplog: pytest.LogCaptureFixture) -> None:
    before = made.state()
    made.samples[3].image.touch()
    made.run()
    assert made.state() == before, "younger, and the same bytes"
    data = made.samples[3].image.read_bytes()
    made.samples[3].image.write_bytes(data[:-20] + bytes(18) + data[-2:])  # of the same size
    made.run()
    assert tells(caplog.text, "1 of the set have changed")
    assert made.is_as_if_built_at_once()
    made.draw(4)
    os.utime(made.samples[4].image, (0, 0))
    made.run()
    assert made.is_as_if_built_at_once()


def test_one_of_another_size_than_annotated_is_no_gain(made: Toy) -> None:
    before = made.state()
    Image.new("RGB", (9, 9)).save(made.samples[7].image)
    made.run()
    assert made.state() == before


def test_quarantined_pictures_are_tried_again_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(images, "MAX_PIXELS", 32 * 30)
        made = Toy(tmp_path)
    assert len(made.keys()) == 6
    made.run()
    assert len(made.keys()) == 6
    made.run(retry=True)
    assert len(made.keys()) == 10
    assert made.is_as_if_built_at_once()


def test_pictures_whose_files_are_gone_stay_in_the_set(made: Toy) -> None:
    before = made.state()
    made.samples[2].image.unlink()
    made.run()
    assert made.state() == before
    made.draw(7)
    with pytest.raises(InputError) as caught:
        made.run()
    assert tells(str(caught.value), "1 that are in it are gone or broken", "2.jpg", "would lose")
    assert made.state() == before


def test_a_picture_of_the_set_that_is_broken_now_stays_in_it(made: Toy) -> None:
    before = made.state()
    made.samples[2].image.write_bytes(b"damaged")
    made.run()
    assert made.state() == before
    made.draw(7)
    with pytest.raises(InputError, match=r"2.jpg: building again would lose"):
        made.run()


def other_text(samples: list[RawSample]) -> list[RawSample]:
    question = dataclasses.replace(samples[3].record.questions[0], text="how many now?")
    record = dataclasses.replace(samples[3].record, questions=(question,))
    return [*samples[:3], dataclasses.replace(samples[3], record=record), *samples[4:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_text, "what they tell of toy-3 differs"),
        (lambda samples: samples[:-1], "tell nothing of toy-11"),
        (lambda samples: [samples[1], samples[0], *samples[2:]], "toy-1, which the set does not know at this place"),
    ],
)
def test_other_annotations_are_refused(made: Toy, change: Callable[[Any], Any], message: str) -> None:
    before = made.state()
    made.samples = change(made.samples)
    with pytest.raises(InputError, match=message):
        made.run()
    assert made.state() == before


def test_entries_of_the_annotations_that_are_gone_are_noticed_by_their_number(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = refer(tmp_path / "root", [*REFS, ref(4, 3, ann_id=99)])  # without its annotation
    command = ["shards", "build", "refcoco", "--root", str(root), "--images", str(root / "images")]
    command += ["--out", str(tmp_path / "out")]
    assert main(command) == 0
    shutil.rmtree(root)
    refer(root, REFS)
    capfd.readouterr()
    assert main(command) == 2
    assert tells(capfd.readouterr().err, "2 box entries of split train", "from 3", "delete that folder")


def test_the_brake_holds_before_the_old_set_is_replaced(made: Toy) -> None:
    before = made.state()
    made.draw(7)
    with pytest.raises(InputError, match="--strict"):
        made.run(brake=Brake(strict=True))
    assert {name: state for name, state in made.state().items() if name != "again"} == before
    assert verify(made.out, full=True)
    first = (made.out / "again" / "shard-000000.tar").stat().st_ino
    made.run()
    assert (made.out / "shard-000000.tar").stat().st_ino == first, "what was written is not written again"
    assert made.is_as_if_built_at_once()


def test_interrupted_it_leaves_the_old_set_and_goes_on(made: Toy) -> None:
    before, samples = made.state(), made.samples
    made.draw(7)
    reads = 0

    def stopped() -> Samples:
        nonlocal reads
        reads += 1
        return Samples(interrupted(samples), 12) if reads == 2 else Samples(samples, 12)

    with pytest.raises(KeyboardInterrupt):
        build_or_heal(stopped, made.out, **GIVEN)
    assert {name: state for name, state in made.state().items() if name != "again"} == before
    assert verify(made.out, full=True)
    made.run()
    assert made.is_as_if_built_at_once()


def interrupted(samples: list[RawSample]) -> Iterator[RawSample]:
    yield from samples[:9]
    raise KeyboardInterrupt


def test_what_was_broken_off_goes_where_there_is_no_gain_any_more(made: Toy) -> None:
    before = made.state()
    made.draw(7)
    with pytest.raises(InputError, match="--strict"):
        made.run(brake=Brake(strict=True))
    made.samples[7].image.unlink()
    made.run()
    assert made.state() == before


class Killed(BaseException):
    """In the place of a SIGKILL: nothing of this program catches it."""


@pytest.mark.parametrize("at", range(1, 14))
def test_killed_while_the_new_takes_the_place_of_the_old(made: Toy, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """At each call that changes the folder; the set of before has a shard more, which must go."""
    made.draw(7)
    for number in range(8):
        made.draw(number)  # one colour: much smaller than noise
    calls = 0

    def dies(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise Killed
            return call(*arguments, **options)

        return called

    with monkeypatch.context() as patch:
        move = construction._move

        def moved(again: Path, out: Path) -> None:
            with monkeypatch.context() as inner:
                inner.setattr(os, "replace", dies(os.replace))
                inner.setattr(Path, "unlink", dies(Path.unlink))
                inner.setattr(Path, "rmdir", dies(Path.rmdir))
                move(again, out)

        patch.setattr(construction, "_move", moved)
        with pytest.raises(Killed):
            made.run()
    if not (made.out / "manifest.parquet").exists():
        with pytest.raises(InputError, match="left unfinished; run the same build command again"):
            Manifest.open(made.out)
    made.run()
    assert made.is_as_if_built_at_once()


def test_two_at_once_are_refused(made: Toy) -> None:
    made.draw(7)
    reads = 0

    def nested() -> Samples:
        nonlocal reads
        reads += 1
        if reads == 2:
            with pytest.raises(InputError, match="another build is writing here"):
                made.run()
        return made.read()

    build_or_heal(nested, made.out, **GIVEN)
    assert made.is_as_if_built_at_once()


def test_the_command_takes_in_what_has_come(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = refer(tmp_path / "root", REFS)
    (root / "images" / "2.jpg").rename(tmp_path / "2.jpg")
    out = tmp_path / "out"
    source = ["shards", "build", "refcoco", "--root", str(root), "--images", str(root / "images")]
    command = [*source, "--out", str(out), "--json"]
    assert main(command) == 0
    assert json.loads(capfd.readouterr().out)["samples"] == 2
    (tmp_path / "2.jpg").rename(root / "images" / "2.jpg")
    assert main([*command, "--strict"]) == 0
    counted = json.loads(capfd.readouterr().out)
    assert (counted["samples"], counted["quarantined"]) == (3, 0)
    assert main([*source, "--out", str(tmp_path / "whole")]) == 0
    assert hashes(out) == hashes(tmp_path / "whole")


def test_a_set_of_before_the_ledger_is_returned_as_it_is(
    made: Toy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = made.state()
    made.draw(7)
    old = Manifest.open(made.out)
    del old.meta["ledger"]
    monkeypatch.setattr(Manifest, "open", lambda *_: old)
    with caplog.at_level(logging.WARNING):
        assert made.run() is old
    assert made.state() == before
    assert "before there was a ledger" in caplog.text


def test_one_that_became_whole_while_the_set_was_built_is_taken_in(
    made: Toy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(made.out)
    with monkeypatch.context() as patch:
        join = join_parts

        def comes(*arguments: Any, **options: Any) -> None:
            made.draw(5)  # it was read, and the set is not there yet
            data = made.samples[3].image.read_bytes()
            made.samples[3].image.write_bytes(data[:-20] + bytes(18) + data[-2:])  # of the same size
            time.sleep(0.05)  # times of files are those of the kernel's last tick
            join(*arguments, **options)

        patch.setattr(builder, "join_parts", comes)
        made.run()
    made.run()
    assert tells(caplog.text, "1 pictures that were lost can be used now and 1 of the set have changed")
    assert made.is_as_if_built_at_once()


def test_a_set_that_was_copied_takes_in_what_had_come_before(made: Toy) -> None:
    made.draw(5)
    os.utime(made.samples[5].image, (0, 0))
    time.sleep(0.05)
    copied = made.out.with_name("copied")
    shutil.copytree(made.out, copied, copy_function=shutil.copyfile)  # with times of its own
    made.run(copied)
    assert "toy-5" in Manifest.open(copied).samples["key"].to_pylist()


def test_a_picture_of_which_nothing_is_left_is_no_gain(made: Toy, caplog: pytest.LogCaptureFixture) -> None:
    outside = dataclasses.replace(made.samples[5].record.regions[0], boxes=((900.0, 900.0, 5.0, 5.0),))
    record = dataclasses.replace(made.samples[5].record, questions=(), regions=(outside,))
    made.samples[5] = dataclasses.replace(made.samples[5], record=record)
    made.run(made.whole)
    made.out = made.whole
    before = made.state()
    made.draw(5)
    made.run()
    assert made.state() == before
    assert tells(caplog.text, "1 lost pictures were tried again", "nothing of it is left in train")


def test_two_pictures_of_one_key_are_told_apart(tmp_path: Path) -> None:
    """Of which the first is missing, so that the set has the second."""
    samples = toy(tmp_path / "pictures")
    for number, id in ((7, "a/b"), (8, "a_b")):
        record = dataclasses.replace(samples[number].record, picture_id=id)
        samples[number] = dataclasses.replace(samples[number], record=record)
    out = tmp_path / "out"
    for _ in range(2):
        made = build_or_heal(lambda: Samples(samples, 12), out, **GIVEN)
        assert {"toy-a_b", "toy-6", "toy-9"} <= set(made.samples["key"].to_pylist())


def test_what_is_gone_or_broken_is_told(made: Toy, caplog: pytest.LogCaptureFixture) -> None:
    made.samples[2].image.unlink()
    made.samples[3].image.write_bytes(b"damaged")
    made.run()
    assert tells(caplog.text, "2 pictures that are in it are gone or broken", "2.jpg", "keeps these")


def test_a_command_that_begins_while_the_new_takes_its_place_waits_for_it(
    made: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would move the files: the second to come would remove the manifest of the first."""
    made.draw(7)
    move = construction._move

    def moved(again: Path, out: Path) -> None:
        with monkeypatch.context() as inner:
            inner.setattr(construction, "_move", move)
            with pytest.raises(InputError, match="another build is writing here"):
                construction.put_in_place(out)
        move(again, out)

    with monkeypatch.context() as patch:
        patch.setattr(construction, "_move", moved)
        made.run()
    assert made.is_as_if_built_at_once()


def test_a_link_in_the_place_of_the_new_set_is_refused(made: Toy, tmp_path: Path) -> None:
    before = made.state()
    (tmp_path / "elsewhere").mkdir()
    (made.out / "again").symlink_to(tmp_path / "elsewhere")
    made.draw(7)
    with pytest.raises(InputError, match="again: a link, expected a folder"):
        made.run()
    (made.out / "again").unlink()
    assert made.state() == before
