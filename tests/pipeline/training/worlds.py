"""The loss of a run on one, two and four processes, step by step, beside what rounding alone makes of it.

    python -m tests.pipeline.training.worlds

prints the table of docs/training.md: fp32, all dropouts on, 20 steps. The control are runs on one process from weights
that begin a unit in the last place elsewhere, see tests/rounding.py.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from laconvnet.shards.build.builder import build
from laconvnet.shards.sources import get
from laconvnet.shards.synthetic import generate
from tests.pipeline.training.ranks import run
from tests.rounding import SEEDS, nudge

HERE = Path(__file__).parent
WORLDS, STEPS, SHOWN = (1, 2, 4), 20, (1, 2, 5, 10, 20)
DROPOUTS = ("--model.filter_dropout", "0.1", "--model.affinity_dropout", "0.1", "--model.language.dropout", "0.1")


def losses(place: Path, data: Path, world: int, by: str = "") -> list[float]:
    folder = place / f"{world}-{by.replace(':', '-')}"
    keys = ["--config", str(HERE / "tiny.yaml"), "--data.folder", str(data), "--schedule.epochs", "3", *DROPOUTS]
    run(world, [str(HERE.parents[1] / "rounding.py"), "train", "--run", str(folder), *keys], NUDGE=by)
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()][:STEPS]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        generate(place / "raw", pictures=40, size=64, progress=False)
        source = get("refcoco")
        samples = source.samples(place / "raw" / "refer", images=None, splits=None, partition=None)
        facts = {"source": "refcoco", "licence": source.licence, "options": {}}
        build(samples, place / "set", **facts, progress=False)  # type: ignore[arg-type]
        found = {world: losses(place, place / "set", world) for world in WORLDS}
        controls = [losses(place, place / "set", 1, nudge(seed)) for seed in SEEDS]
    assert all(len(one) == STEPS for one in (*found.values(), *controls))
    heads = [f"{world} process{'es' if world > 1 else ''}" for world in WORLDS]
    print(f"| step | {' | '.join(heads)} | farthest of them from one process | farthest control |")
    print("|---" * (len(WORLDS) + 3) + "|")
    for step in SHOWN:
        alone = found[1][step - 1]
        apart = max(abs(one[step - 1] / alone - 1) for one in found.values())
        control = max(abs(one[step - 1] / alone - 1) for one in controls)
        shown = " | ".join(f"{one[step - 1]:.7g}" for one in found.values())
        print(f"| {step} | {shown} | {apart:.1e} | {control:.1e} |")


if __name__ == "__main__":
    main()
