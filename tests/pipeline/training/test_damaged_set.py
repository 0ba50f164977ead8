"""A bit flipped in a mapped table ends every command in one line and exit code 2; nothing is computed from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from laconvnet.launch import cli
from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.training import checkpoint
from laconvnet.shards.format.manifest import Manifest, meta_fingerprint, read_meta
from tests.pipeline.training import ranks
from tests.shards.version_2 import as_version_2

TINY = ["--config", str(Path(__file__).parent / "tiny.yaml")]
# Nothing is compared before it is used, as in a set of many millions of examples.
LARGE = """
import sys
from laconvnet.launch import cli
from laconvnet.shards.format import tables
tables.WHOLE_BYTES = 0
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def run(refcoco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on the whole set."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    ranks.train(1, folder, [*TINY, "--data.folder", str(refcoco)])
    return folder


@pytest.fixture
def copy(refcoco: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(refcoco, tmp_path / "copy"))


def flip(file: Path, what: str, row: int = 0) -> None:
    """Change a bit of a mapped table: in a buffer ("text values"), or in its "schema" or "footer"."""
    data = bytearray(file.read_bytes())
    if what in ("schema", "footer"):
        at = 40 if what == "schema" else len(data) - 40
    else:
        name, buffer = what.split()
        whole = pa.py_buffer(bytes(data))
        with pa.ipc.open_file(whole) as reader:
            found = reader.get_batch(0)[name].buffers()[{"validity": 0, "offsets": 1, "values": -1}[buffer]]
        at = found.address - whole.address + row
    data[at] ^= 4
    file.write_bytes(data)


def losses(run: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in map(json.loads, (run / "log.jsonl").read_text().splitlines())}


def last_state(run: Path) -> dict[str, object]:
    newest = checkpoints.newest(run)
    assert newest is not None
    return dict(checkpoint.read(newest)[0])


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("examples", "text values"),
        ("examples", "text offsets"),
        ("examples", "answer validity"),
        ("examples", "item_id values"),  # which training never reads
        ("examples", "sample values"),
        ("examples", "schema"),
        ("examples", "footer"),
        ("manifest", "key values"),
        ("manifest", "footer"),
    ],
)
def test_every_command_refuses_a_damaged_table(
    copy: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, what: str
) -> None:
    file = copy / f"{name}.arrow"
    flip(file, what)
    out = str(tmp_path / "eval.json")
    commands = (
        ["eval", str(run), "--data", str(copy), "--split", "val", "--out", out],
        ["shards", "verify", str(copy)],
        ["shards", "info", str(copy)],
        ["shards", "pretrain-set", "--inputs", str(copy), "--out", str(tmp_path / "merged")],
    )
    outputs = ranks.train(1, tmp_path / "run", [*TINY, "--data.folder", str(copy)], expected=2)
    for command in commands:
        capsys.readouterr()
        assert cli.main(command) == 2
        outputs.append(capsys.readouterr().err)
    for output in outputs:
        (line,) = [line for line in output.splitlines() if line.startswith("laconvnet: ")]
        assert output.splitlines()[-1] == line
        assert str(file) in line
        assert "checksum" in line
    assert not list(tmp_path.glob("eval.json*"))
    assert not (tmp_path / "merged").exists()
    assert not list((tmp_path / "run").glob("step-*"))


@pytest.mark.parametrize("what", ["text values", "h values", "y values", "sample values"])
def test_damage_in_a_large_set_ends_training_where_it_is_met(copy: Path, tmp_path: Path, what: str) -> None:
    """Heights of boxes are first read with the first batch, on a thread of the loader."""
    flip(copy / "examples.arrow", what, 2)
    arguments = ["train", "--run", str(tmp_path / "run"), *TINY, "--data.folder", str(copy)]
    (output,) = ranks.run(1, ["-c", LARGE, *arguments], expected=2)
    assert f"column {what.split()[0]!r} in batch 0" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert not (tmp_path / "run" / "log.jsonl").exists() or losses(tmp_path / "run") == {}


def test_a_large_set_trains_to_the_same_losses(refcoco: Path, run: Path, tmp_path: Path) -> None:
    arguments = ["train", "--run", str(tmp_path / "run"), *TINY, "--data.folder", str(refcoco)]
    ranks.run(1, ["-c", LARGE, *arguments])
    assert losses(tmp_path / "run") == losses(run)


def test_a_checkpoint_names_the_checksums_that_were_compared(run: Path, refcoco: Path) -> None:
    meta = read_meta(refcoco)
    assert last_state(run)["data"] == meta_fingerprint(meta)
    meta["tables"]["examples.arrow"]["columns"]["text"] = "0" * 16
    assert last_state(run)["data"] != meta_fingerprint(meta)


def test_a_run_on_a_set_of_version_2_goes_on(copy: Path, run: Path, tmp_path: Path) -> None:
    as_version_2(copy)
    arguments = [*TINY, "--data.folder", str(copy)]
    (output,) = ranks.train(1, tmp_path / "run", arguments)
    assert sum("version 2" in line for line in output.splitlines()) == 1
    assert last_state(tmp_path / "run")["data"] == Manifest.open(copy).fingerprint
    whole = losses(tmp_path / "run")
    assert whole == losses(run) != {}
    steps = sorted(checkpoints.published(tmp_path / "run"))
    assert len(steps) > 1
    (steps[-1] / "COMMIT").unlink()
    (output,) = ranks.train(1, tmp_path / "run", arguments)
    assert f"beginning at step {int(steps[-2].name.removeprefix('step-'))}" in output
    assert losses(tmp_path / "run") == whole
