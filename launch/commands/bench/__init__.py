"""`laconvnet bench`: measurements on this machine."""

from __future__ import annotations

from typing import Any

from laconvnet.launch import commandline
from laconvnet.launch.commands.bench import bytes, compare, data, infer, kernel, predict, shards, show, train


def add(commands: Any) -> None:
    about = "measurements on this machine", "Measure parts of the pipeline on this machine."
    measurements = kernel.kernel, data.data, shards.shards, train.train, infer.infer, predict.predict, bytes.bytes_
    commandline.group(commands, "bench", *about, *measurements, compare.compare, show.show)
