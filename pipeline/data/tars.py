"""Samples of a shard that is read from its begin on, once, by webdataset: for stores that give no ranges."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, BinaryIO, cast

from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.format.manifest import Shard

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\x5d\x00\x00\x80", b"\xfd7zXZ")  # which tarfile would unpack

_FACTS = 2  # of a sample beside its members: __key__ and __url__

Sample = dict[str, Any]  # as webdataset has it: __key__, and the bytes of each member by its ending


def samples(shard: Shard, names: dict[str, list[str]], stop: int) -> Iterator[Sample]:
    """The samples with these keys, in the order of the shard; ``names`` are their members that are wanted.

    No byte from ``stop`` on is read. Where the store breaks off, the shard is begun again, and goes on behind the last
    sample that was given.

    Raises OSError, naming the shard, where a store fails again and again without a further sample, and ConfigError for
    a shard on this machine that is damaged.
    """
    left = dict(names)
    pauses = iter(shard.pauses)
    while left:
        try:
            with closing(shard.open()) as stream:
                for sample in _read(stream, stop, {name for members in left.values() for name in members}):
                    if len(sample) - _FACTS == len(left.get(sample["__key__"], ())):
                        del left[sample["__key__"]]
                        yield sample
                        pauses = iter(shard.pauses)
            fault: Exception = tarfile.ReadError(f"{len(left)} samples are not in it, or not whole")
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # each store has its own
            fault = error
        if left:
            _wait(shard, fault, pauses)


def _wait(shard: Shard, fault: Exception, pauses: Iterator[float]) -> None:
    """Before the shard is begun again; raises where that is of no use."""
    what = str(fault.args[0]) if fault.args else ""  # webdataset adds its objects to what was said
    if shard.store is None:
        if not isinstance(fault, tarfile.TarError | ValueError):
            raise fault
        raise ConfigError(
            f"{shard}: {what}; the shard is not the one that was written: run `laconvnet shards verify "
            f"{shard.folder} --full` and build the set again"
        ) from fault
    if (pause := next(pauses, None)) is None:
        raise shard.failed(f"{type(fault).__name__}: {what}") from fault
    time.sleep(pause)


def _read(stream: BinaryIO, stop: int, wanted: set[str]) -> Iterator[Sample]:
    import webdataset  # late: what is indexed trains where it is not installed
    from webdataset import tariterators
    from webdataset.filters import pipelinefilter

    expand = cast(Callable[..., Any], pipelinefilter(tariterators.tar_file_expander))
    group = cast(Callable[..., Any], pipelinefilter(tariterators.group_by_keys))
    source = {"url": "", "stream": _Plain(stream, stop)}
    return iter(
        webdataset.DataPipeline(lambda: iter([source]), expand(select_files=wanted.__contains__), group(lcase=False))
    )


class _Plain:
    """So many bytes of a stream, which has to be a tar as it is: unpacked it might be of any size."""

    def __init__(self, stream: BinaryIO, stop: int) -> None:
        self._stream, self._at, self._stop = stream, 0, stop

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, none at the end; raises ReadError where that comes too early."""
        data = self._stream.read(min(size, self._stop - self._at))
        if not data and self._at < self._stop:
            raise tarfile.ReadError(f"it ends after {self._at} of {self._stop} bytes")
        if not self._at and data.startswith(_COMPRESSED):
            raise tarfile.ReadError("it is compressed, expected a plain tar")
        self._at += len(data)
        return data

    def __str__(self) -> str:
        return f"byte {self._at}"  # webdataset puts it behind what was wrong
