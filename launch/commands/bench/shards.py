"""`laconvnet bench shards`."""

from __future__ import annotations

from typing import Annotated

from laconvnet.launch.commandline import Arg, JsonLines
from laconvnet.launch.commands.bench.measured import Measured
from laconvnet.launch.commands.bench.options import Record
from laconvnet.launch.commands.bench.progress import bar
from laconvnet.pipeline.errors import ConfigError


def shards(
    *,
    pictures: Annotated[int, Arg("images of the set", "N", at_least=1)] = 1000,
    size: Annotated[int, Arg("side of an image", "N")] = 256,
    workers: Annotated[int, Arg("processes of the building", "N", at_least=1)] = 1,
    rounds: Annotated[int | None, Arg("sets each way writes (default: 7)", "N", at_least=1)] = None,
    quick: Annotated[bool, Arg("3 rounds")] = False,
    json: JsonLines = False,
    record: Record = None,
) -> None:
    """Building shards against webdataset's writer.

    Time the building of shards: `laconvnet shards build refcoco` on images generated for it, beside
    webdataset.ShardWriter (the baseline), which writes the same images and JSON texts in the same run, in turn. The
    building also reads the annotations, decodes and checks every image, sums every member and writes index and
    manifest, synced to the disk; the baseline reads the image files and is given texts made before, in one process. A
    row tells the median over rounds in ms an image, the distance of the quartiles, the ratio (baseline's median /
    median) and images a second. Sets are written in the folder of temporary files (TMPDIR).

    For example:
      laconvnet bench shards --quick
    """
    if not 32 <= size <= 1024:
        raise ConfigError(f"command line: --size: {size}: expected 32 to 1024")
    with Measured(json, record) as measured:
        try:
            from laconvnet.launch.commands.bench import building
        except ModuleNotFoundError as error:
            what = f"needs {error.name}, not installed here; pip install {error.name}"
            raise ConfigError(f"bench shards: {what}") from error
        rounds = rounds or (3 if quick else 7)
        with bar(total=2 * (rounds + 1), desc="bench shards", unit="set") as progress:
            measured.add(building.rows(pictures, size, workers, rounds, progress.update))
