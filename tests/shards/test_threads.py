"""Images looked at by several threads: in order, not too far ahead, nobody's warnings heard, and the same bytes."""

from __future__ import annotations

import threading
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from laconvnet.images import opened
from laconvnet.shards.build import examine
from laconvnet.shards.build.builder import build
from laconvnet.shards.build.images import read_image_file
from laconvnet.shards.build.threads import in_order
from tests.package.test_images import encoded
from tests.shards.test_build import ARGS, hashes, toy

_SECONDS = 60  # a step that another thread must take; it never comes to that


def test_results_come_in_order_from_several_threads_at_once() -> None:
    together = threading.Barrier(3, timeout=_SECONDS)

    def make(number: int) -> int:
        together.wait()  # all three are at work, or this breaks
        time.sleep(0.01 * (3 - number % 3))
        return number

    assert list(in_order(make, range(9), 3)) == list(range(9))


@pytest.mark.parametrize(("threads", "most"), [(1, 1), (3, 6)])
def test_so_many_results_are_made_ahead(threads: int, most: int) -> None:
    begun: list[int] = []
    with closing(in_order(begun.append, range(100), threads)) as results:
        next(results)
    assert len(begun) <= most


def test_the_first_exception_is_raised_and_the_rest_is_left() -> None:
    begun: list[int] = []

    def make(number: int) -> int:
        begun.append(number)
        if number >= 4:
            raise OSError(number)
        return number

    results = in_order(make, range(100), 2)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="4"):
        next(results)
    assert len(begun) <= 8
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("image")] == []


def test_a_thread_that_is_done_with_its_image_does_not_let_the_warnings_of_others_be_heard() -> None:
    """What `warnings.catch_warnings` puts back is for all threads."""
    first_opened, second_opened, first_closed = (threading.Event() for _ in range(3))
    data = encoded()

    def make(number: int) -> None:
        if number == 0:
            with opened(data):
                first_opened.set()
                assert second_opened.wait(_SECONDS)
            first_closed.set()
        else:
            assert first_opened.wait(_SECONDS)
            with opened(data):
                second_opened.set()
                assert first_closed.wait(_SECONDS)
                warnings.warn("a decoder's", stacklevel=1)

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        assert list(in_order(make, range(2), 2)) == [None, None]
        assert warnings.filters == before
    assert heard == []


@pytest.mark.parametrize("shard_bytes", [10**6, 12_000], ids=["one shard", "fewer shards than workers"])
def test_the_bytes_are_those_of_one_worker(tmp_path: Path, shard_bytes: int) -> None:
    samples = toy(tmp_path / "pictures")
    build(samples, tmp_path / "alone", **ARGS, shard_bytes=shard_bytes)
    build(samples, tmp_path / "several", **ARGS, shard_bytes=shard_bytes, workers=5)
    assert hashes(tmp_path / "several") == hashes(tmp_path / "alone")


def test_the_images_of_one_shard_are_looked_at_by_all_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = toy(tmp_path / "pictures")[:4]
    together = threading.Barrier(4, timeout=_SECONDS)

    def at_once(*arguments: Any) -> Any:
        together.wait()
        return read_image_file(*arguments)

    monkeypatch.setattr(examine, "read_image_file", at_once)
    assert len(build(samples, tmp_path / "out", **ARGS, workers=4).samples) == 4
