"""The tasks of an array look at each image once between them; what they tell each other decides no byte of a set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from PIL import Image

from laconvnet.shards.build import construction
from laconvnet.shards.build import sizes as module
from laconvnet.shards.build.builder import build, build_task
from laconvnet.shards.build.sizes import forget, looked_up, shared
from laconvnet.shards.format.raw import RawSample
from tests.shards.test_build import ARGS, hashes, toy

COUNT, MISSING, TASKS = 40, 7, 4


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RawSample]:
    """Forty images of differing sizes, one broken and one missing; seven make a block."""
    monkeypatch.setattr(module, "BLOCK", 7)
    return toy(tmp_path / "pictures", COUNT)


@pytest.fixture
def looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the file system was asked about each image."""
    found: Counter[str] = Counter()
    ask = os.stat

    def counted(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if isinstance(path, str | Path) and Path(path).parent == tmp_path / "pictures":
            found[Path(path).name] += 1
        return ask(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", counted)
    return found


def stream(samples: list[RawSample]) -> Iterator[RawSample]:
    """As a source gives them: once."""
    yield from samples


def run_tasks(samples: list[RawSample], out: Path, tasks: int = TASKS) -> None:
    for number in range(1, tasks + 1):
        build_task(stream(samples), out, **ARGS, shard_bytes=3000, task=(number, tasks))


def test_the_tasks_of_an_array_look_at_each_image_once_and_the_build_once_more(
    samples: list[RawSample], looks: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, once = tmp_path / "out", {f"{number}.jpg": 1 for number in range(COUNT)}
    run_tasks(samples, out)
    missing = {f"{MISSING}.jpg": TASKS}  # it may have come since
    assert looks == {**once, **missing}
    looks.clear()
    build(stream(samples), out, **ARGS, shard_bytes=3000)
    assert looks == once
    build(stream(samples), tmp_path / "whole", **ARGS, shard_bytes=3000)
    assert hashes(out) == hashes(tmp_path / "whole")
    assert not (out / "parts").exists()
    # The control: without notes each task looks at all.
    looks.clear()
    monkeypatch.setattr(module, "publish_bytes", lambda *_: None)
    run_tasks(samples, tmp_path / "alone")
    assert looks == dict.fromkeys(once, TASKS)


def test_tasks_that_look_at_once_find_the_same_sizes(samples: list[RawSample], tmp_path: Path) -> None:
    barrier = Barrier(TASKS)

    def task(number: int) -> None:
        barrier.wait()
        for _, size in shared(stream(samples), tmp_path / "notes"):
            sizes[number].append(size)

    (tmp_path / "notes").mkdir()
    sizes: list[list[int | str]] = [[] for _ in range(TASKS)]
    threads = [Thread(target=task, args=(number,)) for number in range(TASKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [[size for _, size in looked_up(samples)]] * TASKS
    assert sorted(path.name for path in (tmp_path / "notes").iterdir()) == [f".sizes-{n:06d}" for n in range(6)]
    forget(tmp_path / "notes")
    assert not list((tmp_path / "notes").iterdir())


def test_images_that_changed_after_the_first_look_are_in_the_set_as_they_are(
    samples: list[RawSample], tmp_path: Path, looks: Counter[str]
) -> None:
    """One before any task wrote it, one that was missing, one that another task had written: the cut moves."""
    out = tmp_path / "out"
    build_task(stream(samples), out, **ARGS, shard_bytes=3000, task=(1, 2))
    for number, side in ((2, 60), (MISSING, 31), (30, 200), (31, 1)):
        Image.effect_noise((32, 24 + number), side).convert("RGB").save(samples[number].image)
    build_task(stream(samples), out, **ARGS, shard_bytes=3000, task=(2, 2))
    looks.clear()
    assert len(build(stream(samples), out, **ARGS, shard_bytes=3000).samples) == COUNT - 1
    assert set(looks.values()) == {1}
    build(stream(samples), tmp_path / "whole", **ARGS, shard_bytes=3000)
    assert hashes(out) == hashes(tmp_path / "whole")


def test_an_image_that_came_is_seen_by_the_next_task(samples: list[RawSample], tmp_path: Path) -> None:
    """As where somebody forgot to mount the images and then starts the tasks again."""
    known = {sample.image: sample.image.read_bytes() for sample in samples if sample.image.exists()}
    for image in known:
        image.unlink()
    (tmp_path / "notes").mkdir()
    assert {type(size) for _, size in shared(samples, tmp_path / "notes")} == {str}
    for image, data in known.items():
        image.write_bytes(data)
    found = list(shared(samples, tmp_path / "notes"))
    assert found == list(looked_up(samples))
    assert sum(isinstance(size, int) for _, size in found) == COUNT - 1


@pytest.mark.parametrize("change", ["cut", "bit", "other images", "empty"])
def test_notes_that_are_not_of_these_images_are_not_believed(
    samples: list[RawSample], tmp_path: Path, change: str
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    list(shared(samples[::-1] if change == "other images" else samples, notes))
    file = notes / ".sizes-000001"
    data = bytearray(file.read_bytes())
    data[-8] ^= change == "bit"
    file.write_bytes({"cut": bytes(data[:-8]), "empty": b""}.get(change, bytes(data)))
    assert list(shared(samples, notes)) == list(looked_up(samples))
    again = file.read_bytes()
    list(shared(samples, notes))
    assert file.read_bytes() == again != bytes(data) or change in ("cut", "empty")


def test_a_build_begins_with_a_look_of_its_own(
    samples: list[RawSample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tasks have noted is gone before it asks for the first sample; so it is where it ends by an error."""
    out = tmp_path / "out"
    run_tasks(samples, out)
    assert list((out / "parts").glob(".sizes-*"))

    def looking() -> Iterator[RawSample]:
        assert not list((out / "parts").glob(".sizes-*"))
        yield from samples[:9]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(looking(), out, **ARGS, shard_bytes=3000)
    run_tasks(samples, out)
    killed = tmp_path / "killed"
    run_tasks(samples, killed)
    with monkeypatch.context() as patch:
        patch.setattr(
            construction, "forget", lambda _: None
        )  # as a kill between the manifest and the tidying leaves it
        patch.setattr(construction, "_remove_parts", lambda _: None)
        build(stream(samples), killed, **ARGS, shard_bytes=3000)
    assert list((killed / "parts").glob(".sizes-*"))
    build(stream(samples), killed, **ARGS, shard_bytes=3000)
    assert not (killed / "parts").exists()
