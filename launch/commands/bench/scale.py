"""`laconvnet bench scale`: a large run, simulated on this machine."""

from __future__ import annotations

from typing import Annotated

from laconvnet.launch.commandline import Arg, JsonLines
from laconvnet.launch.commands.bench.measured import Measured
from laconvnet.launch.commands.bench.options import Record
from laconvnet.launch.commands.bench.progress import bar
from laconvnet.pipeline.errors import ConfigError


def scale(
    *,
    samples: Annotated[float, Arg("of the set (default: 1e9)", "N")] = 1e9,
    ranks: Annotated[int, Arg("of the largest world", "N", at_least=1)] = 512,
    share: Annotated[int, Arg("samples of a rank's step", "N", at_least=1)] = 16,
    window: Annotated[float, Arg("data.window (default: 1e6)", "N", at_least=1)] = 1e6,
    shard_bytes: Annotated[int, Arg("(default: 256 MiB)", "N", at_least=1)] = 256 * 2**20,
    rate: Annotated[float, Arg("of writing (default: 1)", "GB/s")] = 1.0,
    rounds: Annotated[int, Arg("times what is timed runs", "N", at_least=1)] = 5,
    json: JsonLines = False,
    record: Record = None,
) -> int:
    """A large run's order, reads, state and start, simulated.

    Simulate a run of many ranks over very many samples on this machine, from its plan alone; no data is needed.
      ids         time and memory to find the samples of a rank's step, whatever stands before
      exact       samples shown twice, or by no rank, in steps of the run and in a whole small epoch: all must be 0
      reads       what 1,000 steps of a rank and of a node of 8 read: shards, files opened with 512 kept open, bytes,
                  bytes in blocks of 1 MiB; how many shards a step reads, and how often the hottest. Shard after shard
                  is what a stream of tar files would read
      epoch       shards that one rank reads in an epoch
      tables      the manifest: what the processes of a node map, one copy, and what each holds for itself
      checkpoint  its parts, its writing at --rate and here, its reading when all ranks resume
      start       files that a rank of a small run of two opens until its first step is done: Python's own and shared
                  libraries; of a mapped table its whole size; what C++ reads by itself, such as Parquet, is not seen

    The exit code is 1 where `exact` is not 0. It takes a minute or two.
    """
    from laconvnet.pipeline.bench import scale as bench

    if not 0 < rate < float("inf"):
        raise ConfigError(f"command line: --rate: {rate:g}: expected GB a second, more than 0")
    least = ranks * share * bench.LEAST_STEPS
    if not least <= samples <= 1e12:
        raise ConfigError(
            f"command line: --samples: {samples:g}: expected at least {least:,}, which {ranks} ranks pass over in "
            f"{bench.LEAST_STEPS:,} steps, and at most 1e12"
        )
    simulated = bench.Scale(int(samples), ranks, share, int(window), shard_bytes, rate)
    with Measured(json, record) as measured:
        for found in bar(bench.rows(simulated, rounds), total=len(bench.PARTS), desc="bench", unit="part"):
            measured.add(found)
    return int(any(row["median"] for row in measured.table if row["bench"] == "exact"))
