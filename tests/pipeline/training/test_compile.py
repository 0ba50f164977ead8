"""`engine.compile` compiles the model, changes nothing but rounding, and leaves no trace in checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

from laconvnet.pipeline.training import checkpoint
from tests.pipeline.training.ranks import run
from tests.rounding import SEEDS, assert_rounding, nudge

HERE = Path(__file__).parent


def trained(place: Path, folder: Path, refcoco: Path, *keys: str, **environment: str) -> tuple[list[float], int]:
    """The losses of one start, and how many graphs it has compiled."""
    place.mkdir()
    command = ["train", "--run", str(folder), "--config", str(HERE / "tiny.yaml"), "--data.folder", str(refcoco)]
    small = ["--data.size", "32", "--schedule.epochs", "0.7", "--checkpoint.every", "3", "--checkpoint.keep", "9"]
    # Not inductor: it takes minutes, and what it makes of a graph is not ours to test.
    environment |= {"WATCHED": str(place), "BACKEND": "aot_eager"}
    expected = 130 if "STOP_AFTER" in environment else 0
    run(1, [str(HERE / "watched.py"), *command, *small, *keys], expected, **environment)
    rows = [json.loads(line) for line in (place / "rank-0.jsonl").read_text().splitlines()]
    return [float.fromhex(row["loss"]) for row in rows if "step" in row], rows[-1]["graphs"]


def test_a_compiled_run_is_the_eager_one_and_goes_on_without_it(tmp_path: Path, refcoco: Path) -> None:
    eager, none = trained(tmp_path / "1", tmp_path / "eager", refcoco)
    folder = tmp_path / "compiled"
    compiled, graphs = trained(tmp_path / "2", folder, refcoco, "--engine.compile", "true", STOP_AFTER="3:SIGTERM")
    assert (none, graphs > 0) == (0, True)
    ours, theirs = (checkpoint.read(checkpoint.folder_of(tmp_path / name, 3))[0] for name in ("eager", "compiled"))
    for part in ("model", "ema", "moments"):
        assert ours[part].keys() == theirs[part].keys()
    after, none = trained(tmp_path / "3", folder, refcoco)
    assert none == 0
    nudges = {f"nudge-{seed}": nudge(seed) for seed in SEEDS}
    controls = [trained(tmp_path / name, tmp_path / f"{name}-run", refcoco, NUDGE=by)[0] for name, by in nudges.items()]
    assert_rounding([*compiled, *after], eager, controls)
