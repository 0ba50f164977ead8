"""What the trackers of a run have kept of it, read by a process that had no part in it: JSON on standard output.

    python told.py RUN

``wandb``: a list of the starts, each with its id, its facts, its points and how many pictures it holds. ``mlflow``: a
list of runs, each with status, parameters, points and pictures. ``tensorboard``: points, pictures and texts.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 32768  # a wandb file is a LevelDB log behind 7 bytes of its own


def records(file: Path) -> Iterator[bytes]:
    data, place, whole = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if _BLOCK - place % _BLOCK < 7:  # no head fits: the block ends in zeros
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # FULL, LAST
            yield whole
            whole = b""


def of_wandb(run: Path) -> Iterator[dict[str, Any]]:
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    for file in sorted(run.glob("wandb/offline-run-*/run-*.wandb")):
        start: dict[str, Any] = {"id": file.stem.removeprefix("run-"), "facts": {}, "points": []}
        for data in records(file):
            record = Record.FromString(data)
            if record.run.run_id:
                start["project"] = record.run.project
            start["facts"] |= {item.key: json.loads(item.value_json) for item in record.config.update}
            if items := record.history.item:
                named = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
                start["points"].append(named)
            if record.HasField("exit"):
                start["exit"] = record.exit.exit_code
        start["pictures"] = len(list(file.parent.glob("files/media/images/**/*.png")))
        yield start


def of_mlflow(run: Path) -> Iterator[dict[str, Any]]:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    from mlflow.tracking import MlflowClient

    client = MlflowClient((run / "mlruns").as_uri())
    for found in client.search_runs([each.experiment_id for each in client.search_experiments()]):
        identity = found.info.run_id
        histories = {name: client.get_metric_history(identity, name) for name in found.data.metrics}
        yield {
            "id": identity,
            "status": found.info.status,
            "facts": found.data.params,
            "points": {name: [(point.step, point.value) for point in points] for name, points in histories.items()},
            "pictures": len(list(run.glob(f"mlruns/*/{identity}/artifacts/images/*.png"))),
        }


def of_tensorboard(run: Path) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    scalars = {name: [(point.step, point.value) for point in events.Scalars(name)] for name in tags["scalars"]}
    return {"points": scalars, "pictures": len(tags["images"]), "texts": tags["tensors"]}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    told = {"wandb": list(of_wandb(place)), "mlflow": list(of_mlflow(place)), "tensorboard": of_tensorboard(place)}
    print(json.dumps(told))
