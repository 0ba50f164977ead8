"""`laconvnet bench data`."""

from __future__ import annotations

from typing import Annotated

from laconvnet.launch.commandline import Arg, JsonLines
from laconvnet.launch.commands.bench.measured import Measured
from laconvnet.launch.commands.bench.options import Record, device_of
from laconvnet.launch.commands.bench.progress import bar


def data(
    *,
    pictures: Annotated[int, Arg("images of a batch", "N", at_least=1)] = 16,
    threads: Annotated[int, Arg("threads that read and decode", "N", at_least=1)] = 2,
    rounds: Annotated[int, Arg("times each way runs", "N", at_least=1)] = 9,
    json: JsonLines = False,
    record: Record = None,
) -> None:
    """Decoding, loading, reading and seeking.

    Time the way of the images on this machine: decoding and letterboxing 640x480 JPEGs to 416 from memory, in
    several formulations, each with its error against an exact one; the whole loader against that; an epoch of 512
    images out of shards on disk, each by its place and in streams of webdataset; finding a position in 1e9 samples;
    and the first batch of a set of 1e6. Rows tell the median over interleaved rounds and the distance of the
    quartiles; the ratio is the baseline's median by the row's.

    For example:
      laconvnet bench data --pictures 200
    """
    from laconvnet.pipeline.bench import data as bench

    with Measured(json, record) as measured:
        parts = bench.rows(device_of(None), pictures, threads, rounds)
        for found in bar(parts, total=5, desc="bench", unit="part"):
            measured.add(found)
