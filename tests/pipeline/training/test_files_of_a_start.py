"""What the ranks of a node ask of the file system for their set, from the start until their last step."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from laconvnet.shards.format.manifest import Manifest
from tests.pipeline.training.ranks import run

TINY = Path(__file__).resolve().parent / "tiny.yaml"
WORLD = 2
# Python tells an audit hook of every file that it opens; of a look at one (stat) it tells nobody.
_TRAINED = """
import json, os, sys
from pathlib import Path
opened, looked_at = [], []
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str | bytes):
        opened.append(os.fsdecode(arguments[0]))
sys.addaudithook(hook)
stat = os.stat
def counted(path, *arguments, **options):
    if isinstance(path, str | os.PathLike):
        looked_at.append(os.fspath(path))
    return stat(path, *arguments, **options)
os.stat = counted
from laconvnet.pipeline import config
from laconvnet.pipeline.training.loop import train
words = ["--data.folder", {folder!r}, "--schedule.epochs", "0.5"]
train(config.load(Path({tiny!r}), words), Path({out!r}))
own = [[Path(path).name for path in paths if Path(path).parent == Path({folder!r})] for paths in (opened, looked_at)]
Path({out!r} + "-" + os.environ["RANK"] + ".json").write_text(json.dumps(own))
"""


def test_each_rank_opens_each_file_of_the_set_once_and_one_looks_at_the_shards(refcoco: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(WORLD, ["-c", _TRAINED.format(folder=str(refcoco), tiny=str(TINY), out=str(out))])
    shards = {path.name for path in Manifest.open(refcoco).shard_paths}
    assert len(shards) > 2
    for rank in range(WORLD):
        names: list[list[str]] = json.loads((tmp_path / f"run-{rank}.json").read_text())
        opened, looked_at = Counter(names[0]), Counter(names[1])
        tables = {name for name in opened if not name.startswith("shard-")}
        assert tables == {"manifest.arrow", "examples.arrow", "counts.arrow"}  # by C++ what else is read
        assert {opened[name] for name in tables} == {1}
        assert opened.keys() - tables <= shards
        assert opened.keys() - tables, "images come from there"
        assert max(opened.values()) == 1
        assert {name for name in looked_at if name in shards} == (shards if rank == 0 else set())
        assert {looked_at[name] for name in shards} == {1 if rank == 0 else 0}
