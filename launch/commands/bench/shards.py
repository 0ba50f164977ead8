"""`laconvnet bench shards`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_args

from laconvnet.launch.commandline import Arg, JsonLines
from laconvnet.launch.commands.bench.measured import Measured
from laconvnet.launch.commands.bench.options import Record
from laconvnet.launch.commands.bench.progress import bar
from laconvnet.pipeline.errors import ConfigError

Part = Literal["build", "pass-through", "decode", "small", "reads", "memory"]


def shards(
    *,
    part: Annotated[Sequence[Part], Arg("what to measure (default: all)")] = get_args(Part),
    pictures: Annotated[int, Arg("images of a set", "N", at_least=1)] = 1000,
    size: Annotated[int, Arg("side of an image of the part build", "N")] = 256,
    workers: Annotated[int, Arg("processes of the building", "N", at_least=1)] = 1,
    expressions: Annotated[int, Arg("of the annotations of the part memory", "N", at_least=40)] = 400_000,
    rounds: Annotated[int | None, Arg("sets each way writes (default: 7)", "N", at_least=1)] = None,
    quick: Annotated[bool, Arg("3 rounds")] = False,
    json: JsonLines = False,
    record: Record = None,
) -> None:
    """Building shards against webdataset's writer, and its parts.

    Time the building of shards, and reading from them, in parts:
      build         `laconvnet shards build refcoco` on images generated for it, beside webdataset.ShardWriter (the
                    baseline), which writes the same images and JSON texts. The building also reads the annotations,
                    decodes and checks every image, sums every member and writes index and manifest, synced to the
                    disk; the baseline reads the image files and is given texts made before, in one process
      pass-through  the same writer beside that of a shard alone, which decodes nothing: both sync what they write
      decode        a build beside its own decoder on the same files (the baseline), both in one process
      small         a set of 60 images, one shard, by one worker (the baseline) and by several: --workers, at least 2
      reads         every image once, in batches of 32, with two threads, from a shard that the system was asked to drop
                    from its memory: in the order of a plan beside that of the shard (the baseline)
      memory        bytes an expression in the process that reads the annotations, between half of --expressions and
                    all, and its peak
    The images of pass-through, decode, small and reads are of 640x480 and as many bytes as photographs. Ways take
    turns. A row tells the median over rounds in ms an image, the distance of the quartiles, the ratio (baseline's
    median / median), images a second, and what the process computed (cpu_ms). Sets are written in the folder of
    temporary files (TMPDIR).

    For example:
      laconvnet bench shards --quick
    """
    if not 32 <= size <= 1024:
        raise ConfigError(f"command line: --size: {size}: expected 32 to 1024")
    with Measured(json, record) as measured:
        try:
            from laconvnet.launch.commands.bench import building, cold, holding, writing
        except ModuleNotFoundError as error:
            what = f"needs {error.name}, not installed here; pip install {error.name}"
            raise ConfigError(f"bench shards: {what}") from error
        rounds = rounds or (3 if quick else 7)
        with bar(desc="bench shards", unit="set") as progress:
            done = progress.update
            parts: dict[Part, Callable[[], Any]] = {
                "build": lambda: building.rows(pictures, size, workers, rounds, done),
                "pass-through": lambda: writing.pass_through(pictures, rounds, done),
                "decode": lambda: writing.decode(pictures, rounds, done),
                "small": lambda: writing.small(max(workers, 2), rounds, done),
                "reads": lambda: cold.rows(pictures, rounds, done),
                "memory": lambda: holding.rows(expressions),
            }
            for name in part:
                measured.add(list(parts[name]()))
